"""What a backbone makes of the examined examples of a part: pooled features and outputs of stages, of one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.data.datasets import Dataset
from zoo.data.seeding import generator
from zoo.evidence.report.explain import stages as explained
from zoo.finetune.features import stage_search
from zoo.finetune.features.feature_cache import cached_features
from zoo.finetune.features.stage_outputs import StageOutput
from zoo.finetune.heads import stages_of
from zoo.plugin import Backbone

EXAMINED = 2_000
"""Examples of a part that are examined at most."""
STAGES = 8
"""Stages whose outputs are compared and probed, at most; evenly spaced."""


@dataclass(frozen=True, slots=True)
class Examined:
    """The examined examples of a part, with their features by one set of weights.

    rows    (E,) places in the part, ascending
    values  (E, D) float32: pooled features, behind them the pooled outputs of `stages`
    """

    rows: Tensor
    values: Tensor
    stages: tuple[StageOutput, ...] = ()

    @property
    def pooled(self) -> Tensor:
        """Pooled features (E, dim)."""
        return self.values[:, : self.values.shape[1] - sum(stage.dim for stage in self.stages)]

    def outputs(self, stage: StageOutput) -> Tensor:
        """Return the outputs of a stage, (E, stage.dim)."""
        start = self.pooled.shape[1]
        for other in self.stages:
            if other == stage:
                return self.values[:, start : start + stage.dim]
            start += other.dim
        raise KeyError(stage)

    def columns(self, stages: Sequence[StageOutput]) -> Tensor:
        """Return the pooled features, behind them the outputs of some stages."""
        return torch.cat([self.pooled, *map(self.outputs, stages)], 1) if stages else self.pooled


def examined_rows(count: int) -> Tensor:
    """Return the indices of at most EXAMINED of `count` examples, ascending."""
    if count <= EXAMINED:
        return torch.arange(count)
    return torch.randperm(count, generator=generator(0, "examine", count))[:EXAMINED].sort().values


def shown_stages(backbone: Backbone, reads: str = "pooled") -> dict[int, StageOutput]:
    """Return the outputs of the stages that a report looks at, by number of the stage, from 1."""
    found = explained.outputs_by_stage(backbone, reads)
    return {number: found[number] for number in explained.evenly(list(found), STAGES)}


def probed_stages(backbone: Backbone, limit: int | None) -> tuple[StageOutput, ...]:
    """Return the stage outputs that a new head would read; `limit` as in Recipe.head_stages."""
    return () if limit == 0 else stage_search.find(backbone, limit)


def stages_read(backbone: Backbone, head: nn.Module | None, limit: int | None) -> tuple[StageOutput, ...]:
    """Return all stage outputs that a report reads: those that it shows, and those of the head and of a new head."""
    every = [*shown_stages(backbone).values(), *stages_of(head), *probed_stages(backbone, limit)]
    return tuple(dict.fromkeys(every))


def examine(
    module: nn.Module, data: Dataset, rows: Tensor, stages: tuple[StageOutput, ...], precision: str
) -> Examined:
    """Run a backbone over some examples of a dataset."""
    chosen = data if len(rows) == len(data) else explained.at(data, rows.tolist())
    found, _ = cached_features(module, chosen, reads="pooled", precision=precision, stages=stages)
    return Examined(rows, found.values, stages)


def of_all(
    module: nn.Module, data: Dataset, examined: Examined, stages: tuple[StageOutput, ...], precision: str
) -> Tensor:
    """Return pooled features and the outputs of `stages` of all examples; only those not examined are run."""
    own = examined.columns(stages)
    if len(own) == len(data):
        return own
    rest = torch.ones(len(data), dtype=torch.bool)
    rest[examined.rows] = False
    others, _ = cached_features(
        module,
        explained.at(data, rest.nonzero()[:, 0].tolist()),
        reads="pooled",
        precision=precision,
        stages=stages,
    )
    values = torch.empty(len(data), own.shape[1])
    values[examined.rows], values[rest] = own, others.values
    return values
