"""Temperature scaling: calibrate the probabilities of a classifier on validation data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.data.seeding import generator

BINS = 15
"""Bins of Guo et al. 2017."""
COLDEST, HOTTEST = 0.05, 20.0
"""Bounds of the temperature: validation data without an error would drive it to 0."""
HALVINGS = 60
"""Bisections of the interval of log 1 / T, which is 6 long: beyond the resolution of float64."""
FOLDS = 5
FEWEST = 50
"""Validation examples needed: at 90 % accuracy fewer hold at most five errors, one for each fold, and only errors keep
the temperature from falling."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The temperature, and the expected calibration error in [0, 1] before and after scaling by it.

    `after` is of outputs that were each scaled by the temperature of the other folds, so it is not optimistic.
    """

    temperature: float
    before: float
    after: float


def ece(outputs: Tensor, targets: Tensor, bins: int = BINS) -> float:
    """Return the expected calibration error in [0, 1] of outputs (N, K) against classes (N,), 0 of none.

    The mean gap between accuracy and largest probability in bins of equal width, each weighed by its examples: Guo et
    al. 2017 (arXiv 1706.04599), equation 3.
    """
    sure, guesses = outputs.double().softmax(1).max(1)
    # As there, a bin holds its upper edge: (m - 1) / M < p <= m / M.
    place = ((sure * bins).ceil().long() - 1).clamp(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, (guesses == targets).double() - sure)
    return float(gaps.abs().sum() / max(1, len(targets)))


def temperature(outputs: Tensor, targets: Tensor) -> float:
    """Return the T in [0.05, 20] that minimises the mean cross-entropy of outputs / T (N, K) against classes (N,).

    The cross-entropy is convex in 1 / T; its derivative there is the mean output by the softmax of outputs / T, less
    the output of the target. Bisection finds where it is 0, in float64; 1 where it is 0 everywhere.
    """
    centred = outputs.double() - outputs.double().gather(1, targets[:, None])  # (N, K), 0 at the target

    def slope(inverse: float) -> float:
        return float(((centred * inverse).softmax(1) * centred).sum())

    if not centred.any():
        return 1.0
    low, high = -math.log(HOTTEST), -math.log(COLDEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(math.exp(middle)) > 0 else (middle, high)
    return min(HOTTEST, max(COLDEST, math.exp(-(low + high) / 2)))


def calibrate(head: nn.Linear, outputs: Tensor, targets: Tensor, seed: int) -> Calibration | None:
    """Divide weight and bias of a head in place by the temperature of its validation outputs (N, K), if that helps.

    It helps if it lowers the cross-fitted cross-entropy (the calibration error itself is too noisy to choose by); else
    the head stays as it is, with temperature 1. Probabilities change, predicted classes do not. None with fewer than 50
    examples.
    """
    if len(targets) < FEWEST:
        return None
    outputs = outputs.double()
    before = ece(outputs, targets)
    scaled = _cross_fitted(outputs, targets, seed)
    if not F.cross_entropy(scaled, targets) < F.cross_entropy(outputs, targets):
        return Calibration(1.0, before, before)
    found = temperature(outputs, targets)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.div_(found)
    return Calibration(found, before, ece(scaled, targets))


def _cross_fitted(outputs: Tensor, targets: Tensor, seed: int) -> Tensor:
    """Return the outputs (N, K), each divided by the temperature of the other folds (cross-fitting)."""
    scaled = torch.empty_like(outputs)
    for held in torch.randperm(len(targets), generator=generator(seed, "calibration")).chunk(FOLDS):
        kept = torch.ones(len(targets), dtype=torch.bool)
        kept[held] = False
        scaled[held] = outputs[held] / temperature(outputs[kept], targets[kept])
    return scaled
