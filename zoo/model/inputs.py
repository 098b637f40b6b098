"""Inputs of inference calls: one input or many, in any container."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from zoo.data import table, table_examples
from zoo.data.examples import Columns
from zoo.errors import DataError


def as_batch(
    inputs: Any, modality: str, *, pairs: bool = False, column: tuple[str, ...] = ()
) -> tuple[Sequence[Any], bool]:
    """Return inputs as a sequence, and whether a single one was given.

    A single image is a path, PIL image, bytes, or array or tensor of two or three axes; a single text is a str, and
    with `pairs` also a tuple of two. Many are any other iterable or sequence, an array or tensor of four axes, a
    Series, or a Dataset; of a table, `column` is read (as in finetune), of (input, label) items of a Dataset the input.
    Raises DataError for anything else.
    """
    if _is_single(inputs, modality, pairs):
        return [inputs], True
    tables = table.in_memory(inputs)
    if tables is not None:
        rows = next(iter(tables.values()))
        return table_examples.examples(rows, Columns(column, ""), modality).inputs, False
    if isinstance(inputs, Iterable) and not isinstance(inputs, Mapping):
        return list(inputs), False
    if not isinstance(inputs, Mapping) and hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"):
        return [_without_label(inputs[index]) for index in range(len(inputs))], False
    raise DataError(
        f"inputs of type {type(inputs).__name__} are not understood",
        fix="give one input, or a list of them",
    )


def _is_single(inputs: Any, modality: str, pairs: bool) -> bool:
    if isinstance(inputs, str | bytes | os.PathLike):
        return True
    if modality == "text":
        return pairs and isinstance(inputs, tuple) and len(inputs) == 2 and all(isinstance(t, str) for t in inputs)
    if isinstance(inputs, np.ndarray | torch.Tensor):
        return inputs.ndim in (2, 3)
    encoded = isinstance(inputs, dict) and bool({"bytes", "path"} & inputs.keys())
    return encoded or type(inputs).__module__.startswith("PIL.")


def _without_label(item: Any) -> Any:
    """Return the input of an item of a torch Dataset, which may be (input, label)."""
    return item[0] if isinstance(item, tuple | list) and len(item) == 2 else item
