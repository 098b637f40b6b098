"""Solve a linear head on fixed features to convergence: Newton's method, in the principal axes of the examples.

Where examples M or features D are at most 1,024, the decomposition costs M * D * min(M, D) operations and a copy in
float64, and each step little. Else a product with the Hessian costs 4 * M * D * K operations for each part, and
features and their scaled copy are in memory, 8 * M * D bytes; above 256 MiB of features large_probe solves by blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from zoo.data.seeding import generator
from zoo.tasks.task import Task

CONSTANT = math.inf
"""Penalty of a head without weights: it predicts the mean, or the class frequencies."""
MAX_STEPS, MAX_PRODUCTS = 100, 200
"""Newton steps of a solution, and products with the Hessian in each."""
FORCING = 0.1
"""Largest residual of a step, as a share of the gradient: far from the optimum an exact step is not worth its cost."""
DECREASE = 1e-4
"""Least decrease of the loss, as a share of what the slope promises (Nocedal and Wright 2006, 3.1)."""
ROUNDING = 10
"""Multiple of the machine epsilon below which a relative change of an objective may be rounding."""
FEW = 1_024
"""Examples or features up to which the Gram matrix of the fewer is decomposed, (M, M) or (D, D)."""
RANK = 1e-10
"""Eigenvalues of the Gram matrix below this share of the largest one are rounding errors (float64)."""
Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Weights:
    """Weight (K, R) and bias (K,) in the coordinates of a Problem; of F parts (F, K, R) and (F, K)."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class Problem:
    """Features and targets in coordinates in which a head is solved.

    x        (M, R): the features, or their coordinates in an orthonormal basis of the span of the examples
    targets  (M, …)
    basis    (D, R) float64, orthonormal columns; None: x are the features
    spread   (R,) mean squares of the coordinates, which precondition the solver; None: all alike
    """

    x: Tensor
    targets: Tensor
    basis: Tensor | None = None
    spread: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def at(self, index: Tensor) -> Problem:
        """Return some of the examples, in the same coordinates."""
        return Problem(self.x[index], self.targets[index], self.basis, self.spread)

    def weight(self, solved: Weights) -> Tensor:
        """Return the weight on the features, (K, D) float32."""
        return (solved.weight if self.basis is None else solved.weight.double() @ self.basis.T).float()


def problem(features: Tensor, targets: Tensor) -> Problem:
    """Return the problem of standardised features (M, D) in the principal axes of the examples, if M or D <= 1,024.

    The optimum lies in the span of the examples (representer theorem), where it is the same: the basis is orthonormal,
    so |W|² is too. In principal axes the curvature is known but for the outputs, and few iterations suffice.
    """
    count, dim = features.shape
    if min(count, dim) > FEW:
        return Problem(features, targets, spread=torch.linalg.vector_norm(features, dim=0).square() / count)
    exact = features.double()
    values, axes = torch.linalg.eigh(exact @ exact.T if count < dim else exact.T @ exact)
    kept = values > RANK * values[-1].clamp(min=RANK)
    if not kept.any():
        return Problem(features, targets)
    values, axes = values[kept], axes[:, kept]
    basis = (exact.T @ axes) / values.sqrt() if count < dim else axes
    x = axes * values.sqrt() if count < dim else exact @ axes
    if count > FEW:
        return Problem(x.float(), targets, basis, (values / count).float())
    return Problem(x, targets.double() if targets.is_floating_point() else targets, basis, values / count)


def solve(task: Task, data: Problem, penalty: float, start: Weights | None = None) -> Weights:
    """Minimise mean loss + penalty / 2 * |W|² on all examples: `solve_parts` of one part."""
    starts = None if start is None else Weights(start.weight[None], start.bias[None])
    found = solve_parts(task, data, [torch.arange(len(data))], penalty, starts)
    return Weights(found.weight[0], found.bias[0])


def solve_parts(
    task: Task,
    data: Problem,
    parts: Sequence[Tensor],
    penalty: float,
    start: Weights | None = None,
    tolerance: float = 1e-10,
) -> Weights:
    """Minimise mean loss + penalty / 2 * |W|² on each of F parts of the examples, by Newton's method; deterministic.

    parts      indices of examples, such as those that a fold trains on; all parts take their steps together
    start      weights to begin at, zero by default
    tolerance  expected fall of an objective below which the step is the last one

    Returns weight (F, K, R) and bias (F, K). A step is solved by conjugate gradients only as far as it is worth
    (Nocedal and Wright 2006, 7.1), and halved until the objective falls.
    """
    count, outputs, dim = len(parts), len(task.labels), data.x.shape[1]
    start = start or Weights(data.x.new_zeros(count, outputs, dim), data.x.new_zeros(count, outputs))
    if penalty == CONSTANT:
        objective = _Objective(task, Problem(data.x[:, :0], data.targets), parts, 0.0)
        return Weights(torch.zeros_like(start.weight), minimise(objective, start.bias[..., None], tolerance)[..., 0])
    point = torch.cat([start.weight, start.bias[..., None]], 2)
    found = minimise(_Objective(task, data, parts, penalty), point, tolerance)
    return Weights(found[..., :-1], found[..., -1])


class Objective(Protocol):
    """Functions of weights and bias (F, K, R + 1) that `minimise` needs."""

    def values(self, point: Tensor) -> Tensor:
        """Return the objective of each part (F,)."""
        ...

    def gradient(self, point: Tensor) -> Tensor:
        """Return the gradient (F, K, R + 1)."""
        ...

    def hessian(self, point: Tensor) -> tuple[Product, Tensor]:
        """Return the product of the Hessian with a direction, and about the inverse of its diagonal."""
        ...


