"""Samplers: shuffled training batches, and sequential batches for inference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from zoo.data.seeding import generator

BUCKET = 50
"""Batches that are sorted by length together (length bucketing)."""


def order(count: int, seed: int, epoch: int, weights: Tensor | None = None) -> Tensor:
    """Return the indices (N,) of one epoch: a permutation, or a weighted draw with replacement by `weights` (N,)."""
    draws = generator(seed, "order", epoch)
    if weights is not None:
        return torch.multinomial(weights, count, replacement=True, generator=draws)
    return torch.randperm(count, generator=draws)


def training_order(
    count: int,
    batch_size: int,
    steps: int,
    seed: int,
    *,
    lengths: Tensor | None = None,
    weights: Tensor | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (step, indices (N,)) for `steps` steps over as many epochs as needed; incomplete batches are dropped.

    With `lengths` (N,), examples of similar length share a batch, which saves padding.
    """
    size = min(batch_size, count)
    per_epoch = count // size
    for step in range(steps):
        epoch, position = divmod(step, per_epoch)
        if position == 0:
            batches = epoch_batches(count, size, seed, epoch, lengths=lengths, weights=weights)
        yield step, batches[position]


def epoch_batches(
    count: int, size: int, seed: int, epoch: int, *, lengths: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Return the batches of one epoch, (batches, size) indices; what is left over is dropped."""
    turn = order(count, seed, epoch, weights)
    if lengths is not None:
        turn = _bucketed(turn, lengths, size, generator(seed, "buckets", epoch))
    full = count // size
    return turn[: full * size].view(full, size)


def _bucketed(turn: Tensor, lengths: Tensor, size: int, draws: torch.Generator) -> Tensor:
    """Sort runs of BUCKET batches by length, then shuffle the full batches; an incomplete batch stays last."""
    runs = turn.split(BUCKET * size)
    turn = torch.cat([run[lengths[run].argsort(stable=True)] for run in runs])
    full = len(turn) // size
    shuffled = torch.randperm(full, generator=draws)
    return torch.cat([turn[: full * size].view(full, size)[shuffled].flatten(), turn[full * size :]])


def sequential_batches(count: int, batch_size: int, lengths: Tensor | None = None) -> Sequence[Tensor]:
    """Return the indices 0 … count - 1 in batches: in order, or longest first by `lengths` (N,)."""
    every = torch.arange(count) if lengths is None else lengths.argsort(descending=True, stable=True)
    return every.split(batch_size) if count else []
