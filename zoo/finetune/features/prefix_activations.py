"""Cached activations of a frozen prefix, in memory or memory-mapped, and the dataset that serves them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from zoo.console import Bar
from zoo.data.batch_options import EVALUATION, BatchOptions
from zoo.data.datasets import Batch, Dataset
from zoo.data.sampler import sequential_batches
from zoo.finetune.features.prefix_units import Leaf, Unit, text_length
from zoo.finetune.freezing import eval_mode
from zoo.finetune.inference import BATCH_SIZE, each_batch
from zoo.finetune.network import autocast
from zoo.finetune.runtime.torch_internals import tree_flatten
from zoo.plugin import Backbone
from zoo.store import cache_file

IN_MEMORY = 256 << 20
"""Bytes of activations that are kept in memory; more goes to a memory-mapped file."""
KEY = "prefix."
"""Prefix of the activations among the inputs of a batch: prefix.0, …"""


def size_of(unit: Unit, data: Dataset) -> int:
    """Return the bytes needed to cache this unit's outputs for a dataset."""
    tokens = int(data.lengths.sum()) if data.lengths is not None else 0
    return sum(
        _rows(leaf, data, tokens) * prod(leaf.shape[1 + leaf.ragged :]) * leaf.dtype.itemsize for leaf in unit.leaves
    )


def _rows(leaf: Leaf, data: Dataset, tokens: int) -> int:
    return tokens if leaf.ragged else len(data)


def cached(
    backbone: Backbone, unit: Unit, datasets: Sequence[Dataset | None], size: int, precision: str
) -> tuple[Dataset | None, ...]:
    """Run the backbone over the datasets and cache the outputs of a unit. Raises OSError if the disk has no room."""
    on_disk = size > IN_MEMORY
    with Bar("prefix", sum(len(data) for data in datasets if data is not None)) as bar:
        return tuple(data and _fill(backbone, unit, data, on_disk, precision, bar) for data in datasets)


def _fill(backbone: Backbone, unit: Unit, data: Dataset, on_disk: bool, precision: str, bar: Bar) -> CachedPrefix:
    lengths = data.lengths if data.lengths is not None else torch.zeros(len(data), dtype=torch.long)
    begins = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    buffers = [_buffer(leaf, _rows(leaf, data, int(begins[-1])), on_disk) for leaf in unit.leaves]
    recorded = threading.local()
    device = next(backbone.module.parameters()).device
    hook = unit.module.register_forward_hook(lambda _, __, output: setattr(recorded, "leaves", tree_flatten(output)[0]))

    def compute(batch: Batch) -> list[Tensor]:
        with torch.inference_mode(), autocast(device, precision):
            backbone.module(batch.inputs)
            return [leaf for leaf in recorded.leaves if isinstance(leaf, Tensor)]

    try:
        with eval_mode(backbone.module):
            batches = sequential_batches(len(data), BATCH_SIZE, data.lengths)
            for indices, _, tensors in each_batch(compute, data, batches, device):
                for leaf, buffer, tensor in zip(unit.leaves, buffers, tensors, strict=True):
                    _write(leaf, buffer, tensor, indices, begins)
                bar.advance(len(indices))
    finally:
        hook.remove()
    return CachedPrefix(data, tuple(unit.leaves), tuple(buffers), begins)


def _buffer(leaf: Leaf, rows: int, on_disk: bool) -> Tensor:
    shape = (rows, *leaf.shape[1 + leaf.ragged :])
    if not on_disk:
        return torch.empty(shape, dtype=leaf.dtype)
    return cache_file.scratch("activations", prod(shape) * leaf.dtype.itemsize).view(leaf.dtype).view(shape)


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
            targets = None if self.data.targets is None else self.data.targets[kept]
            batch = Batch({}, targets=targets, weight=len(kept) / max(1, len(indices)))
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
