"""Hostile pictures: other formats, bombs, damage, special files and links."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pictures
from PIL import Image

from hostile.case import Case

PRELOAD = ("zoo_native", "PIL.ImageOps", "PIL.AvifImagePlugin", "PIL.TiffImagePlugin")
COMMAND = ["finetune", "tiny/net", "data", "--set", "strategy=scratch", "--set", "steps=1", "--out", "run"]
KEEPS = ("store/cache/decoded/*", "run/*")
FOREIGN = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n",
    "EPS of DOS": b"\xc5\xd0\xd3\xc6"
    + struct.pack("<II", 30, 90)
    + bytes(18)
    + b"%!PS-Adobe-3.0\n%%BoundingBox: 0 0 9 9\n",
    "PDF": b"%PDF-1.4\n1 0 obj<<>>endobj\n%%EOF",
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(60),
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(40),
    "DDS": b"DDS " + struct.pack("<7I", 124, 7, 9, 9, 0, 0, 0) + bytes(200),
    "BLP": b"BLP2" + bytes(200),
    "FITS": b"SIMPLE  =                    T".ljust(2880),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(90),
    "XPM": b'/* XPM */\nstatic char *a[] = {"9 9 1 1", "a c #ffffff"};',
    "QOI": b"qoif" + struct.pack(">II", 9, 9) + b"\3\0" + bytes(40),
    "ICNS": b"icns" + struct.pack(">I", 16) + b"ic07" + struct.pack(">I", 8),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "HTML": b"<html><img src=x onerror=alert(1)>",
    "zip": b"PK\3\4" + bytes(60),
    "pickle": b"\x80\4\x95" + bytes(60),
    "text": b"not an image",
    "nothing": b"",
    "zeros": bytes(4096),
}
"""Content of files that are called .png."""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(side: int, bits: int = 8, colour: int = 0, pixels: bytes = b"") -> bytes:
    """Return a PNG of `side` x `side` pixels, of which `pixels` are given."""
    header = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(side: int, bits: int, samples: int) -> bytes:
    """Return a TIFF of `side` x `side` pixels without any data."""
    tags = [(256, 4, side), (257, 4, side), (258, 3, bits), (259, 3, 1), (262, 3, 2 if samples > 2 else 1)]
    tags += [(273, 4, 8), (277, 3, samples), (278, 4, side), (279, 4, 4)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)


def encoded(form: str, mode: str = "RGB", size: int = 40, **options: object) -> bytes:
    """Return an image in a format."""
    buffer = io.BytesIO()
    image = Image.frombytes("RGB", (size, size), random.Random(0).randbytes(3 * size * size)).convert(mode)
    image.save(buffer, form, **options)
    return buffer.getvalue()


def jpeg_of_many_scans() -> bytes:
    """Return a progressive JPEG of 9,000 x 9,000 pixels whose last scan is repeated 50,000 times without data."""
    buffer = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last : last + 10] * 50_000 + b"\xff\xd9"


def icon(side: int) -> bytes:
    """Return an ICO of 16 x 16 pixels, by its directory, with a larger PNG."""
    inner = png(side, colour=6)
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner), 22) + inner


BOMBS: dict[str, Callable[[], bytes]] = {
    "grey PNG": lambda: png(17_000),
    "grey PNG of 60,000 pixels": lambda: png(60_000),
    "RGB PNG of 16 bits": lambda: png(13_300, 16, 2),
    "RGBA PNG": lambda: png(13_300, 8, 6),
    "RGBA TIFF": lambda: tiff(12_900, 8, 4),
    "float TIFF": lambda: tiff(12_900, 32, 1),
    "ICO": lambda: icon(14_000),
    "BMP": lambda: b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 50_000, 50_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "GIF": lambda: b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b";",
    "PPM": lambda: b"P6 100000 100000 255\n",
    "PCX": lambda: b"\x0a\5\1\x08" + struct.pack("<HHHH", 0, 0, 65_000, 65_000) + bytes(116),
    "TGA": lambda: struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 65_000, 65_000, 24, 0),
    "JPEG of 50,000 scans": jpeg_of_many_scans,
}
FORMATS = {
    **{"AVIF": ("RGB", "RGBA"), "BMP": ("RGB", "L"), "GIF": ("P",), "ICO": ("RGBA",), "JPEG": ("RGB", "CMYK", "L")},
    **{"JPEG2000": ("RGB", "LA"), "PCX": ("RGB", "P"), "PNG": ("RGBA", "P", "I;16"), "PPM": ("RGB",)},
    **{"TGA": ("RGB",), "TIFF": ("RGB", "CMYK", "F"), "WEBP": ("RGB", "RGBA")},
}
"""Format -> modes that are damaged."""


def damaged() -> Iterator[tuple[str, bytes]]:
    """Yield files cut in the middle, with zeros or with noise in it."""
    for form, modes in FORMATS.items():
        for mode in modes:
            content = encoded(form, "L" if mode == "I;16" else mode)
            for what, start in (("cut in the header", 20), ("cut in the middle", len(content) // 2)):
                yield f"{mode} {form} {what}", content[:start]
            noise = random.Random(form + mode)
            for where in ("header", "middle"):
                changed = bytearray(content)
                for _ in range(8):
                    end = 60 if where == "header" else len(content)
                    changed[noise.randrange(12, min(end, len(content)))] = noise.randrange(256)
                yield f"{mode} {form} with noise in the {where}", bytes(changed)
    yield "LAB TIFF", lab()


def lab() -> bytes:
    """Return a TIFF in the colour mode LAB."""
    buffer = io.BytesIO()
    Image.new("LAB", (9, 9)).save(buffer, "TIFF")
    return buffer.getvalue()


def beside_good(folder: Path, name: str, content: bytes) -> None:
    """Write a folder of three classes, and a file into the first one."""
    pictures.catalogue(folder)
    pictures.folder(folder / "data", 3)
    (folder / "data" / "blue" / name).write_bytes(content)


def refused(name: str, content: Callable[[], bytes], says: str = "", **more: bool) -> Case:
    """Return a case with one file of this content."""

    def prepare(folder: Path) -> list[str]:
        beside_good(folder, "bad.png", content())
        return COMMAND

    return Case(name, prepare, says or "bad.png", **more)


def arranged(name: str, arrange: Callable[[Path], object], says: str, **more: bool) -> Case:
    """Return a case whose folder `data/blue` is changed by `arrange`."""

    def prepare(folder: Path) -> list[str]:
        beside_good(folder, "good.txt", b"")
        arrange(folder / "data" / "blue")
        return COMMAND

    return Case(name, prepare, says, **more)


def skipped(folder: Path) -> list[str]:
    """Everything that cannot be read beside good images, and skip_bad."""
    beside_good(folder, "empty.png", b"")
    several = {**FOREIGN, **{name: make() for name, make in BOMBS.items() if "JPEG" not in name}, **dict(damaged())}
    for number, content in enumerate(several.values()):
        (folder / "data" / "red" / f"bad{number}.png").write_bytes(content)
    os.mkfifo(folder / "data" / "red" / "pipe.png")
    (folder / "data" / "red" / "device.png").symlink_to("/dev/zero")
    return [*COMMAND, "--set", "skip_bad=true"]


def large(name: str, content: Callable[[], bytes]) -> Case:
    """Return a case with a file just within the limits, which is decoded."""

    def prepare(folder: Path) -> list[str]:
        beside_good(folder, "large.png", content())
        return COMMAND

    return Case(f"a large file: {name}", prepare, code=0, keeps=KEEPS, heavy=True)


def plain(form: str, mode: str, size: int, **options: object) -> bytes:
    """Return an image of one colour in a format."""
    buffer = io.BytesIO()
    Image.new(mode, (size, size)).save(buffer, form, **options)
    return buffer.getvalue()


LARGE: dict[str, Callable[[], bytes]] = {
    "grey PNG of 16 bits": lambda: png(13_000, 16, 0, bytes(13_000 * 26_001)),
    "RGBA PNG": lambda: png(11_000, 8, 6, bytes(11_000 * (4 * 11_000 + 1))),
    "progressive JPEG": lambda: plain("JPEG", "RGB", 13_000, progressive=True),
    "CMYK JPEG": lambda: plain("JPEG", "CMYK", 11_000, progressive=True),
    "RGBA TIFF": lambda: plain("TIFF", "RGBA", 10_000, compression="tiff_lzw"),
    "WebP": lambda: plain("WEBP", "RGBA", 7_800, lossless=True, method=0),
    "AVIF": lambda: plain("AVIF", "RGBA", 7_800, speed=10),
    "JPEG 2000": lambda: plain("JPEG2000", "RGBA", 4_500),
}


def read_only(folder: Path) -> list[str]:
    """A store that nobody can write, and a cache that nobody can read."""
    beside_good(folder, "good.txt", b"")
    (folder / "store" / "cache").mkdir(parents=True)
    (folder / "store" / "cache").chmod(0)
    (folder / "store").chmod(0o500)
    return COMMAND


def ghostscript(folder: Path) -> list[str]:
    """An EPS, and a Ghostscript that leaves a file behind."""
    beside_good(folder, "bad.png", FOREIGN["EPS"])
    (folder / "bin").mkdir()
    (folder / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {folder}/ghostscript-ran\n")
    (folder / "bin" / "gs").chmod(0o700)
    os.environ["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
    return COMMAND


def sparse(start: bytes) -> Callable[[Path], None]:
    """Return a function that writes a file of 100 GB that takes no space on the disk."""

    def write(folder: Path) -> None:
        with (folder / "bad.png").open("wb") as file:
            file.write(start)
            file.truncate(100_000_000_000)

    return write


ARRANGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link to the parent": (lambda blue: (blue / "up").symlink_to(".."), "several labels"),
    "a link to the root": (lambda blue: (blue / "up").symlink_to("/"), "several labels"),
    "a link to another class": (lambda blue: (blue / "more").symlink_to("../red"), "several labels"),
    "a class that is a link to another": (lambda blue: (blue.parent / "azure").symlink_to("blue"), "as well"),
    "a link to itself": (lambda blue: (blue / "bad.png").symlink_to("bad.png"), "cannot be read: too many levels"),
    "a link to nothing": (lambda blue: (blue / "bad.png").symlink_to("gone"), "does not exist"),
    "a file without permission": (lambda blue: (blue / "000.png").chmod(0), "cannot be read: permission denied"),
    "a folder without permission": (lambda blue: blue.chmod(0), "cannot be read: permission denied"),
    "a pipe": (lambda blue: os.mkfifo(blue / "bad.png"), "is not a regular file"),
    "a link to a device": (lambda blue: (blue / "bad.png").symlink_to("/dev/zero"), "is not a regular file"),
    "100 GB of zeros": (sparse(b""), "a file of 100,000,000,000 bytes"),
    "a JPEG of 100 GB": (sparse(encoded("JPEG")), "a file of 100,000,000,000 bytes"),
    "a WebP of 100 GB": (sparse(encoded("WEBP")), "a file of 100,000,000,000 bytes"),
    "an escape in a name": (lambda blue: (blue / "\x1b[31m\u202e\n.png").write_bytes(b"x"), "not a readable image"),
    "a name that is no UTF-8": (lambda blue: (blue / os.fsdecode(b"\xff\xfe.png")).write_bytes(b"x"), "not a readable"),
}
IN_SUITE = {
    "bomb: RGBA PNG",
    "LAB TIFF",
    "a link to the parent",
    "a file without permission",
    "a JPEG of 100 GB",
    "an escape in a name",
}
CASES = [
    Case("EPS does not start Ghostscript", ghostscript, "is not a readable image"),
    Case("skip_bad leaves out everything unreadable", skipped, code=0, keeps=KEEPS, heavy=True),
    Case("fine-tuning with a read-only store", read_only, code=0, keeps=KEEPS, heavy=True),
    refused("LAB TIFF", lab, "colour mode LAB"),
    *(refused(f"{name} called .png", lambda name=name: FOREIGN[name], heavy=True) for name in FOREIGN),
    *(refused(f"bomb: {name}", make, heavy=f"bomb: {name}" not in IN_SUITE) for name, make in BOMBS.items()),
    *(large(name, content) for name, content in LARGE.items()),
    *(arranged(name, arrange, says, heavy=name not in IN_SUITE) for name, (arrange, says) in ARRANGED.items()),
]
