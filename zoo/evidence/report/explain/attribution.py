"""Attribution of an output to parts of an input: integrated gradients, and occlusion."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

GRID = 6
"""Cells of a picture's side that are hidden in turn."""
POINTS = (16, 48)
"""Points of the quadrature on the path; the next number is taken where completeness does not hold."""
TOLERANCE = 0.05
"""Largest error of the sum of attributions, as a share of the difference of the outputs or, of a small one, of 1."""
BATCH = 16
"""Inputs in one forward pass."""

Score = Callable[[Tensor], Tensor]
"""Inputs (B, …) -> one output for each, (B,)."""


def integrated_gradients(score: Score, end: Tensor, start: Tensor) -> tuple[Tensor, float]:
    """Return the attributions of score(end) - score(start) to each element of `end`, and the error of their sum.

    (end - start) times the mean gradient on the straight path between them (Sundararajan et al. 2017, arXiv
    1703.01365), by Gauss-Legendre quadrature: their sum is the difference of the outputs (completeness), but for the
    error of the quadrature.
    """
    with torch.no_grad():
        first, last = score(torch.stack([start, end])).tolist()
    difference, found, error = last - first, torch.zeros_like(end), 0.0
    for points in POINTS:
        found = (end - start) * _mean_gradient(score, end, start, points)
        error = abs(float(found.double().sum()) - difference)
        if error <= TOLERANCE * max(1.0, abs(difference)):
            break
    return found, error


def _mean_gradient(score: Score, end: Tensor, start: Tensor, points: int) -> Tensor:
    nodes, weights = np.polynomial.legendre.leggauss(points)  # on [-1, 1]; the weights sum to 2
    shape = (-1, *[1] * end.ndim)
    shares, weight = (torch.from_numpy(each / 2).to(end).view(shape) for each in (nodes + 1, weights))
    total = torch.zeros_like(end)
    for alpha, factor in zip(shares.split(BATCH), weight.split(BATCH), strict=True):
        inputs = (start + alpha * (end - start)).requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(score(inputs).sum(), inputs)
        total += (factor * gradient).sum(0)
    return total


def occlusion(score: Score, image: Tensor, grid: int = GRID) -> Tensor:
    """Return how much the score of an image (C, S, S) falls where each cell of a grid is hidden, (grid, grid).

    Hidden is a square twice as wide as the cell around its middle, by the mean colour of the image (occlusion
    sensitivity, Zeiler and Fergus 2014, section 4.2). Positive: what is there raises the score.
    """
    masks = _squares(grid, image.shape[-2:]).to(image)  # (grid², 1, S, S)
    mean = image.mean((1, 2), keepdim=True)
    with torch.inference_mode():
        whole = score(image[None])
        hidden = [score(image * (1 - mask) + mean * mask) for mask in masks.split(BATCH)]
    return (whole - torch.cat(hidden)).view(grid, grid)


def _squares(grid: int, size: torch.Size) -> Tensor:
    """Return a mask (grid², 1, H, W) for each cell, 1 inside a square of twice its width around its middle."""
    sides = []
    for length in size:
        middles = (torch.arange(grid) + 0.5) * length / grid
        places = torch.arange(length) + 0.5
        sides.append(((places - middles[:, None]).abs() < length / grid).float())  # (grid, length)
    rows, columns = sides
    return (rows[:, None, :, None] * columns[None, :, None, :]).reshape(grid * grid, 1, *size)
