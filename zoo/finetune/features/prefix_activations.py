"""Cached activations of a frozen prefix, in memory or memory-mapped, and the dataset that serves them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.console import Bar
from zoo.data.batch_options import EVALUATION, BatchOptions
from zoo.data.datasets import Batch, Dataset
from zoo.data.sampler import sequential_batches
from zoo.finetune.features.prefix_units import Leaf, Unit, forward, text_length
from zoo.finetune.runtime.torch_internals import tree_flatten
from zoo.plugin import Backbone
from zoo.store import home

IN_MEMORY = 256 << 20
"""Bytes of activations that are kept in memory; more goes to a memory-mapped file."""
KEY = "prefix."
"""Prefix of the activations among the inputs of a batch: prefix.0, …"""
BATCH_SIZE = 64


def size_of(unit: Unit, data: Dataset) -> int:
    """Return the bytes needed to cache this unit's outputs for a dataset."""
    tokens = int(data.lengths.sum()) if data.lengths is not None else 0
    return sum(
        _rows(leaf, data, tokens) * prod(leaf.shape[1 + leaf.ragged :]) * leaf.dtype.itemsize for leaf in unit.leaves
    )


def _rows(leaf: Leaf, data: Dataset, tokens: int) -> int:
    return tokens if leaf.ragged else len(data)


@contextmanager
def cached(
    backbone: Backbone, unit: Unit, datasets: Sequence[Dataset | None], size: int, precision: str
) -> Iterator[tuple[Dataset | None, ...]]:
    """Run the backbone over the datasets and cache the outputs of a unit; a file is removed on exit."""
    folder: Path | None = None
    try:
        if size > IN_MEMORY:
            cache = home() / "cache" / "activations"
            cache.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=cache))
        with Bar("prefix", sum(len(data) for data in datasets if data is not None)) as bar:
            yield tuple(data and _fill(backbone, unit, data, folder, precision, bar) for data in datasets)
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _fill(backbone: Backbone, unit: Unit, data: Dataset, folder: Path | None, precision: str, bar: Bar) -> CachedPrefix:
    lengths = data.lengths if data.lengths is not None else torch.zeros(len(data), dtype=torch.long)
    begins = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    buffers = [_buffer(leaf, _rows(leaf, data, int(begins[-1])), folder) for leaf in unit.leaves]
    outputs: list[Any] = []
    hook = unit.module.register_forward_hook(lambda _, __, output: outputs.append(tree_flatten(output)[0]))
    try:
        for indices in sequential_batches(len(data), BATCH_SIZE, data.lengths):
            forward(backbone.module, data.batch(indices), precision)
            tensors = [leaf for leaf in outputs.pop() if isinstance(leaf, Tensor)]
            for leaf, buffer, tensor in zip(unit.leaves, buffers, tensors, strict=True):
                _write(leaf, buffer, tensor.detach().cpu(), indices, begins)
            bar.advance(len(indices))
    finally:
        hook.remove()
    return CachedPrefix(data, tuple(unit.leaves), tuple(buffers), begins, backbone)


def _buffer(leaf: Leaf, rows: int, folder: Path | None) -> Tensor:
    shape = (rows, *leaf.shape[1 + leaf.ragged :])
    if folder is None:
        return torch.empty(shape, dtype=leaf.dtype)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        return torch.from_file(file.name, shared=True, size=prod(shape), dtype=leaf.dtype).view(shape)


def _write(leaf: Leaf, buffer: Tensor, tensor: Tensor, indices: Tensor, begins: Tensor) -> None:
    if not leaf.ragged:
        buffer[indices] = tensor
        return
    for index, row in zip(indices.tolist(), tensor, strict=True):
        begin, end = int(begins[index]), int(begins[index + 1])
        buffer[begin:end] = row[: end - begin]


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """A dataset whose batches hold the activations of the frozen stages as inputs "prefix.0", …, of N rows each."""

    data: Dataset
    leaves: tuple[Leaf, ...]
    buffers: tuple[Tensor, ...]
    begins: Tensor
    backbone: Backbone

    @property
    def lengths(self) -> Tensor | None:
        """Lengths of the dataset."""
        return self.data.lengths

    @property
    def targets(self) -> Any:
        """Targets of the dataset."""
        return self.data.targets

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: Tensor, options: BatchOptions = EVALUATION) -> Batch:
        """Return some examples; of images only the activations are used."""
        kept = options.of(indices)
        if self.data.lengths is None:
            spec: Any = self.backbone.input
            images = torch.zeros(1, spec.channels, spec.size, spec.size).expand(len(kept), -1, -1, -1)
            targets = None if self.data.targets is None else self.data.targets[kept]
            batch = Batch({"images": images}, targets=targets, weight=len(kept) / max(1, len(indices)))
        else:
            batch = self.data.batch(indices, options)
        assert isinstance(batch.inputs, dict)
        length = text_length(batch.inputs)
        pairs = enumerate(zip(self.leaves, self.buffers, strict=True))
        activations = {f"{KEY}{number}": self._read(leaf, buffer, kept, length) for number, (leaf, buffer) in pairs}
        return batch._replace(inputs=batch.inputs | activations)

    def _read(self, leaf: Leaf, buffer: Tensor, indices: Tensor, length: int) -> Tensor:
        if not leaf.ragged:
            return buffer[indices]
        padded = torch.zeros(leaf.batch_shape(len(indices), length), dtype=leaf.dtype)
        for row, index in enumerate(indices.tolist()):
            tokens = buffer[int(self.begins[index]) : int(self.begins[index + 1])]
            padded[row, : len(tokens)] = tokens
        return padded
