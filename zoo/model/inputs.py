"""Inputs of inference calls in Python: one or many, in any form that fine-tuning takes; labels are left out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.data import in_memory, items, table
from zoo.data.examples import TEXT_SUFFIXES, Lazy
from zoo.data.files import TABLES
from zoo.data.items import Item, Reading
from zoo.data.local_files import missing
from zoo.data.table import Table
from zoo.errors import DataError

CHUNK = 256
"""Inputs that are decoded and predicted at once: memory does not grow with their number."""
CHANNELS = (1, 3, 4)
"""Numbers of channels of images."""


def as_batch(inputs: Any, how: Reading) -> tuple[Iterable[Any], bool]:
    """Return inputs as an iterable that reads them late, and whether a single one was given.

    A single image is a path, PIL image, bytes, or array or tensor of two or three axes; a single text is a str, the
    path of a text file, and for a model of pairs a tuple of two. Many are a folder, a table, "hf:user/dataset", a
    DataFrame, a Series, a dict of columns, an array or tensor (N, H, W, C) or (N, C, H, W), a Dataset or DataLoader,
    and any other iterable; of (input, label) items the input is read. Raises DataError for anything else, and for the
    name of a file that does not exist.
    """
    if isinstance(inputs, str | os.PathLike):
        return _named(inputs, how)
    if _is_single(inputs, how):
        return [_layout(inputs, how)], True
    if isinstance(inputs, np.ndarray | torch.Tensor) and how.modality == "image":
        return [_layout(image, how) for image in _layout(inputs, how)], False
    tables = table.in_memory(inputs) if hasattr(inputs, "__len__") else None
    if tables is not None:
        return _of_table(items.best_split(tables), how), False
    if not isinstance(inputs, tuple | Mapping) and not hasattr(inputs, "__next__"):
        inputs = in_memory.sequence(inputs)  # the examples of a DataLoader
    if all(hasattr(inputs, method) for method in ("__len__", "__getitem__")) and not hasattr(inputs, "__iter__"):
        return _each(Lazy(inputs.__getitem__, range(len(inputs))), how), False  # a torch Dataset
    if isinstance(inputs, Iterable) and not isinstance(inputs, Mapping):
        return _each(inputs, how), False
    raise DataError(
        f"inputs of type {type(inputs).__name__} are not understood", fix="give one input, or a list of them"
    )


def chunks(inputs: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield lists of up to CHUNK inputs; of no inputs one empty list, which is reported as such."""
    source = iter(inputs)
    chunk = list(islice(source, CHUNK))
    yield chunk
    while chunk := list(islice(source, CHUNK)):
        yield chunk


def batches(inputs: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield the inputs in batches; an empty sequence is one batch, which is reported as such."""
    return (inputs[start : start + size] for start in range(0, max(1, len(inputs)), size))


def _named(name: str | os.PathLike[str], how: Reading) -> tuple[Iterable[Any], bool]:
    """Return what a path or a text stands for."""
    is_text = how.modality == "text" and isinstance(name, str)
    if is_text and not _is_data(str(name)):
        return [name], True
    path = Path(os.path.expanduser(name))
    if how.modality == "text" and not str(name).startswith("hf:") and not path.exists():
        raise missing(name, f"; to predict it as a text: [{name!r}]" if is_text else "")
    hub = isinstance(name, str) and name.startswith("hf:")
    if how.modality == "image" and not hub and not path.is_dir() and path.suffix.lower() not in TABLES:
        return [name], True
    found, _ = items.of_path(name, how)
    single = not hub and path.is_file() and path.suffix.lower() not in TABLES
    return map(_value, found), single


def _is_data(text: str) -> bool:
    """Return whether a str stands for data, not for itself: it is the name of a folder or file, or looks like one."""
    if text.startswith("hf:") and "/" in text and not text.split()[1:]:
        return True
    suffix = os.path.splitext(text)[1].lower()
    known = suffix in TABLES or (suffix in TEXT_SUFFIXES and bool(suffix))
    if text and not text.split()[1:] and (known or text.startswith(("/", "./", "../", "~/"))):
        return True
    try:
        return os.path.isdir(text) or (known and os.path.isfile(text))
    except ValueError:  # a NUL character
        return False


def _value(item: Item) -> Any:
    if item.error is not None:
        raise item.error
    return item.value


def _of_table(rows: Table, how: Reading) -> Iterator[Any]:
    if rows.rows == 0:
        return iter(())
    return map(_value, items.of_table(rows, how))


def _is_single(inputs: Any, how: Reading) -> bool:
    if isinstance(inputs, bytes):
        return True
    if how.modality == "text":
        return how.pairs and isinstance(inputs, tuple) and len(inputs) == 2 and all(isinstance(t, str) for t in inputs)
    if isinstance(inputs, np.ndarray | torch.Tensor):
        return inputs.ndim in (2, 3) and inputs.dtype != object
    return _is_encoded(inputs) or type(inputs).__module__.startswith("PIL.")


def _is_encoded(item: Any) -> bool:
    """Return whether a dict is an image of the datasets library, not a row."""
    if not isinstance(item, dict) or not {"bytes", "path"} & item.keys():
        return False
    return not any(isinstance(value, list) for value in item.values())


def _each(inputs: Iterable[Any], how: Reading) -> Iterator[Any]:
    """Yield the inputs of (input, label) items, and of rows."""
    source = iter(inputs)
    start = list(islice(source, 1))
    everything = chain(start, source)
    if start and isinstance(first := start[0], dict) and not (how.modality == "image" and _is_encoded(first)):
        return _of_rows(everything, how)
    return (_layout(_without_label(item, how), how) for item in everything)


def _of_rows(rows: Iterator[Any], how: Reading) -> Iterator[Any]:
    """Return the inputs of rows, dicts of values by column."""
    parts = (table.of_rows(chunk, "the rows") for chunk in chunks(rows))
    return map(_value, items.of_tables("the rows", parts, how))


def _without_label(item: Any, how: Reading) -> Any:
    """Return the input of an item that may be (input, label)."""
    if not isinstance(item, tuple | list) or len(item) != 2:
        return item
    first, second = item
    if how.modality == "image":
        return first
    if isinstance(first, tuple | list):  # a pair of texts, or words
        return first
    texts = isinstance(first, str) and isinstance(second, str)
    is_input = how.pairs or how.words if isinstance(item, tuple) else texts
    return item if is_input and texts else first


def _layout(images: Any, how: Reading) -> Any:
    """Return arrays as (…, H, W, C) and tensors as (…, C, H, W), whichever they are; others unchanged."""
    if not isinstance(images, np.ndarray | torch.Tensor) or how.modality == "text" or images.ndim not in (3, 4):
        return images
    counts = {*CHANNELS, how.channels}
    first, last = images.shape[-3] in counts, images.shape[-1] in counts
    if isinstance(images, torch.Tensor):
        return images.movedim(-1, -3) if last and not first else images
    return np.moveaxis(images, -3, -1) if first and not last else images
