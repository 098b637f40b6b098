"""Which depth knows the task: a linear probe on the output of each stage, measured on held-out examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.evidence.report.explain.explanation import Probe
from zoo.evidence.report.explain.stages import Readings
from zoo.finetune.features import linear_probe
from zoo.finetune.features.linear_probe import ProbeData
from zoo.finetune.inference import Outputs
from zoo.tasks import Task


@dataclass(frozen=True, slots=True)
class Probed:
    """The score of each reading's probe, and the score of each held-out example (N,) by it."""

    probes: tuple[Probe, ...]
    items: tuple[Tensor, ...]


def probe_each(task: Task, train: Readings, held: Readings, groups: Tensor | None = None, seed: int = 0) -> Probed:
    """Fit a linear probe on each output of the training examples, and measure it on the held-out ones.

    The L2 strength is chosen by cross-validation on the training examples, which keeps `groups` (N,) together.
    """
    found = [_probe(task, train, held, index, _groups(train, groups), seed) for index in range(len(train.values))]
    return Probed(tuple(probe for probe, _ in found), tuple(items for _, items in found))


def _probe(
    task: Task, train: Readings, held: Readings, index: int, groups: Tensor | None, seed: int
) -> tuple[Probe, Tensor]:
    targets = train.targets if isinstance(train.targets, Tensor) else torch.cat(train.targets)
    head = linear_probe.fit(task, ProbeData(train.rows(index), targets, groups), None, seed).head
    values: Any = linear_probe.predict(task, head, Outputs(held.values[index], held.targets))
    low, high = task.intervals(values, held.targets).get(task.main_metric) or (None, None)
    score = task.measure(values, held.targets)[task.main_metric]
    return Probe(score, low, high), task.item_scores(values, held.targets)


def _groups(train: Readings, groups: Tensor | None) -> Tensor | None:
    """Return the group of each row: tokens of a text share one."""
    if isinstance(train.targets, Tensor):
        return groups
    counts = torch.tensor([len(part) for part in train.targets])
    return (torch.arange(len(counts)) if groups is None else groups).repeat_interleave(counts)
