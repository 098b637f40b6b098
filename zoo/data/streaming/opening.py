"""Open data as a stream: tar and Parquet files, patterns of names, datasets of the Hub, iterables and functions."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.data.examples import TRAIN, VALID
from zoo.data.local_files import missing
from zoo.data.streaming import iterables, parquet_files, tar_files
from zoo.data.streaming.shards import Shard, Source
from zoo.errors import DataError

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
FILES = (*tar_files.SUFFIXES, ".parquet")
MOST_FILES = 1_000_000
FIX = 'write the names as "shards/train-{000..099}.tar", or "shards/*.parquet"'


def is_stream(data: object) -> bool:
    """Return whether data can only be a stream: tar files, a pattern, a folder of shards, iterable data, a function.

    A folder with one table for each split, such as train.parquet, is not.
    """
    if isinstance(data, str | os.PathLike):
        text = os.path.expanduser(data)
        if os.path.isdir(text):
            paths = [path for part in _split_of_folder(Path(text)).values() for path in part]
            return bool(paths) and not {path.stem for path in paths} & {*TRAIN, *VALID}
        return text.endswith(tar_files.SUFFIXES) or (text.endswith(".parquet") and not os.path.lexists(text))
    if type(data).__module__.startswith("datasets."):
        return any(not hasattr(part, "__len__") for part in (data.values() if hasattr(data, "values") else [data]))
    return callable(data) and not hasattr(data, "__getitem__") and not hasattr(data, "__iter__")


def splits(data: object) -> dict[str, Source]:
    """Return the parts of streamed data by name; {"train": …} if it has no others.

    Raises DataError for data that cannot be read more than once, or of another type.
    """
    if isinstance(data, str) and data.startswith("hf:"):
        from zoo.store import hub_datasets

        found = hub_datasets.stream(data)
        return {
            name: iterables.of_dataset(part, f"{data}[{name}]", key, is_fixed=True)
            for name, (part, key) in found.items()
        }
    if isinstance(data, str | os.PathLike):
        return _of_files(os.path.expanduser(data))
    if type(data).__module__.startswith("datasets."):
        parts = data if isinstance(data, Mapping) else {"train": data}
        return {name: _of_dataset(part, name) for name, part in parts.items()}
    if callable(data):
        return {"train": iterables.of_function(data, f"{getattr(data, '__name__', type(data).__name__)}()")}
    if hasattr(data, "__iter__") and not hasattr(data, "__next__"):
        return {"train": iterables.of_function(data.__iter__, f"a {type(data).__name__}")}
    what = f"{type(data).__name__} can be read once only" if hasattr(data, "__next__") else type(data).__name__
    raise DataError(
        f"data of this type cannot be streamed: {what}",
        fix="pass a function that returns a new iterator of (input, label) each time: finetune(lambda: read())",
    )


def _of_dataset(part: Any, name: str) -> Source:
    if hasattr(part, "__len__"):
        part = part.to_iterable_dataset()
    return iterables.of_dataset(
        part, f"an IterableDataset[{name}]", f"{part.info.dataset_name}/{part.split}", is_fixed=False
    )


def _of_files(text: str) -> dict[str, Source]:
    if os.path.isdir(text):
        parts = _split_of_folder(Path(text))
        if not parts:
            fix = "leave out stream (--stream): images that fit nowhere are decoded for each batch"
            raise DataError(f"{text} is no folder of tar or Parquet files, and cannot be streamed", fix=fix)
        return {name: _source(f"{text}[{name}]" if len(parts) > 1 else text, paths) for name, paths in parts.items()}
    if "::" in text or "://" in text:
        raise DataError(
            f"{text} is not a local file", fix="fetch the shards first, or use hf:user/dataset with stream=True"
        )
    paths = list(_expanded(text))
    if not text.endswith(FILES):
        fix = f"leave out stream (--stream), write it as Parquet, or {FIX}"
        raise DataError(f"{text} is neither a tar nor a Parquet file, and cannot be streamed", fix=fix)
    return {"train": _source(text, paths)}


def _split_of_folder(folder: Path) -> dict[str, list[Path]]:
    """Return the tar or Parquet files in a folder by split: train-00.parquet, validation-00.parquet, …; {} if none.

    Also {} if there are folders in it, which may be classes.
    """
    try:
        names = sorted(child.name for child in os.scandir(folder) if not child.name.startswith("."))
    except OSError:
        return {}
    files = [name for name in names if name.lower().endswith(FILES)]
    if not files or any((folder / name).is_dir() for name in names):
        return {}
    parts: dict[str, list[Path]] = {}
    for name in files:
        parts.setdefault(re.split(r"[-_.]", name, maxsplit=1)[0].lower(), []).append(folder / name)
    known = {name: paths for name, paths in parts.items() if name in TRAIN}
    return parts if known else {"train": [folder / name for name in files]}


def _expanded(text: str) -> Iterator[Path]:
    """Yield the files that a name stands for: {000..099} in numbers, * and ? in any."""
    match = RANGE.search(text)
    if match is not None:
        first, last = int(match[1]), int(match[2])
        if not 0 <= last - first < MOST_FILES:
            raise DataError(f"{match[0]} in {text} is no range of numbers", fix=FIX)
        for number in range(first, last + 1):
            yield from _expanded(f"{text[: match.start()]}{number:0{len(match[1])}}{text[match.end() :]}")
        return
    if os.path.lexists(text) or not glob.has_magic(text):
        yield Path(text)
        return
    found = sorted(glob.glob(text))
    if not found:
        raise DataError(f"no file is called {text}", fix=f"ls {shlex.quote(os.path.dirname(text) or '.')}")
    yield from map(Path, found)


def _source(origin: str, paths: Sequence[Path]) -> Source:
    """Return the shards of files. Raises DataError for one that does not exist."""
    shards: list[Shard] = []
    classes: dict[str, Sequence[str]] = {}
    digest = hashlib.sha256()
    for path in paths:
        if not path.exists():
            raise missing(path)
        status = path.stat()
        digest.update(f"{path.name}\t{status.st_size}\t{status.st_mtime_ns}\n".encode("utf-8", "surrogatepass"))
        if path.suffix.lower() == ".parquet":
            found, names = parquet_files.shards(path)
            shards += found
            classes |= names
        else:
            shards.append(tar_files.shard(path))
    return Source(origin, shards, digest.hexdigest(), classes.get)