class _Objective:
    """Penalised mean losses of F parts, as functions of weights and bias (F, K, R + 1)."""

    def __init__(self, task: Task, data: Problem, parts: Sequence[Tensor], penalty: float) -> None:
        self.task, self.data, self.parts = task, data, parts
        ones = data.x.new_ones(data.x.shape[1] + 1)
        self.ridge = torch.cat([ones[:-1] * penalty, ones[-1:] * 0])
        self.spread = ones if data.spread is None else torch.cat([data.spread.to(ones), ones[-1:]])
        self.share = data.x.new_zeros(len(data), len(parts), 1)  # of an example in the mean loss of a part
        for number, rows in enumerate(parts):
            self.share[rows, number] = 1 / len(rows)

    def outputs(self, point: Tensor) -> Tensor:
        """Return the outputs (M, F, K)."""
        weight = point[..., :-1].flatten(0, 1)  # (F * K, R)
        return (self.data.x @ weight.T).reshape(-1, *point.shape[:2]) + point[..., -1]

    def pull_back(self, slopes: Tensor) -> Tensor:
        """Return slopes by outputs (M, F, K) as slopes by weights and bias (F, K, R + 1)."""
        weight = (slopes.flatten(1).T @ self.data.x).unflatten(0, slopes.shape[1:])
        return torch.cat([weight, slopes.sum(0)[..., None]], 2)

    def losses(self, outputs: Tensor) -> Tensor:
        """Return the mean loss of each part (F,)."""
        targets = self.data.targets
        return torch.stack([self.task.loss(outputs[rows, i], targets[rows]) for i, rows in enumerate(self.parts)])

    def values(self, point: Tensor) -> Tensor:
        """Return the objective of each part (F,)."""
        return self.losses(self.outputs(point)) + (self.ridge * point.square()).sum((1, 2)) / 2

    def gradient(self, point: Tensor) -> Tensor:
        """Return the gradient (F, K, R + 1)."""
        with torch.enable_grad():
            outputs = self.outputs(point).requires_grad_()
            (slopes,) = torch.autograd.grad(self.losses(outputs).sum(), outputs)
        return self.pull_back(slopes) + self.ridge * point

    def hessian(self, point: Tensor) -> tuple[Product, Tensor]:
        """Return the function that multiplies the Hessian by directions (F, K, R + 1), and about its inverse diagonal.

        A loss is a mean over examples, so one pass serves all parts. Where classes have weights, those of a part are
        taken to have the mean of all, which changes the length of a step, and not where the steps end.
        """
        count, parts = self.share.shape[:2]
        outputs = self.outputs(point).flatten(0, 1)  # (M * F, K)
        curvature = self.task.loss_curvature(outputs, self.data.targets.repeat_interleave(parts, 0))
        share = self.share * (count * parts)

        def bend(directions: Tensor) -> Tensor:
            return curvature(directions.flatten(0, 1)).reshape(count, parts, -1) * share

        def product(direction: Tensor) -> Tensor:
            return self.pull_back(bend(self.outputs(direction))) + self.ridge * direction

        signs = torch.randint(2, (count, parts, outputs.shape[1]), generator=generator(0, "signs")).to(outputs) * 2 - 1
        diagonal = (signs * bend(signs)).sum((0, 2)) / outputs.shape[1]  # (F,), its mean (Hutchinson 1989)
        diagonal = diagonal.clamp(min=float(torch.finfo(diagonal.dtype).eps))
        return product, 1 / (diagonal[:, None, None] * self.spread + self.ridge)


def minimise(objective: Objective, point: Tensor, tolerance: float) -> Tensor:
    """Return the points (F, K, R + 1) at which no step lets an objective fall by more than `tolerance`, or rounding."""
    values = objective.values(point)
    moving = torch.ones_like(values, dtype=torch.bool)
    for _ in range(MAX_STEPS):
        gradient = objective.gradient(point) * moving[:, None, None]
        direction = _newton_direction(gradient, *objective.hessian(point))
        fall = -(gradient * direction).sum((1, 2))
        least = ROUNDING * torch.finfo(point.dtype).eps * values.abs()
        length = (fall > least).to(fall)
        while True:
            moved = point + length[:, None, None] * direction
            found = objective.values(moved)
            if not (failed := (length > 0) & ~(found <= values - DECREASE * length * fall)).any():
                break
            length = torch.where(failed, length / 2, length)
            length = torch.where(length * fall <= least, 0.0, length)
        point, values = moved, found
        moving &= (fall > tolerance) & (length > 0)
        if not moving.any():
            break
    return point


def _newton_direction(gradient: Tensor, hessian: Product, inverse_diagonal: Tensor) -> Tensor:
    """Solve Hessian @ direction = -gradient by conjugate gradients, to a residual that is small enough."""
    direction, residual = torch.zeros_like(gradient), -gradient
    search = residual * inverse_diagonal
    size = _dot(residual, search)
    goal = size * size.sqrt().clamp(max=FORCING) ** 2
    for _ in range(MAX_PRODUCTS):
        bent = hessian(search)
        curvature = _dot(search, bent)
        moving = (size > goal) & (curvature > 0)  # no curvature: flat, as where a class has no examples
        if not moving.any():
            break
        step = torch.where(moving, size / curvature, 0.0)
        direction, residual = direction + step * search, residual - step * bent
        scaled = residual * inverse_diagonal
        before, size = size, _dot(residual, scaled)
        search = scaled + torch.where(moving, size / before, 0.0) * search
    return direction


def _dot(one: Tensor, two: Tensor) -> Tensor:
    return (one * two).sum((1, 2), keepdim=True)


def loss(task: Task, data: Problem, solved: Weights) -> float:
    """Return the mean loss."""
    return float(task.loss(data.x @ solved.weight.T + solved.bias, data.targets))
