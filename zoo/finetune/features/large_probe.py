"""The linear probe on features that do not fit into memory: solved over blocks of rows that are read from the disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from zoo.data.seeding import generator
from zoo.finetune.features import linear_probe, linear_solver
from zoo.finetune.features.linear_probe import Fitted, ProbeData, select
from zoo.finetune.features.linear_solver import CONSTANT, FEW
from zoo.finetune.features.stage_outputs import scale_blocks
from zoo.finetune.heads import empty_linear, stages_of
from zoo.tasks.task import Task

LARGE = 1 << 26
"""Values of features (M x D) above which blocks are solved: 256 MiB, of which the other solver makes three copies."""
SAMPLE = 1 << 23
"""Values of the rows on which the penalty is chosen."""
BLOCK = 8_192
"""Rows of a block."""
Choose = Callable[[Task, ProbeData, float | None, int], Fitted]


def is_large(task: Task, data: ProbeData) -> bool:
    """Return whether features are solved in blocks; a loss with class weights is no mean over rows, and is not."""
    return data.features.numel() > LARGE and getattr(task, "weights", None) is None


def fit(task: Task, data: ProbeData, l2: float | None, seed: int, choose: Choose) -> Fitted:
    """Return the head that minimises mean loss + l2 / 2 * |W|² over all rows, in memory of a block and D x D.

    Stages and penalty are chosen by `choose` on a sample of rows, whose solution is where the solver starts; the
    out-of-fold losses are those of the sample. 100,000 rows of 2,000 features, ten classes: 146 CPU seconds of one
    thread, 0.32 GiB beside the features (tools/bench/probe.py).
    """
    count = min(len(data), max(linear_probe.MANY, SAMPLE // data.features.shape[1]))
    rows = torch.randperm(len(data), generator=generator(seed, "sample"))[:count].sort().values
    groups = None if data.groups is None else data.groups[rows]
    if groups is None and data.views > 1:
        groups = rows % data.examples  # the views of an example share a fold
    first = choose(task, ProbeData(data.features[rows], data.targets[rows], groups, data.stages), l2, seed)
    if first.l2 == CONSTANT:
        return first
    stages = stages_of(first.head)
    objective = _Objective(task, data, len(stages), first.l2)
    weight, bias = objective.solve(first.head)
    head = empty_linear(data.dim, len(task.labels), stages)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return replace(first, head=head)


def loss(task: Task, head: nn.Module, data: ProbeData, stages: int) -> float:
    """Return the mean loss of a head that reads the last `stages` of the stages."""
    with torch.no_grad():
        total = sum(float(task.loss(head(x), targets)) * len(x) for x, targets in _blocks(data, stages))
    return total / len(data)


def _blocks(data: ProbeData, stages: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield features (B, D) and targets (B, …)."""
    kept = data.stages[len(data.stages) - stages :]
    for start in range(0, len(data), BLOCK):
        part = slice(start, start + BLOCK)
        yield select(data.features[part], data.dim, kept), data.targets[part]


