"""Features of a frozen backbone, computed once: kept by what they depend on, and mapped when they are used again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.data.datasets import Labelled, Set, Tagged, Views
from zoo.data.texts import Texts
from zoo.errors import WeightsError
from zoo.finetune import distributed
from zoo.finetune.network import Rows, features
from zoo.store import home
from zoo.weights import safetensors_file

WORTH = 2.0
"""Seconds that features must have cost for a file of them to be worth its place."""


def features_of(module: nn.Module, data: Set, *, reads: str, precision: str) -> tuple[Rows, bool]:
    """Return the features of a set, and whether they were known: from an earlier run on the same data and weights.

    They are kept as a safetensors file that is memory-mapped, named by the SHA-256 of weights, inputs and precision.
    """
    path = home() / "cache" / "features" / f"{_key(module, data, reads, precision)}.safetensors"
    if all(distributed.gathered(path.exists())):
        found = _read(path, data)
        if found is not None:
            return found, True
    start = time.monotonic()
    rows = features(module, data, reads=reads, precision=precision)
    if time.monotonic() - start > WORTH and distributed.rank() == 0:
        _write(path, rows)
    return rows, False


def _read(path: Path, data: Set) -> Rows | None:
    """Return kept features with the set's own targets; None if the file is damaged, which costs only time."""
    try:
        tensors, _ = safetensors_file.read_state(path)
    except WeightsError:
        path.unlink(missing_ok=True)
        return None
    if "counts" not in tensors:
        return Rows(tensors["values"], data.targets)
    counts = tensors["counts"].tolist()
    return Rows(list(tensors["values"].split(counts)), list(tensors["targets"].split(counts)))


def _write(path: Path, rows: Rows) -> None:
    if isinstance(rows.values, Tensor):
        tensors = {"values": rows.values}
    else:
        counts = torch.tensor([len(part) for part in rows.values])
        tensors = {"values": torch.cat(rows.values), "targets": torch.cat(rows.targets), "counts": counts}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors_file.write_state(path, tensors, {})
    except (OSError, WeightsError):  # a full disk or a read-only store: the features are there all the same
        return


def _key(module: nn.Module, data: Set, reads: str, precision: str) -> str:
    """Return the hash of all that features depend on."""
    digest = hashlib.sha256(repr((torch.__version__, reads, precision, type(data).__name__)).encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    for part in _content(data):
        digest.update(part)
    return digest.hexdigest()[:40]


def _content(data: Set) -> Iterator[bytes]:
    """Yield what a set holds, example by example."""
    if isinstance(data, Views):
        yield repr((data.count, data.augment, data.seed)).encode()
        yield from _content(data.data)
        return
    assert isinstance(data, Labelled | Tagged)
    inputs = data.inputs
    if isinstance(inputs, Texts):
        yield from map(_bytes, (inputs.ids, inputs.types, inputs.words, inputs.begins, inputs.rows))
    else:
        yield repr(inputs.spec).encode()
        for row in inputs.rows.tolist():
            yield repr(tuple(inputs.pixels[row].shape)).encode()
            yield _bytes(inputs.pixels[row])
    if isinstance(data, Tagged) and data.targets is not None:
        yield from map(_bytes, data.targets)


def _bytes(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor's values."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    found: bytes = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return found
