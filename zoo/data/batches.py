"""Prepared batches: decoded pixels to normalised float tensors, with seeded augmentation when training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data.augment import STEPS, random_crops, vary
from zoo.data.decoded import Decoded
from zoo.plugin import ImageInput

BUCKET = 50
"""Batches whose examples are sorted by length together, when lengths differ."""


@dataclass(frozen=True, slots=True)
class Images:
    """Decoded images, how a net wants them, and which of them (`rows`) are meant; `batch` prepares some."""

    pixels: Tensor | list[Tensor]
    spec: ImageInput
    rows: Tensor

    @classmethod
    def of(cls, decoded: Decoded, spec: ImageInput) -> Images:
        """Wrap decoded images for a net's input."""
        return cls(decoded.images(), spec, torch.arange(len(decoded)))

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, indices: Sequence[int]) -> Images:
        """Return a view of some of the images, in that order."""
        return Images(self.pixels, self.spec, self.rows[torch.tensor(indices, dtype=torch.long)])

    def batch(
        self, indices: Tensor, augment: str = "none", chance: torch.Generator | None = None, part: slice = slice(None)
    ) -> Tensor:
        """Return images (N, C, S, S), float32, normalised; random ones draw from `chance` alone.

        With `part`, only those of the batch, just as they are in the whole: each of several processes prepares a share.
        """
        rows = self.rows[indices]
        if chance is None:
            return normalise(self._centres(rows[part]), self.spec)
        if "crop" in STEPS[augment]:
            images = random_crops(self.pixels, rows, self.spec.size, chance, part)
        else:
            images = self._centres(rows[part])
        return normalise(vary(images, augment, len(rows), chance, part), self.spec)

    def _centres(self, indices: Tensor) -> Tensor:
        """Cut the centre square: (N, C, S, S) uint8."""
        size = self.spec.size
        if isinstance(self.pixels, Tensor):
            return _centre(self.pixels[indices], size)
        centres = torch.empty(len(indices), self.spec.channels, size, size, dtype=torch.uint8)
        for centre, i in zip(centres, indices.tolist(), strict=True):
            centre.copy_(_centre(self.pixels[i], size))
        return centres


def normalise(images: Tensor, spec: ImageInput) -> Tensor:
    """Map uint8 pixels (N, C, S, S) to (pixel / 255 - mean) / std as float32, in one multiplication and addition."""
    mean = torch.tensor(spec.mean).view(1, -1, 1, 1)
    std = torch.tensor(spec.std).view(1, -1, 1, 1)
    return images.float().mul_(1 / (255 * std)).sub_(mean / std)


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


def _centre(images: Tensor, size: int) -> Tensor:
    height, width = images.shape[-2:]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return images[..., top : top + size, left : left + size]
