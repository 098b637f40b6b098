"""Out-of-fold predictions of the linear probe: of each example by a head that did not see it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data.seeding import generator
from zoo.finetune.features import linear_probe
from zoo.finetune.features.linear_probe import ProbeData
from zoo.tasks.task import Task

REPEATS = 3
"""Divisions into folds over which predictions are averaged."""


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """Predictions (N, K), probabilities where the task has them, and which examples (N,) were held out at all.

    The only example of a class is in no fold, and has values of 0.
    """

    values: Tensor
    held: Tensor


def predict(task: Task, data: ProbeData, seed: int = 0, repeats: int = REPEATS) -> OutOfFold:
    """Return the mean of `repeats` out-of-fold predictions of the linear probe.

    Stages and L2 strength are chosen once, on all examples, as for a probe.
    """
    fitted = linear_probe.choose(task, data, None, seed)
    kept = data.for_head(fitted.head)
    splits = [_folds(kept, seed + repeat) for repeat in range(repeats)]
    rounds = linear_probe.out_of_fold(task, kept, splits, fitted.l2)
    held = ~torch.stack([outputs.isnan().any(1) for outputs in rounds]).any(0)
    values = [outputs if task.name == "regress" else task.probabilities(outputs) for outputs in rounds]
    return OutOfFold(torch.stack(values).mean(0).nan_to_num(), held)


def _folds(data: ProbeData, seed: int) -> list[Tensor]:
    """Return five folds; unlike those that choose a penalty, they may lack a class that has fewer examples."""
    if data.groups is not None or data.targets.ndim != 1 or data.targets.is_floating_point():
        return linear_probe.all_folds(data, seed)
    shuffled = torch.randperm(len(data), generator=generator(seed, "out of fold"))
    shuffled = shuffled[torch.bincount(data.targets)[data.targets[shuffled]] > 1]
    by_class = shuffled[data.targets[shuffled].argsort(stable=True)]
    return [fold for start in range(linear_probe.FOLDS) if len(fold := by_class[start :: linear_probe.FOLDS])]
