"""Solve a linear head on fixed features to convergence: L-BFGS, in the principal axes of the examples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.tasks.task import Task

CONSTANT = math.inf
"""Penalty of a head without weights: it predicts the mean, or the class frequencies."""
MAX_ITERATIONS = 200
FEW = 1_024
"""Examples or features up to which the Gram matrix of the fewer is decomposed, (M, M) or (D, D)."""
RANK = 1e-10
"""Eigenvalues of the Gram matrix below this share of the largest one are rounding errors (float64)."""
CURVATURE = 0.25
"""Largest second derivative of the cross-entropy by an output, for scaling: any value gives the same optimum."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Weight (K, R) and bias (K,) in the coordinates of a Problem."""

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
        return Problem(features, targets)
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


def solve(task: Task, data: Problem, penalty: float, start: Weights | None = None, tolerance: float = 1e-6) -> Weights:
    """Minimise mean loss + penalty / 2 * |W|² by L-BFGS with a strong-Wolfe line search; deterministic.

    `start` are weights to begin at (default zero), `tolerance` the largest gradient at the end.
    """
    outputs, x = len(task.labels), data.x
    scale: Tensor | float = 1.0
    if penalty == CONSTANT:  # without features the gradient of the weights is zero
        x, penalty = torch.zeros_like(x), 0.0
    elif data.spread is not None:
        scale = (data.spread * CURVATURE + penalty).rsqrt()  # in these units the Hessian is near the identity
    start = start or Weights(x.new_zeros(outputs, x.shape[1]), x.new_zeros(outputs))
    weight, bias = nn.Parameter(start.weight / scale), nn.Parameter(start.bias.clone())
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=tolerance,
        tolerance_change=tolerance**2 if x.dtype == torch.float64 else 1e-9,  # a loss changes by a squared gradient
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        solver.zero_grad()
        scaled = weight * scale
        loss = task.loss(x @ scaled.T + bias, data.targets) + penalty / 2 * scaled.square().sum()
        torch.autograd.backward(loss)
        return loss

    solver.step(objective)
    return Weights((weight * scale).detach(), bias.detach())


def loss(task: Task, data: Problem, solved: Weights) -> float:
    """Return the mean loss."""
    return float(task.loss(data.x @ solved.weight.T + solved.bias, data.targets))
