"""Activations of a whole set, kept in memory or in a mapped file, and the set that hands them out."""

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
from torch.utils._pytree import tree_flatten

from zoo.console import Bar
from zoo.data.datasets import Batch, Set
from zoo.data.sampler import in_turn
from zoo.finetune.features.prefix_units import Leaf, Unit, length_of, run
from zoo.plugin import Backbone
from zoo.store import home

SMALL = 256 << 20
"""Bytes that are kept in memory rather than in a mapped file."""
KEY = "prefix."
"""How activations are called among the inputs of a batch: prefix.0, …"""


def size_of(unit: Unit, data: Set) -> int:
    """Return how much what a unit returns for a whole set takes."""
    tokens = int(data.lengths.sum()) if data.lengths is not None else 0
    return sum(
        _rows(leaf, data, tokens) * prod(leaf.shape[1 + leaf.ragged :]) * leaf.dtype.itemsize for leaf in unit.leaves
    )


def _rows(leaf: Leaf, data: Set, tokens: int) -> int:
    return tokens if leaf.ragged else len(data)


@contextmanager
def kept(
    backbone: Backbone, unit: Unit, sets: Sequence[Set | None], size: int, precision: str, batch_size: int
) -> Iterator[tuple[Set | None, ...]]:
    """Run the backbone over the sets and keep what a unit returns, in memory or in a file that goes afterwards."""
    folder: Path | None = None
    try:
        if size > SMALL:
            cache = home() / "cache" / "activations"
            cache.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=cache))
        with Bar("prefix", sum(len(one) for one in sets if one is not None)) as bar:
            yield tuple(one and _filled(backbone, unit, one, folder, precision, batch_size, bar) for one in sets)
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _filled(
    backbone: Backbone, unit: Unit, data: Set, folder: Path | None, precision: str, batch_size: int, bar: Bar
) -> Stored:
    lengths = data.lengths if data.lengths is not None else torch.zeros(len(data), dtype=torch.long)
    begins = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    buffers = [_buffer(leaf, _rows(leaf, data, int(begins[-1])), folder) for leaf in unit.leaves]
    found: list[Any] = []
    hook = unit.module.register_forward_hook(lambda _, __, output: found.append(tree_flatten(output)[0]))
    try:
        for indices in in_turn(len(data), batch_size, data.lengths):
            run(backbone.module, data.batch(indices), precision)
            tensors = [leaf for leaf in found.pop() if isinstance(leaf, Tensor)]
            for leaf, buffer, tensor in zip(unit.leaves, buffers, tensors, strict=True):
                _put(leaf, buffer, tensor.detach().cpu(), indices, begins)
            bar.advance(len(indices))
    finally:
        hook.remove()
    return Stored(data, tuple(unit.leaves), tuple(buffers), begins, backbone)


def _buffer(leaf: Leaf, rows: int, folder: Path | None) -> Tensor:
    shape = (rows, *leaf.shape[1 + leaf.ragged :])
    if folder is None:
        return torch.empty(shape, dtype=leaf.dtype)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        return torch.from_file(file.name, shared=True, size=prod(shape), dtype=leaf.dtype).view(shape)


def _put(leaf: Leaf, buffer: Tensor, tensor: Tensor, indices: Tensor, begins: Tensor) -> None:
    if not leaf.ragged:
        buffer[indices] = tensor
        return
    for index, row in zip(indices.tolist(), tensor, strict=True):
        begin, end = int(begins[index]), int(begins[index + 1])
        buffer[begin:end] = row[: end - begin]


@dataclass(frozen=True, slots=True)
class Stored:
    """A set whose examples come with what the frozen stages made of them, as inputs "prefix.0", …, of N rows each."""

    data: Set
    leaves: tuple[Leaf, ...]
    buffers: tuple[Tensor, ...]
    begins: Tensor
    backbone: Backbone

    @property
    def lengths(self) -> Tensor | None:
        """Those of the set."""
        return self.data.lengths

    @property
    def targets(self) -> Any:
        """Those of the set."""
        return self.data.targets

    def __len__(self) -> int:
        return len(self.data)

    def batch(
        self,
        indices: Tensor,
        augment: str = "none",
        chance: torch.Generator | None = None,
        part: slice = slice(None),
    ) -> Batch:
        """Take some examples; of images nothing but their activations is looked at."""
        kept = indices[part]
        if self.data.lengths is None:
            spec: Any = self.backbone.input
            images = torch.zeros(1, spec.channels, spec.size, spec.size).expand(len(kept), -1, -1, -1)
            targets = None if self.data.targets is None else self.data.targets[kept]
            batch = Batch({"images": images}, None, targets, weight=len(kept) / max(1, len(indices)))
        else:
            batch = self.data.batch(indices, augment, chance, part)
        assert isinstance(batch.inputs, dict)
        length = length_of(batch.inputs)
        pairs = enumerate(zip(self.leaves, self.buffers, strict=True))
        given = {f"{KEY}{number}": self._taken(leaf, buffer, kept, length) for number, (leaf, buffer) in pairs}
        return batch._replace(inputs=batch.inputs | given)

    def _taken(self, leaf: Leaf, buffer: Tensor, indices: Tensor, length: int) -> Tensor:
        if not leaf.ragged:
            return buffer[indices]
        padded = torch.zeros(leaf.made(len(indices), length), dtype=leaf.dtype)
        for row, index in enumerate(indices.tolist()):
            own = buffer[int(self.begins[index]) : int(self.begins[index + 1])]
            padded[row, : len(own)] = own
        return padded
