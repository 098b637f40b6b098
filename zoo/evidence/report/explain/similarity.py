"""Similarity of two representations of the same examples: debiased linear CKA, and its floor by permutation.

CKA of N examples is biased upwards where features outnumber them: two random (100, 1000) matrices have a biased linear
CKA above 0.9 (arXiv 2405.01012). With the unbiased estimator of HSIC (Song et al. 2012, JMLR 13) it is about 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data.seeding import generator

FEWEST = 4
"""Examples that the unbiased estimator needs."""
PERMUTATIONS = 200
FLOOR = 0.95
"""Quantile of the permuted values that is the floor."""


@dataclass(frozen=True, slots=True)
class Similarity:
    """Debiased CKA of two representations: 1 if equal up to rotation and scale, about 0 if unrelated.

    `floor` is the 95th percentile where the examples of one are shuffled: a value below it may be chance.
    """

    cka: float
    floor: float


def compare(one: Tensor, two: Tensor, seed: int = 0) -> Similarity | None:
    """Return the similarity of features (N, D) and (N, E); None below 4 examples, or where one is constant."""
    if len(one) < FEWEST:
        return None
    first, second = gram(one), gram(two)
    norm = float((first.square().sum() * second.square().sum()).sqrt())
    if not norm > 0:  # NaN as well
        return None
    draws = generator(seed, "CKA")
    orders = [torch.randperm(len(one), generator=draws) for _ in range(PERMUTATIONS)]
    chance = torch.tensor([float((first * second[order][:, order]).sum()) for order in orders])
    return Similarity(float((first * second).sum()) / norm, float(chance.quantile(FLOOR)) / norm)


def gram(features: Tensor) -> Tensor:
    """Return the U-centred linear Gram matrix (N, N) of features (N, D), in float64.

    The inner product of two of them is N (N - 3) times the unbiased HSIC (Székely and Rizzo 2014, section 3).
    """
    count = len(features)
    exact = features.double()
    exact = exact - exact.mean(0)  # HSIC does not change, and rounding errors shrink
    products = (exact @ exact.T).fill_diagonal_(0)
    rows = products.sum(1) / (count - 2)
    total = products.sum() / ((count - 1) * (count - 2))
    return (products - rows[:, None] - rows[None, :] + total).fill_diagonal_(0)
