"""The linear probe: a linear head on frozen features, solved to convergence rather than trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.tasks.task import Task

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FEW = 1e-2
"""The strength where a class has too few examples to cross-validate."""
FOLDS = 5
ROUNDS = 200


def fit(task: Task, features: Tensor, targets: Tensor, l2: float | None, seed: int) -> tuple[nn.Linear, float]:
    """Return the head that minimises mean loss + l2 / 2 * |W|² on standardised features (N, D), and the l2 used.

    With l2=None the strength is chosen by cross-validated accuracy on these training examples alone. The
    standardisation is folded into the weights, so the head takes raw features.
    """
    mean, std = features.mean(0), features.std(0, correction=0)
    scale = torch.where(std > 1e-6 * std.max().clamp(min=1e-12), 1 / std.clamp(min=1e-12), 0.0)
    standard = (features - mean) * scale
    strength = l2 if l2 is not None else _choose(task, standard, targets, seed)
    head = _solve(task, standard, targets, strength)
    with torch.no_grad():
        head.weight.mul_(scale)  # (K, D) * (D,)
        head.bias.sub_(head.weight @ mean)
    return head, strength


def _choose(task: Task, features: Tensor, targets: Tensor, seed: int) -> float:
    """Return the strength with the best cross-validated score; among equals, the one in the middle."""
    folds = _folds(targets, seed)
    if len(folds) < 2:
        return FEW
    scores = [_score(task, features, targets, folds, strength) for strength in STRENGTHS]
    best = [s for s, score in zip(STRENGTHS, scores, strict=True) if score == max(scores)]
    return best[len(best) // 2]


def _score(task: Task, features: Tensor, targets: Tensor, folds: Sequence[Tensor], strength: float) -> float:
    hits = 0.0
    for held in folds:
        kept = torch.ones(len(targets), dtype=torch.bool)
        kept[held] = False
        head = _solve(task, features[kept], targets[kept], strength)
        with torch.no_grad():
            hits += task.measure(head(features[held]), targets[held])[task.best] * len(held)
    return round(hits / len(targets), 6)


def _folds(targets: Tensor, seed: int) -> list[Tensor]:
    """Deal the examples of each class into up to five folds; fewer than two where a class has one example."""
    count = min(FOLDS, int(torch.bincount(targets)[targets.unique()].min()))
    if count < 2:
        return []
    chance = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(targets), generator=chance)
    by_class = shuffled[targets[shuffled].argsort(stable=True)]
    return [by_class[start::count] for start in range(count)]


def _solve(task: Task, features: Tensor, targets: Tensor, strength: float) -> nn.Linear:
    """Minimise by L-BFGS with a strong-Wolfe line search from zero weights; deterministic."""
    head: nn.Linear = nn.utils.skip_init(nn.Linear, features.shape[1], len(task.labels))
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    solver = torch.optim.LBFGS(
        head.parameters(), max_iter=ROUNDS, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss = task.loss(head(features), targets) + strength / 2 * head.weight.square().sum()
        torch.autograd.backward(loss)
        return loss

    solver.step(objective)
    return head
