"""Groups of examples that a split should not divide, read from names of files, cameras and subjects of mails.

A table has a column for them; a folder has names: the frames clip3_001.png and clip3_002.png are of one clip.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

from zoo.data.examples import Examples
from zoo.errors import DataError

COUNTER = re.compile(r"[\s_.(-]*\d+\)?$")
"""Running number at the end of a name: frame_0012, frame-12, frame (12)."""
SUBJECT = re.compile(r"^subject:[ \t]*(.*)$", re.IGNORECASE | re.MULTILINE)
REPLY = re.compile(r"^(\s*(re|fw|fwd|aw|wg|sv|tr)(\[\d+\])?\s*:|\s*\[[^\]\n]{1,40}\])+\s*", re.IGNORECASE)
"""What mail programs and mailing lists put before a subject: Re:, Fwd:, [list]."""
LONGEST_SUBJECT, FEWEST_LETTERS = 200, 6
"""Characters of a first line that may be a subject; letters below which a subject names no thread ("hi")."""
EXIF_IFD, SERIAL, OWNER = 0x8769, 0xA431, 0xA430
"""EXIF: the sub-directory, the serial number of the camera and its owner (Exif 2.31, section 4.6.5)."""
MAKE, MODEL = 0x010F, 0x0110


def derive(name: str, examples: Examples) -> list[str]:
    """Return the group of each example, named by "@file-name", "@camera" or "@thread".

    An example without any is a group of its own. Raises DataError for an unknown name, and where no group has two
    examples.
    """
    if name not in DERIVED:
        known = ", ".join(DERIVED)
        raise DataError(f"groups={name!r} is none of {known}", fix="--groups @file-name, or the name of a column")
    found = DERIVED[name](examples)
    if len(set(found) - {""}) == len([group for group in found if group]):
        what = f"{name}: no two examples of {examples.origin} belong together"
        raise DataError(what, fix="leave out --groups, or name the column of a table")
    return [group or f"\0{index}" for index, group in enumerate(found)]


def by_file_name(examples: Examples) -> list[str]:
    """Return what the name of each file shares with others but for its running number; "" without a number or file.

    If files of different folders have equal names, such as 1.png, the folder is a part of the name.
    """
    paths = [_path(item) for item in (examples.files or examples.inputs)]
    named = [path for path in paths if path is not None]
    per_folder = len({path.name for path in named}) < len(named)
    found = []
    for path in paths:
        stem = "" if path is None else path.stem
        shared = COUNTER.sub("", stem)
        counted = path is not None and shared != stem
        found.append((f"{path.parent}/{shared}" if per_folder else f"/{shared}") if path and counted else "")
    return found


def by_camera(examples: Examples) -> list[str]:
    """Return the camera of each image file by its EXIF data: make, model, serial number and owner; "" without any."""
    return [_camera(path) if path else "" for path in map(_path, examples.inputs)]


def by_thread(examples: Examples) -> list[str]:
    """Return the subject of each mail without "Re:" and names of lists, in lower case; "" for texts without one.

    It is the header "Subject:", or else the first of several lines.
    """
    return [_subject(item) if isinstance(item, str) else "" for item in examples.inputs]


DERIVED: dict[str, Callable[[Examples], list[str]]] = {
    "@file-name": by_file_name,
    "@camera": by_camera,
    "@thread": by_thread,
}
"""Values of `groups` that are not the name of a column."""


def _path(item: Any) -> PurePath | None:
    return PurePath(item) if isinstance(item, os.PathLike) else None


def _camera(path: PurePath) -> str:
    from PIL import Image

    try:
        with Image.open(path) as image:
            exif = image.getexif()
            inner = exif.get_ifd(EXIF_IFD)
    except Exception:  # noqa: BLE001  # decoders raise nearly all types; what is unreadable is reported elsewhere
        return ""
    values: Sequence[Any] = (exif.get(MAKE), exif.get(MODEL), inner.get(SERIAL), inner.get(OWNER))
    return " ".join(str(value).strip("\0 ") for value in values if value)


def _subject(text: str) -> str:
    header = SUBJECT.search(text[:10_000])
    first, _, rest = text.partition("\n")
    line = header.group(1) if header else first if rest.strip() and len(first) <= LONGEST_SUBJECT else ""
    subject = " ".join(REPLY.sub("", line).lower().split())
    return subject if sum(map(str.isalpha, subject)) >= FEWEST_LETTERS else ""
