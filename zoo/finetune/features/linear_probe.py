"""The linear probe: a linear head on frozen features, solved to convergence instead of trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.seeding import generator
from zoo.finetune.features import linear_solver
from zoo.finetune.features.linear_solver import CONSTANT, Problem, Weights
from zoo.finetune.features.stage_outputs import StageOutput, scale_blocks
from zoo.finetune.heads import empty_linear, stages_of
from zoo.finetune.inference import Outputs
from zoo.tasks.task import Task

PENALTIES = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""Strengths of L2, tried from the strongest until the loss rises, on features whose variances sum to 1."""
LEAST_GAIN = 0.01
"""Least fall of a cross-entropy for a weaker penalty, as a share of the loss without features.

Where the classes are separable their cross-entropy falls with the penalty without end, and near-duplicates in other
folds hide that the answers get worse (docs/log.md). A squared error has a minimum.
"""
TOLERANCE = 1e-6
"""Expected fall of the objective at which a solution of cross-validation ends."""
DEFAULT_PENALTY = 1e-2
"""Used where no class has enough examples for cross-validation: the best fixed one at 2 a class (docs/log.md)."""
FLOOR = 2.0
"""Least divisor of a feature, as a share of the mean standard deviation of the features of its stage.

Dividing each feature by its own deviation makes the noise of a nearly constant one as large as the others, and costs 1
to 15 points of accuracy at 2 examples a class. So all are divided alike, but for outliers, which would hide the others
(docs/log.md).
"""
DECAY = 0.5
"""Share of the variance that a stage has of the share of the next one (docs/log.md); the pooled features have most."""
ROUNDING = 1e-4
"""Share of a loss that may be rounding."""
CONSTANT_STAGE = 1e-6
"""Deviation below which a stage is constant, relative to its largest mean."""
FOLDS = 5
MANY = 2_000
"""Rows from which one fold of five is held out, once."""
PRIOR, LIKELY = 0.1, 0.1
"""Weight of a prior on the strength of L2 of a classifier, and its centre.

To the out-of-fold loss is added, as a share of the loss without features, PRIOR * log10(penalty / LIKELY)² / examples:
the losses of a dozen examples tell weak penalties apart by chance (docs/log.md).
"""
Solve = Callable[["Task", "ProbeData", float | None, int], "Fitted"]
"""`choose` or `fit`."""
MAX_VALUES = 1 << 27
"""Largest N x D of features with stage outputs: 512 MiB of float32."""


