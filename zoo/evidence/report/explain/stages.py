"""Outputs of all stages of a backbone, pooled: one pass over a sample of the examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from zoo.data.datasets import CausalTexts, Dataset, LabelledDataset, MaskedTexts, TaggedTexts
from zoo.data.seeding import generator
from zoo.finetune.features import stage_search
from zoo.finetune.features.feature_cache import cached_features
from zoo.finetune.features.stage_outputs import StageOutput
from zoo.finetune.inference import Outputs
from zoo.plugin import Backbone

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Readings:
    """Outputs of stages, and last the pooled features or tokens of the backbone, of the same examples in one order.

    Each is (N, C), or where tokens are read a list with one tensor (Mi, C) for each example.
    """

    numbers: tuple[int | None, ...]
    values: tuple[Any, ...]
    targets: Any

    def rows(self, index: int) -> Tensor:
        """Return one of the outputs as a matrix (M, C)."""
        values = self.values[index]
        return values if isinstance(values, Tensor) else torch.cat(values)


def outputs_by_stage(backbone: Backbone, reads: str = "pooled") -> dict[int, StageOutput]:
    """Return the outputs that can be pooled (or, where tokens are read, have tokens) by number of the stage, from 1."""
    found = (output for output in stage_search.find_all(backbone) if reads == "pooled" or output.layout == "NTC")
    return {stage_of(backbone, output.module): output for output in found}


def stage_of(backbone: Backbone, module: str) -> int:
    """Return the number, from 1, of the stage that a module or parameter is part of, or that is part of it."""
    for number, names in enumerate(backbone.stages, 1):
        if any(f"{module}.".startswith(f"{name}.") or name.startswith(f"{module}.") for name in names):
            return number
    return len(backbone.stages)


def read(backbone: Backbone, outputs: dict[int, StageOutput], data: Dataset, *, reads: str, precision: str) -> Readings:
    """Return the outputs of these stages, and of the backbone, for all examples of a dataset."""
    stages = tuple(outputs.values())
    found, _ = cached_features(backbone.module, data, reads=reads, precision=precision, stages=stages)
    widths = [backbone.dim, *(stage.dim for stage in stages)]
    own, *rest = _split(found, widths)
    return Readings((*outputs, None), (*rest, own), found.targets)


def _split(found: Outputs, widths: Sequence[int]) -> list[Any]:
    if isinstance(found.values, Tensor):
        return list(found.values.split(widths, 1))
    return [list(parts) for parts in zip(*(each.split(list(widths), 1) for each in found.values), strict=True)]


def sample(count: int, most: int, purpose: str) -> list[int]:
    """Return up to `most` of the indices 0 … count - 1 at random, ascending; the same each time."""
    if count <= most:
        return list(range(count))
    return torch.randperm(count, generator=generator(0, purpose, count))[:most].sort().values.tolist()


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """Return up to `most` of the items, evenly spaced, the first and the last included."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def at(data: Dataset, rows: Sequence[int]) -> Dataset:
    """Return some examples of a dataset; those of a language model as inputs without targets."""
    if isinstance(data, LabelledDataset):
        return replace(data, inputs=data.inputs.at(rows), targets=None if data.targets is None else data.targets[rows])
    if isinstance(data, TaggedTexts):
        targets = None if data.targets is None else [data.targets[row] for row in rows]
        return replace(data, inputs=data.inputs.at(rows), targets=targets)
    assert isinstance(data, MaskedTexts | CausalTexts)
    return LabelledDataset(data.inputs.at(rows))
