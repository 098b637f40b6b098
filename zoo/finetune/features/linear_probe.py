"""The linear probe: a linear head on frozen features, solved to convergence rather than trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.finetune import network
from zoo.tasks.task import Task

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FEW = 1e-2
"""The strength where a class has too few examples to cross-validate."""
FOLDS = 5
ROUNDS = 200


@dataclass(frozen=True, slots=True)
class Rows:
    """Features (M, D) with their targets (M, …), and of tokens the number of their text (M,)."""

    features: Tensor
    targets: Tensor
    groups: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    def at(self, index: Tensor) -> Rows:
        """Return some of the rows."""
        return Rows(self.features[index], self.targets[index])


def fit(task: Task, rows: Rows, l2: float | None, seed: int) -> tuple[nn.Linear, float]:
    """Return the head that minimises mean loss + l2 / 2 * |W|² on standardised features, and the l2 used.

    With l2=None the strength is chosen by the cross-validated loss on these training examples alone: it tells strengths
    apart where the accuracy of a few dozen examples does not (docs/log.md). The standardisation is folded into the
    weights, so the head takes raw features.
    """
    features = rows.features
    mean, std = features.mean(0), features.std(0, correction=0)
    scale = torch.where(std > 1e-6 * std.max().clamp(min=1e-12), 1 / std.clamp(min=1e-12), 0.0)
    standard = Rows((features - mean) * scale, rows.targets, rows.groups)
    strength = l2 if l2 is not None else _choose(task, standard, seed)
    head = _solve(task, standard, strength)
    with torch.no_grad():
        head.weight.mul_(scale)  # (K, D) * (D,)
        head.bias.sub_(head.weight @ mean)
    return head, strength


def loss(task: Task, head: nn.Module, rows: Rows) -> float:
    """Return the mean loss of a head on rows."""
    with torch.no_grad():
        return float(task.loss(head(rows.features), rows.targets))


def outputs(task: Task, head: nn.Module, rows: network.Rows) -> Any:
    """Return what the task tallies of a head's outputs: (N, K), or a list of (Mi, …) where tokens are read."""
    with torch.no_grad():
        if isinstance(rows.values, Tensor):
            return task.tally(head(rows.values), rows.targets)
        pairs = zip(rows.values, rows.targets, strict=True)
        return [task.tally(head(values), targets) for values, targets in pairs]


def held_out_loss(task: Task, rows: Rows, l2: float, seed: int) -> float:
    """Return the mean loss of heads on the examples that each was solved without; infinite with too few of a class."""
    folds = _folds(rows, seed)
    return _held_out(task, rows, folds, l2) if len(folds) > 1 else math.inf


def _choose(task: Task, rows: Rows, seed: int) -> float:
    """Return the strength with the lowest cross-validated loss."""
    folds = _folds(rows, seed)
    if len(folds) < 2:
        return FEW
    return min(STRENGTHS, key=lambda strength: _held_out(task, rows, folds, strength))


def _held_out(task: Task, rows: Rows, folds: Sequence[Tensor], strength: float) -> float:
    total = 0.0
    for held in folds:
        kept = torch.ones(len(rows), dtype=torch.bool)
        kept[held] = False
        total += loss(task, _solve(task, rows.at(kept), strength), rows.at(held)) * len(held)
    return total / len(rows)


def _folds(rows: Rows, seed: int) -> list[Tensor]:
    """Deal rows into up to five folds: texts whole, classes evenly; fewer than two where a class has one example."""
    chance = torch.Generator().manual_seed(seed)
    if rows.groups is not None:
        texts = int(rows.groups.max()) + 1
        deal = torch.randperm(texts, generator=chance)[rows.groups] % min(FOLDS, texts)
        return [(deal == fold).nonzero()[:, 0] for fold in range(min(FOLDS, texts))]
    shuffled = torch.randperm(len(rows), generator=chance)
    classes = rows.targets.ndim == 1 and not rows.targets.is_floating_point()
    if not classes:
        count = min(FOLDS, len(rows))
        return [shuffled[start::count] for start in range(count)]
    count = min(FOLDS, int(torch.bincount(rows.targets)[rows.targets.unique()].min()))
    if count < 2:
        return []
    by_class = shuffled[rows.targets[shuffled].argsort(stable=True)]
    return [by_class[start::count] for start in range(count)]


def _solve(task: Task, rows: Rows, strength: float) -> nn.Linear:
    """Minimise by L-BFGS with a strong-Wolfe line search from zero weights; deterministic."""
    head: nn.Linear = nn.utils.skip_init(nn.Linear, rows.features.shape[1], len(task.labels))
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    solver = torch.optim.LBFGS(
        head.parameters(), max_iter=ROUNDS, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss = task.loss(head(rows.features), rows.targets) + strength / 2 * head.weight.square().sum()
        torch.autograd.backward(loss)
        return loss

    solver.step(objective)
    return head