@dataclass(frozen=True, slots=True)
class ProbeData:
    """Features (M, D) with their targets (M, …); rows of one group (M,), such as a text, share a fold.

    With `stages`, the last of the D features are the outputs of these, and the first the pooled features. The rows are
    `views` of the same examples, one view after the other: the examples themselves, which alone are held out, come
    first.
    """

    features: Tensor
    targets: Tensor
    groups: Tensor | None = None
    stages: tuple[StageOutput, ...] = ()
    views: int = 1

    def __len__(self) -> int:
        return len(self.features)

    @property
    def examples(self) -> int:
        """Number of rows of the first view."""
        return len(self) // self.views

    @property
    def inputs(self) -> Tensor:
        """Features (M, D) as the weights of a head multiply them."""
        return scale_blocks(self.features, self.stages)

    @property
    def dim(self) -> int:
        """Number of pooled features."""
        return self.features.shape[1] - sum(stage.dim for stage in self.stages)

    def for_head(self, head: nn.Module) -> ProbeData:
        """Return the data with the stages that a head reads; the last ones of `stages`."""
        return self.last_stages(len(stages_of(head)))

    def last_stages(self, count: int) -> ProbeData:
        """Return the data with the last `count` of its stages."""
        kept = self.stages[len(self.stages) - count :]
        return replace(self, features=select(self.features, self.dim, kept), stages=kept)

    def first_view(self) -> ProbeData:
        """Return the examples themselves, without their augmented views."""
        count = self.examples
        groups = None if self.groups is None else self.groups[:count]
        return replace(self, features=self.features[:count], targets=self.targets[:count], groups=groups, views=1)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A head, its L2 strength, and out-of-fold losses.

    loss       the mean over examples; infinite without folds
    constant   the same without features
    folds      the mean of each fold
    """

    head: nn.Linear
    l2: float
    loss: float
    constant: float
    folds: tuple[float, ...] = ()


def select(features: Tensor, dim: int, stages: Sequence[StageOutput]) -> Tensor:
    """Return the pooled features and the last columns, those of `stages`, of features (M, D)."""
    width = sum(stage.dim for stage in stages)
    if dim + width == features.shape[1]:
        return features
    return torch.cat([features[:, :dim], features[:, features.shape[1] - width :]], 1)


def choose(task: Task, data: ProbeData, l2: float | None, seed: int) -> Fitted:
    """Return the head on pooled features and all stages, or on pooled features alone where these are clearly better.

    That is where their out-of-fold loss is lower in each of five folds: a lower mean is too often chance, and the wrong
    choice costs more than the right one gains (docs/log.md).
    """
    staged = fit(task, data, l2, seed)
    if not data.stages or len(staged.folds) not in (1, FOLDS):
        return staged
    pooled = fit(task, data.last_stages(0), l2, seed)
    margin = least_gain(task, pooled.constant) if len(staged.folds) == 1 else ROUNDING * pooled.constant
    is_better = all(one < other - margin for one, other in zip(pooled.folds, staged.folds, strict=True))
    return pooled if is_better else staged


def choose_views(solve: Solve, task: Task, data: ProbeData, l2: float | None, seed: int) -> tuple[ProbeData, Fitted]:
    """Return the data with all views, or the first one where the others do not lower its out-of-fold loss; solved."""
    fitted = solve(task, data, l2, seed)
    if data.views == 1 or not fitted.folds:
        return data, fitted
    alone = solve(task, data.first_view(), l2, seed)
    return (data, fitted) if fitted.loss < alone.loss else (data.first_view(), alone)


def fit(task: Task, data: ProbeData, l2: float | None, seed: int) -> Fitted:
    """Return the head that minimises mean loss + l2 / 2 * |W|² on scaled features, all its stages included.

    With l2=None it is chosen by cross-validated loss on these examples, which separates penalties where the accuracy of
    a few dozen examples does not (docs/log.md). The scale is folded into the weights.
    """
    inputs, mean, factor = _standardised(data)
    problem = linear_solver.problem(inputs, data.targets)
    folds = _folds(data, seed)
    penalty, losses, constant = _cross_validate(task, problem, data, folds, PENALTIES if l2 is None else (l2,))
    solved = linear_solver.solve(task, problem, penalty)
    head = empty_linear(data.dim, len(task.labels), data.stages)
    with torch.no_grad():
        head.weight.copy_(problem.weight(solved) * factor)  # (K, D) * (D,)
        head.bias.copy_(solved.bias - head.weight @ mean)
    return Fitted(head, penalty, _mean(losses, folds), constant, losses)


def out_of_fold(task: Task, data: ProbeData, splits: Sequence[Sequence[Tensor]], l2: float) -> list[Tensor]:
    """Return the outputs (M, K) of all rows for each split into folds, by the head that is trained on the other folds.

    A fold holds indices of rows; outputs of rows in no fold are NaN. The features are scaled over all rows, as their
    means and deviations know nothing of the targets.
    """
    problem = linear_solver.problem(_standardised(data)[0], data.targets)
    found, solved = [], None
    for folds in splits:
        parts = [_others(data, held) for held in folds]
        solved = linear_solver.solve_parts(task, problem, parts, l2, solved, TOLERANCE)
        outputs = data.features.new_full((len(data), len(task.labels)), math.nan)
        for held, weight, bias in zip(folds, solved.weight, solved.bias, strict=True):
            outputs[held] = (problem.x[held] @ weight.T + bias).float()
        found.append(outputs)
    return found


def _standardised(data: ProbeData) -> tuple[Tensor, Tensor, Tensor]:
    """Return features (M, D) for the solver, and what was subtracted from each and then multiplied with it, (D,).

    Their variances sum to 1, half as much for each earlier stage.
    """
    inputs = data.inputs
    mean, std = inputs.mean(0), inputs.std(0, correction=0)
    factor = scale_of(mean, std, [data.dim, *(stage.dim for stage in data.stages)])
    return (inputs - mean).mul_(factor), mean, factor


def scale_of(mean: Tensor, std: Tensor, dims: Sequence[int]) -> Tensor:
    """Return the scale (D,) of features by their moments; `dims` are those of the pooled features and of each stage."""
    shares = [1.0, *(DECAY**depth for depth in range(len(dims) - 1, 0, -1))]
    scales = []
    for share, centre, part in zip(shares, mean.split(dims), std.split(dims), strict=True):
        typical = float(part.mean())
        if typical <= CONSTANT_STAGE * float(centre.abs().max()):
            scales.append(torch.zeros_like(part))
            continue
        scale = 1 / part.clamp(min=FLOOR * typical)
        scales.append(scale * math.sqrt(share / sum(shares)) / (part * scale).norm())
    return torch.cat(scales)


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


def _cross_validate(
    task: Task, problem: Problem, data: ProbeData, folds: Sequence[Tensor], penalties: Sequence[float]
) -> tuple[float, tuple[float, ...], float]:
    """Return the penalty with the lowest out-of-fold loss, the losses of its folds, and the loss without features.

    From the strongest on, weaker ones are tried while the loss falls, each from the solution of the one before. Of a
    regression it is CONSTANT if none does better than the mean; of other tasks the answers (the largest outputs) mean
    something even where the losses do not.
    """
    if not folds:
        return (penalties[0] if len(penalties) == 1 else DEFAULT_PENALTY), (), math.inf
    kept = [_others(data, held) for held in folds]
    without = _losses(task, problem, folds, linear_solver.solve_parts(task, problem, kept, CONSTANT))
    constant = _mean(without, folds)
    bar = (1 - ROUNDING) * constant
    best, losses, lowest = CONSTANT, without, bar if task.name == "regress" and len(penalties) > 1 else math.inf
    solved: Weights | None = None
    last, largest, least = constant, 0.0, least_gain(task, constant)
    for penalty in penalties:
        solved = linear_solver.solve_parts(task, problem, kept, penalty, solved, TOLERANCE)
        found = _losses(task, problem, folds, solved)
        mean = _mean(found, folds)
        if task.name != "regress":
            mean += PRIOR * math.log10(penalty / LIKELY) ** 2 / data.examples * constant
        gain, last = last - mean, mean
        is_flat = gain < least <= largest  # behind the steep part of the path
        if lowest < bar and (gain < 0 or is_flat):
            break
        largest = max(largest, gain)
        if mean < lowest:
            best, losses, lowest = penalty, found, mean
    return best, losses, constant


def least_gain(task: Task, constant: float) -> float:
    """Return by how much a loss has to fall to count; `constant` is the loss without features."""
    return 0.0 if task.name == "regress" else LEAST_GAIN * constant


def _others(data: ProbeData, held: Tensor) -> Tensor:
    """Return the rows, in all views, of the examples that are not held out."""
    kept = torch.ones(data.examples, dtype=torch.bool)
    kept[held] = False
    return kept.repeat(data.views).nonzero()[:, 0]


def _losses(task: Task, problem: Problem, folds: Sequence[Tensor], solved: Weights) -> tuple[float, ...]:
    """Return the mean loss on the held-out examples of each fold, by its own weights."""
    heads = zip(folds, solved.weight, solved.bias, strict=True)
    return tuple(linear_solver.loss(task, problem.at(held), Weights(*own)) for held, *own in heads)


def _mean(losses: Sequence[float], folds: Sequence[Tensor]) -> float:
    """Return the mean loss over the examples of all folds; infinite without any."""
    if not folds:
        return math.inf
    return sum(loss * len(held) for loss, held in zip(losses, folds, strict=True)) / sum(map(len, folds))


def _folds(data: ProbeData, seed: int) -> list[Tensor]:
    """Return up to five folds: whole groups, stratified classes; the only example of a class is in none of them.

    There are no folds where each class has one example, and one fold of many rows.
    """
    folds = all_folds(data, seed)
    return [] if len(folds) < 2 else folds[:1] if data.examples >= MANY else folds


def all_folds(data: ProbeData, seed: int) -> list[Tensor]:
    """Return up to five folds as for cross-validation, of many rows too, and one where there is no second."""
    data = data.first_view()
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
