"""The linear probe: a linear head on frozen features, solved to convergence instead of trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.seeding import generator
from zoo.finetune.heads import empty_linear
from zoo.finetune.inference import Outputs
from zoo.tasks.task import Task

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Tried first; where the best is the first or last, the range is extended on that side up to LIMITS."""
LIMITS = (1e-6, 1e3)
CONSTANT = math.inf
"""Penalty of a head without weights: it predicts the mean, or the class frequencies."""
DEFAULT_PENALTY = 1e-2
"""Used where a class has too few examples for cross-validation."""
FLOOR = 0.3
"""Smallest scale of a feature, as a share of the median standard deviation of all.

Dividing a nearly constant feature by its own deviation makes its noise as large as the other features, and a new input
that is far from constant in it moves the prediction without bound (docs/log.md).
"""
FOLDS = 5
MAX_ITERATIONS = 200


@dataclass(frozen=True, slots=True)
class ProbeData:
    """Features (M, D) with their targets (M, …); rows of one group (M,), such as a text, share a fold."""

    features: Tensor
    targets: Tensor
    groups: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    def at(self, index: Tensor) -> ProbeData:
        """Return some of the rows."""
        return ProbeData(self.features[index], self.targets[index])


def fit(task: Task, data: ProbeData, l2: float | None, seed: int) -> tuple[nn.Linear, float]:
    """Return the head that minimises mean loss + l2 / 2 * |W|² on standardised features, and the l2 used.

    With l2=None it is chosen by cross-validated loss on these examples, which separates penalties where the accuracy of
    a few dozen examples does not (docs/log.md); CONSTANT where every other is worse than ignoring the features. The
    standardisation is folded into the weights.
    """
    features = data.features
    mean, std = features.mean(0), features.std(0, correction=0)
    scale = 1 / std.clamp(min=max(FLOOR * float(std.median()), 1e-12))
    standardised = ProbeData((features - mean) * scale, data.targets, data.groups)
    penalty = l2 if l2 is not None else _cross_validate(task, standardised, seed)
    head = _solve(task, standardised, penalty)
    with torch.no_grad():
        head.weight.mul_(scale)  # (K, D) * (D,)
        head.bias.sub_(head.weight @ mean)
    return head, penalty


def loss(task: Task, head: nn.Module, data: ProbeData) -> float:
    """Return the mean loss of a head."""
    with torch.no_grad():
        return float(task.loss(head(data.features), data.targets))


def predict(task: Task, head: nn.Module, features: Outputs) -> Any:
    """Return the task's statistics of a head's outputs: (N, K), or a list of (Mi, …) where tokens are read."""
    with torch.no_grad():
        if isinstance(features.values, Tensor):
            return task.statistics(head(features.values), features.targets)
        pairs = zip(features.values, features.targets, strict=True)
        return [task.statistics(head(values), targets) for values, targets in pairs]


def cross_validated_loss(task: Task, data: ProbeData, l2: float, seed: int) -> float:
    """Return the mean out-of-fold loss; infinite where a class has too few examples."""
    folds = _folds(data, seed)
    return _out_of_fold_loss(task, data, folds, l2) if len(folds) > 1 else math.inf


def _cross_validate(task: Task, data: ProbeData, seed: int) -> float:
    """Return the penalty with the lowest out-of-fold loss, CONSTANT included."""
    folds = _folds(data, seed)
    if len(folds) < 2:
        return DEFAULT_PENALTY
    losses = {penalty: _out_of_fold_loss(task, data, folds, penalty) for penalty in (*PENALTIES, CONSTANT)}
    while (wider := _beyond(losses)) is not None:
        losses[wider] = _out_of_fold_loss(task, data, folds, wider)
    return min(losses, key=lambda penalty: losses[penalty])


def _beyond(losses: Mapping[float, float]) -> float | None:
    """Return the next penalty to try if the best finite one is at the edge of those tried; None within LIMITS."""
    tried = sorted(penalty for penalty in losses if penalty != CONSTANT)
    best = min(tried, key=lambda penalty: losses[penalty])
    if best == tried[-1] and best < LIMITS[1]:
        return 10 * best
    return best / 10 if best == tried[0] and best > LIMITS[0] else None


def _out_of_fold_loss(task: Task, data: ProbeData, folds: Sequence[Tensor], penalty: float) -> float:
    total = 0.0
    for held in folds:
        kept = torch.ones(len(data), dtype=torch.bool)
        kept[held] = False
        total += loss(task, _solve(task, data.at(kept), penalty), data.at(held)) * len(held)
    return total / len(data)


def _folds(data: ProbeData, seed: int) -> list[Tensor]:
    """Return up to five folds: whole groups, stratified classes; fewer than two where a class has one example."""
    draws = generator(seed, "folds")
    if data.groups is not None:
        groups = int(data.groups.max()) + 1
        fold_of = torch.randperm(groups, generator=draws)[data.groups] % min(FOLDS, groups)
        return [(fold_of == fold).nonzero()[:, 0] for fold in range(min(FOLDS, groups))]
    shuffled = torch.randperm(len(data), generator=draws)
    classes = data.targets.ndim == 1 and not data.targets.is_floating_point()
    if not classes:
        count = min(FOLDS, len(data))
        return [shuffled[start::count] for start in range(count)]
    count = min(FOLDS, int(torch.bincount(data.targets)[data.targets.unique()].min()))
    if count < 2:
        return []
    by_class = shuffled[data.targets[shuffled].argsort(stable=True)]
    return [by_class[start::count] for start in range(count)]


def _solve(task: Task, data: ProbeData, penalty: float) -> nn.Linear:
    """Minimise by L-BFGS with a strong-Wolfe line search from zero weights; deterministic."""
    if penalty == CONSTANT:  # without features the gradient of the weights is zero
        data, penalty = ProbeData(torch.zeros_like(data.features), data.targets), 0.0
    head = empty_linear(data.features.shape[1], len(task.labels))
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    solver = torch.optim.LBFGS(
        head.parameters(),
        max_iter=MAX_ITERATIONS,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss = task.loss(head(data.features), data.targets) + penalty / 2 * head.weight.square().sum()
        torch.autograd.backward(loss)
        return loss

    solver.step(objective)
    return head
