"""Prepared batches: decoded pixels to normalised float tensors, with seeded augmentation when training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.data.decoded import Decoded
from zoo.plugin import ImageInput

SHIFT = 0.1
"""Largest shift of a small image, as a share of its side (4 of 40 padded pixels in He et al. 2015, section 4.2)."""
BUCKET = 50
"""Batches whose examples are sorted by length together, when lengths differ."""
CROP_AREA = (0.35, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)


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

    def batch(self, indices: Tensor, augment: str = "none", chance: torch.Generator | None = None) -> Tensor:
        """Return images (N, C, S, S), float32, normalised; random ones draw from `chance` alone."""
        indices = self.rows[indices]
        if augment == "crop-flip" and chance is not None:
            images = self._random_crops(indices, chance)
        else:
            images = self._centres(indices)
        if augment in ("shift", "shift-flip") and chance is not None:
            images = _shift(images, round(SHIFT * self.spec.size), chance)
        if augment in ("shift-flip", "crop-flip") and chance is not None:
            images = _flip(images, chance)
        return normalise(images, self.spec)

    def _centres(self, indices: Tensor) -> Tensor:
        """Cut the centre square: (N, C, S, S) uint8."""
        size = self.spec.size
        if isinstance(self.pixels, Tensor):
            return _centre(self.pixels[indices], size)
        return torch.stack([_centre(self.pixels[i], size) for i in indices.tolist()])

    def _random_crops(self, indices: Tensor, chance: torch.Generator) -> Tensor:
        """Cut a random box of 35-100 % of the area and resize it (Szegedy et al. 2014, arXiv 1409.4842, section 6)."""
        size = (self.spec.size, self.spec.size)
        crops = []
        for i in indices.tolist():
            image = self.pixels[i]
            top, left, height, width = _random_box(image.shape[-2], image.shape[-1], chance)
            box = image[None, :, top : top + height, left : left + width]
            crops.append(F.interpolate(box, size, mode="bilinear", antialias=True)[0])
        return torch.stack(crops)


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


def _random_box(height: int, width: int, chance: torch.Generator) -> tuple[int, int, int, int]:
    """Draw top, left, height, width of a box inside (height, width) by area and aspect ratio."""
    u = torch.rand(4, generator=chance).tolist()
    area = height * width * (CROP_AREA[0] + u[0] * (CROP_AREA[1] - CROP_AREA[0]))
    ratio = CROP_RATIO[0] * (CROP_RATIO[1] / CROP_RATIO[0]) ** u[1]
    box_h = min(height, max(1, round((area / ratio) ** 0.5)))
    box_w = min(width, max(1, round((area * ratio) ** 0.5)))
    return int(u[2] * (height - box_h + 1)), int(u[3] * (width - box_w + 1)), box_h, box_w


def _shift(images: Tensor, limit: int, chance: torch.Generator) -> Tensor:
    """Shift each image by up to `limit` pixels both ways; the border is repeated into what is uncovered."""
    count, _, height, width = images.shape
    down, right = torch.randint(-limit, limit + 1, (2, count, 1), generator=chance)
    rows = (torch.arange(height) + down).clamp_(0, height - 1)  # (N, H)
    columns = (torch.arange(width) + right).clamp_(0, width - 1)  # (N, W)
    every = torch.arange(count)
    # (N, C, H, W) -> index the last two axes per image -> (N, H, W, C) -> (N, C, H, W)
    return images[every[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _flip(images: Tensor, chance: torch.Generator) -> Tensor:
    mirrored = torch.rand(len(images), generator=chance) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
