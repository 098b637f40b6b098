"""Open image files: an allow-list of formats, and limits on the memory and the work of decoding.

Pillow also opens formats that run other programs (EPS starts Ghostscript), so only those of FORMATS are tried.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from zoo.data.local_files import open_file
from zoo.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = (
    *("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000", "DIB", "ICO", "PCX"),
    "TGA",  # the last one: it has no signature
)
"""Formats that are decoded, whatever the suffix of a file; MPO is read as JPEG."""
MAX_BYTES = 1_250_000_000
"""Memory that decoding one image may take: a PNG of a few kB can expand to gigabytes (decompression bomb)."""
MAX_FILE_BYTES = 1_000_000_000
"""Maximum size of a file: some decoders read it into memory."""
CORE_BYTES = 256_000_000
"""Memory of all decoding threads together, for each core; at least MAX_BYTES."""
PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Bytes per pixel that Pillow keeps of a mode; 4 of all others."""
DECODER_BYTES = {"AVIF": 12, "JPEG2000": 16, "TIFF": 4, "WEBP": 12}
"""Bytes per pixel of a decoder's own buffers, as measured; a progressive JPEG takes two for each coefficient."""
OUTPUT_BYTES = 4
"""Bytes per pixel of the image converted to RGB."""
MAX_SCANS = 100
"""Scans of a JPEG, 10 in usual progressive files: each costs a pass over the whole image."""
START_OF_SCAN = b"\xff\xda"


class Budget:
    """Bytes that threads share; `take` waits until enough of them are free."""

    def __init__(self, size: int) -> None:
        self.free = size
        self.changed = threading.Condition()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Hold `size` bytes, at most the whole budget, within the block."""
        with self.changed:
            self.changed.wait_for(lambda: size <= self.free)
            self.free -= size
        try:
            yield
        finally:
            with self.changed:
                self.free += size
                self.changed.notify_all()


BUDGET = Budget(max(MAX_BYTES, CORE_BYTES * (os.cpu_count() or 1)))


@contextmanager
def decoded(item: Any, name: str) -> Iterator[Image]:
    """Open a path, the bytes of a file or a PIL image within limits, and decode its first frame.

    The EXIF orientation of files is applied. Raises DataError for a format or a size that is not allowed; the errors of
    Pillow for a damaged image are those of `refusal`.
    """
    from PIL import Image, ImageOps

    with ExitStack() as stack:
        image: Any = item
        if not isinstance(item, Image.Image):
            file = io.BytesIO(item) if isinstance(item, bytes) else stack.enter_context(open_file(item))
            if (length := file.seek(0, os.SEEK_END)) > MAX_FILE_BYTES:
                raise _too_large(name, f"a file of {length:,} bytes")
            file.seek(0)
            image = stack.enter_context(Image.open(file, formats=_formats()))
            _check_scans(image, file, name)
        elif image.format not in (None, "MPO", *FORMATS):
            fix = f"use one of {', '.join(FORMATS)}, or pass image.copy() if you trust it"
            raise DataError(f"{name} has the format {image.format}, which is not decoded", fix=fix)
        if image.format is not None:
            stack.enter_context(BUDGET.take(_fit(image, name)))
            image.load()
            _memory(image, name)  # an ICO can hold an image of another size
        if image is not item:
            ImageOps.exif_transpose(image, in_place=True)
        yield image


def refusal(name: str, error: Exception) -> DataError:
    """Return the DataError for an error of decoding, of whatever type: decoders raise nearly all of them."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, Image.DecompressionBombError):
        return _too_large(name, str(error))
    if isinstance(error, UnidentifiedImageError):
        return DataError(f"{name} is not a readable image ({', '.join(FORMATS)})", fix=skip_hint(name))
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return DataError(f"{name} is damaged: {said:.200}", fix=skip_hint(name))


def skip_hint(name: str) -> str:
    """Return the fix for an image that cannot be used."""
    return f"replace or remove {name}, or let fine-tuning skip unreadable images: skip_bad=true"


@cache
def _formats() -> tuple[str, ...]:
    """Return the formats that this version of Pillow knows, and silence its warnings, which name no file."""
    from PIL import Image

    warnings.filterwarnings("ignore", module=r"PIL\.")
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_scans(image: Image, file: Any, name: str) -> None:
    """Raise DataError for a JPEG of too many scans; a marker is never part of the data of a scan."""
    if image.format not in ("JPEG", "MPO"):
        return
    place = file.tell()
    file.seek(0)
    scans = sum(block.count(START_OF_SCAN) for block in iter(lambda: file.read(1 << 20), b""))
    file.seek(place)
    if scans > MAX_SCANS:
        raise DataError(f"{name} has {scans:,} scans; the limit is {MAX_SCANS}", fix=skip_hint(name))


def _fit(image: Any, name: str) -> int:
    """Return the bytes that decoding takes; a JPEG beyond the limit is decoded at 1/2, 1/4 or 1/8 of its size."""
    if image.format not in ("JPEG", "MPO"):
        return _memory(image, name)
    pixels, coefficients = image.width * image.height, 2 * len(image.getbands())
    for scale in (1, 2, 4, 8):
        size = pixels * coefficients + pixels * (4 + OUTPUT_BYTES) // scale**2
        if size <= MAX_BYTES:
            if scale > 1:
                image.draft(None, (image.width // scale, image.height // scale))
            return int(size)
    raise _too_large(name, f"{image.width} x {image.height} pixels ({image.mode}, {image.format})")


def _memory(image: Any, name: str) -> int:
    """Return the bytes that decoding and conversion take; raises DataError beyond MAX_BYTES."""
    pixel = PIXEL_BYTES.get(image.mode, 4) + OUTPUT_BYTES + DECODER_BYTES.get(str(image.format), 0)
    size: int = image.width * image.height * pixel
    if size > MAX_BYTES:
        raise _too_large(name, f"{image.width} x {image.height} pixels ({image.mode}, {image.format})")
    return size


def _too_large(name: str, found: str) -> DataError:
    return DataError(
        f"{name} is too large to decode safely: {found}; the limit is {MAX_BYTES / 1e9:g} GB",
        fix=f"shrink it with an image editor, or {skip_hint(name)}",
    )
