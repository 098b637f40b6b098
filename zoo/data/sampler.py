"""Samplers: the order of training examples over the epochs, and batches of a whole data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

BUCKET = 50
"""Batches whose examples are sorted by length together, when lengths differ."""


def order(count: int, seed: int, epoch: int, weights: Tensor | None = None) -> Tensor:
    """Return the order (N,) of one epoch, which depends on seed and epoch alone.

    With `weights` (N,) the examples are drawn with replacement, each in proportion to its weight.
    """
    chance = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    if weights is not None:
        return torch.multinomial(weights, count, replacement=True, generator=chance)
    return torch.randperm(count, generator=chance)


def training_order(
    count: int,
    batch_size: int,
    steps: int,
    seed: int,
    *,
    lengths: Tensor | None = None,
    weights: Tensor | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (step, indices (N,)) for `steps` steps, epoch after epoch, every batch full where the data allows.

    With `lengths` (N,), examples of like length come together, so that little is spent on padding.
    """
    size = min(batch_size, count)
    per_epoch = count // size
    for step in range(steps):
        epoch, position = divmod(step, per_epoch)
        if position == 0:
            turn = order(count, seed, epoch, weights)
            if lengths is not None:
                turn = _bucketed(turn, lengths, size, seed * 1_000_003 + epoch)
        yield step, turn[position * size : (position + 1) * size]


def _bucketed(turn: Tensor, lengths: Tensor, size: int, seed: int) -> Tensor:
    """Sort stretches of BUCKET batches by length, then shuffle the full batches; what is left over stays the last."""
    stretches = turn.split(BUCKET * size)
    turn = torch.cat([stretch[lengths[stretch].argsort(stable=True)] for stretch in stretches])
    full = len(turn) // size
    shuffled = torch.randperm(full, generator=torch.Generator().manual_seed(seed))
    return torch.cat([turn[: full * size].view(full, size)[shuffled].flatten(), turn[full * size :]])


def in_turn(count: int, batch_size: int, lengths: Tensor | None = None) -> Sequence[Tensor]:
    """Return the indices 0 … count - 1 in batches: in order, or by `lengths` (N,) the longest first."""
    every = torch.arange(count) if lengths is None else lengths.argsort(descending=True, stable=True)
    return every.split(batch_size) if count else []
