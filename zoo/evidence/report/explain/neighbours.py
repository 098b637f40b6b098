"""Nearest training examples of an example, in the space of the fine-tuned features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

NEAREST = 3


def nearest(train: Tensor, others: Tensor, count: int = NEAREST) -> list[list[tuple[int, float]]]:
    """Return (index, cosine) of the nearest training features (N, D) of each of (M, D), nearest first.

    Features are centred on the training mean: without it all cosines of many backbones are near 1.
    """
    centre = train.mean(0)
    cosines = F.normalize(others - centre, dim=1) @ F.normalize(train - centre, dim=1).T  # (M, N)
    values, indices = cosines.topk(min(count, len(train)), dim=1)
    rows: Sequence[tuple[list[int], list[float]]] = list(zip(indices.tolist(), values.tolist(), strict=True))
    return [list(zip(*row, strict=True)) for row in rows]
