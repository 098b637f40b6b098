"""The linear probe: a linear head on frozen features, solved to convergence instead of trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.seeding import generator
from zoo.finetune.heads import empty_linear
from zoo.finetune.inference import Outputs
from zoo.tasks.task import Task

PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1e3)
FIRST = PENALTIES[2:7]
"""Tried first; where the best of those tried is at an edge, its neighbour is tried as well."""
CONSTANT = math.inf
"""Penalty of a head without weights: it predicts the mean, or the class frequencies."""
DEFAULT_PENALTY = 1e-2
"""Used where no class has enough examples for cross-validation."""
FLOOR = 0.3
"""Least divisor of a feature, as a share of the mean standard deviation of all features.

Dividing a nearly constant feature by its own deviation makes its noise as large as the other features, and a new input
that is far from constant in it moves the prediction without bound (docs/log.md).
"""
ROUNDING = 1e-4
"""Share of a loss that may be rounding."""
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
    scale = 1 / std.clamp(min=max(FLOOR * float(std.mean()), 1e-12))
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
    """Return the mean out-of-fold loss; infinite where no class has two examples."""
    folds = _folds(data, seed)
    return _out_of_fold_loss(task, data, folds, l2) if len(folds) > 1 else math.inf


def _cross_validate(task: Task, data: ProbeData, seed: int) -> float:
    """Return the penalty with the lowest out-of-fold loss; CONSTANT where none is lower than without features."""
    folds = _folds(data, seed)
    if len(folds) < 2:
        return DEFAULT_PENALTY
    losses: dict[float, float] = {}
    best, untried = DEFAULT_PENALTY, set(FIRST)
    while untried:
        losses |= {penalty: _out_of_fold_loss(task, data, folds, penalty) for penalty in untried}
        best = min(sorted(losses), key=lambda penalty: losses[penalty])
        place = PENALTIES.index(best)
        untried = {*PENALTIES[max(0, place - 1) : place + 2]} - losses.keys()
    without_features = _out_of_fold_loss(task, data, folds, CONSTANT)
    return best if losses[best] < (1 - ROUNDING) * without_features else CONSTANT


def _out_of_fold_loss(task: Task, data: ProbeData, folds: Sequence[Tensor], penalty: float) -> float:
    total = 0.0
    for held in folds:
        kept = torch.ones(len(data), dtype=torch.bool)
        kept[held] = False
        total += loss(task, _solve(task, data.at(kept), penalty), data.at(held)) * len(held)
    return total / sum(map(len, folds))


def _folds(data: ProbeData, seed: int) -> list[Tensor]:
    """Return up to five folds: whole groups, stratified classes; the only example of a class is in none of them.

    There are no folds where each class has one example.
    """
    draws = generator(seed, "folds")
    has_classes = data.targets.ndim == 1 and not data.targets.is_floating_point()
    if data.groups is not None:
        return _folds_of_groups(data.groups, data.targets if has_classes else None, draws)
    shuffled = torch.randperm(len(data), generator=draws)
    if not has_classes:
        count = min(FOLDS, len(data))
        return [shuffled[start::count] for start in range(count)]
    counts = torch.bincount(data.targets)
    if int(counts.max()) < 2:
        return []
    count = min(FOLDS, int(counts[counts > 1].min()))
    shuffled = shuffled[counts[data.targets[shuffled]] > 1]
    by_class = shuffled[data.targets[shuffled].argsort(stable=True)]
    return [by_class[start::count] for start in range(count)]


def _folds_of_groups(groups: Tensor, classes: Tensor | None, draws: torch.Generator) -> list[Tensor]:
    """Return up to five folds of whole groups; rows of a class that is in one fold alone are always trained on."""
    count = int(groups.max()) + 1
    folds = min(FOLDS, count)
    fold_of = torch.randperm(count, generator=draws)[groups] % folds
    held = torch.ones(len(groups), dtype=torch.bool)
    if classes is not None:
        occurs = torch.zeros(int(classes.max()) + 1, folds, dtype=torch.bool)
        occurs[classes, fold_of] = True
        held = occurs.sum(1)[classes] > 1
    found = [(held & (fold_of == fold)).nonzero()[:, 0] for fold in range(folds)]
    return [rows for rows in found if len(rows)]


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
