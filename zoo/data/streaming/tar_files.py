"""Tar shards of WebDataset: the files of an example share their name up to the first dot."""

from __future__ import annotations

import json
import re
import shlex
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from zoo.data.examples import IMAGE_SUFFIXES
from zoo.data.local_files import open_file
from zoo.data.streaming.shards import ROWS, Shard, naming
from zoo.data.table import Table

SUFFIXES = (".tar", ".tar.gz", ".tgz")
LARGEST = 1_000_000_000
"""Bytes of a file in a shard."""
TEXTS, LABELS = ("txt", "text"), ("cls", "label", "cls.txt")
"""Extensions of texts and of labels, as WebDataset uses them."""
DIGITS = re.compile(r"-?[0-9]{1,18}")


def shard(path: Path) -> Shard:
    """Return the shard of a tar file."""

    def tables(skip: int, columns: Sequence[str] | None) -> Iterator[Table]:
        rows: list[dict[str, Any]] = []
        keys: list[str] = []
        for number, (key, row) in enumerate(_samples(path, columns, skip)):
            if number < skip:
                continue
            rows.append(row)
            keys.append(key)
            if len(rows) == ROWS:
                yield _table(path, rows, keys)
                rows, keys = [], []
        if rows:
            yield _table(path, rows, keys)

    return Shard(str(path), tables)


def _table(path: Path, rows: list[dict[str, Any]], keys: list[str]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return Table(
        names, len(rows), lambda name: [row.get(name) for row in rows], str(path), keys, path.parent, part=True
    )


def _samples(path: Path, columns: Sequence[str] | None, skip: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the key and the columns of each example; files of other columns, and of examples to skip, are not read."""
    key, count = "", 0
    row: dict[str, Any] = {}
    fix = f"fetch it again, or leave it out; tar tf {shlex.quote(str(path))} lists its files"
    with (
        open_file(path) as raw,
        naming(lambda: f"{path}, row {count + 1} ({key or 'its first'}),", fix),
        tarfile.open(fileobj=raw) as archive,
    ):
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # or the list grows with the archive
            if not member.isreg() or PurePosixPath(member.name).name.startswith("."):
                continue
            name, extension = _key(member.name)
            if name != key and row:
                yield key, row
                count, row = count + 1, {}
            key = name
            row |= {"": None} if count < skip else _columns(archive, member, extension, columns)
        if row:
            yield key, row


def _key(name: str) -> tuple[str, str]:
    """Split the name of a file at the first dot behind its folder, as WebDataset does."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _columns(
    archive: tarfile.TarFile, member: tarfile.TarInfo, extension: str, columns: Sequence[str] | None
) -> dict[str, Any]:
    """Return the columns that a file holds: image, text, label, those of a JSON object, else its bytes by extension."""
    if extension == "json":
        found = json.loads(_content(archive, member))
        return {str(name): value for name, value in found.items()} if isinstance(found, dict) else {"json": found}
    is_image = f".{extension.rpartition('.')[2]}" in IMAGE_SUFFIXES
    name = "image" if is_image else "text" if extension in TEXTS else "label" if extension in LABELS else extension
    if columns is not None and name not in columns:
        return {name: None}
    content = _content(archive, member)
    if name == "text":
        return {name: content.decode()}
    if name == "label":
        text = content.decode().strip()
        return {name: int(text) if DIGITS.fullmatch(text) else text}
    return {name: content}


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > LARGEST:
        raise ValueError(f"{member.name} has {member.size:,} bytes, and the limit is {LARGEST:,}")
    file = archive.extractfile(member)
    content = b"" if file is None else file.read()
    if len(content) < member.size:
        raise EOFError(f"{member.name} is cut short")
    return content