class _Objective:
    """The penalised mean loss over blocks, as a function of weights and bias (1, K, R + 1) in principal axes."""

    def __init__(self, task: Task, data: ProbeData, stages: int, penalty: float) -> None:
        self.task, self.data = task, data
        self.stages = kept = data.stages[len(data.stages) - stages :]
        self.mean, std = self._moments()
        self.scale = linear_probe.scale_of(self.mean, std, [data.dim, *(stage.dim for stage in kept)])
        self.axes, spread = self._principal_axes()
        ones = self.mean.new_ones(len(spread) + 1)
        self.ridge = torch.cat([ones[:-1] * penalty, ones[-1:] * 0])
        self.spread = torch.cat([spread, ones[-1:]])

    def solve(self, start: nn.Linear) -> tuple[Tensor, Tensor]:
        """Return the weight (K, D) and the bias (K,) on the features, from those of another head on."""
        with torch.no_grad():
            scaled = torch.where(self.scale > 0, start.weight / self.scale, 0.0)
            weight = scaled if self.axes is None else scaled @ self.axes
            bias = start.bias + start.weight @ self.mean
            point = torch.cat([weight, bias[:, None]], 1)[None]
        found = linear_solver.minimise(self, point, linear_probe.TOLERANCE)[0]
        weight = self._on_features(found[:, :-1]) * self.scale
        return weight, found[:, -1] - weight @ self.mean

    def values(self, point: Tensor) -> Tensor:
        """Return the objective, (1,)."""
        total = 0.0
        for x, targets in self._scaled():
            total += float(self.task.loss(self._outputs(x, point), targets)) * len(x)
        return total / len(self.data) + (self.ridge * point.square()).sum((1, 2)) / 2

    def gradient(self, point: Tensor) -> Tensor:
        """Return the gradient (1, K, R + 1)."""
        found = torch.zeros_like(point, dtype=torch.float64)
        for x, targets in self._scaled():
            found += self._pull_back(self._slopes(x, targets, point), x)
        return found.to(point) + self.ridge * point

    def hessian(self, point: Tensor) -> tuple[linear_solver.Product, Tensor]:
        """Return the function that multiplies the Hessian by directions, and about its inverse diagonal."""

        def product(direction: Tensor) -> Tensor:
            found = torch.zeros_like(point, dtype=torch.float64)
            for x, targets in self._scaled():
                found += self._pull_back(self._curvature(x, targets, point)(self._outputs(x, direction)), x)
            return found.to(point) + self.ridge * direction

        draws, diagonal = generator(0, "signs"), 0.0
        for x, targets in self._scaled():
            signs = torch.randint(2, (len(x), point.shape[1]), generator=draws).to(x) * 2 - 1
            bent = self._curvature(x, targets, point)(signs)
            diagonal += float((signs * bent).sum()) / point.shape[1]  # its mean (Hutchinson 1989)
        diagonal = max(diagonal, float(torch.finfo(point.dtype).eps))
        return product, 1 / (diagonal * self.spread + self.ridge)

    def _slopes(self, x: Tensor, targets: Tensor, point: Tensor) -> Tensor:
        """Return the slopes of the mean loss over all rows by the outputs (B, K)."""
        with torch.enable_grad():
            outputs = self._outputs(x, point).requires_grad_()
            loss = self.task.loss(outputs, targets) * (len(x) / len(self.data))
            (slopes,) = torch.autograd.grad(loss, outputs)
        return slopes

    def _curvature(self, x: Tensor, targets: Tensor, point: Tensor) -> linear_solver.Product:
        """Return the product of the Hessian of the mean loss over all rows, by the outputs, with directions (B, K)."""
        product, share = self.task.loss_curvature(self._outputs(x, point), targets), len(x) / len(self.data)
        return lambda direction: product(direction) * share

    def _outputs(self, x: Tensor, point: Tensor) -> Tensor:
        return x @ self._on_features(point[0, :, :-1]).T + point[0, :, -1]

    def _on_features(self, weight: Tensor) -> Tensor:
        """Return weights (K, R) on the scaled features, (K, D)."""
        return weight if self.axes is None else weight @ self.axes.T

    def _pull_back(self, slopes: Tensor, x: Tensor) -> Tensor:
        """Return slopes by outputs (B, K) as slopes by weights and bias (1, K, R + 1)."""
        weight = slopes.T @ x
        return torch.cat([weight if self.axes is None else weight @ self.axes, slopes.sum(0)[:, None]], 1)[None]

    def _scaled(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (((x - self.mean) * self.scale, targets) for x, targets in self._blocks())

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features (B, D) as the weights of the head multiply them, and targets (B, …)."""
        return ((scale_blocks(x, self.stages), targets) for x, targets in _blocks(self.data, len(self.stages)))

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each feature, (D,) float32."""
        count = len(self.data)
        mean = torch.stack([x.double().sum(0) for x, _ in self._blocks()]).sum(0) / count
        parts = [(x - mean).square_().sum(0) for x, _ in self._blocks()]
        return mean.float(), (torch.stack(parts).sum(0) / count).sqrt().float()

    def _principal_axes(self) -> tuple[Tensor | None, Tensor]:
        """Return the principal axes (D, R) of the scaled features and their mean squares (R,), None if D > 1,024."""
        dim, count = len(self.mean), len(self.data)
        if dim > FEW:
            return None, sum((x.square().sum(0) for x, _ in self._scaled()), self.mean.new_zeros(dim)) / count
        gram = torch.zeros(dim, dim, dtype=torch.float64)
        for x, _ in self._scaled():
            gram += (x.T @ x).double()
        values, axes = torch.linalg.eigh(gram)
        kept = values > linear_solver.RANK * values[-1].clamp(min=math.sqrt(linear_solver.RANK))
        return axes[:, kept].float(), (values[kept] / count).float()
