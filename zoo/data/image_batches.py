"""Decoded images served as batches of pixels, augmented for training, and their normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from zoo.data import custom_augmentation
from zoo.data.augmentation import STEPS, random_crops, vary
from zoo.data.batch_options import EVALUATION, BatchOptions
from zoo.data.decode_cache import Decoded, Ragged
from zoo.data.on_access import OnAccess
from zoo.plugin import ImageInput


@dataclass(frozen=True, slots=True)
class Images:
    """Pixels, decoded or to be decoded, the input of the net they are prepared for, and the selected `rows` (N,)."""

    pixels: Tensor | list[Tensor] | Ragged | OnAccess
    spec: ImageInput
    rows: Tensor

    @classmethod
    def of(cls, decoded: Decoded, spec: ImageInput) -> Images:
        """Select all decoded images for an input."""
        return cls(decoded.images(), spec, torch.arange(len(decoded)))

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, indices: Sequence[int]) -> Images:
        """Return a view of some of the images, in that order."""
        return Images(self.pixels, self.spec, self.rows[torch.tensor(indices, dtype=torch.long)])

    def pool(self) -> Images:
        """Return all images, of which these are a selection."""
        return Images(self.pixels, self.spec, torch.arange(len(self.pixels)))

    def batch(self, indices: Tensor, options: BatchOptions = EVALUATION) -> Tensor:
        """Return images (N, C, S, S), uint8: centre crops, or augmented where a generator is given."""
        rows, shard, draws = self.rows[indices], options.rows, options.generator
        if isinstance(self.pixels, OnAccess):
            return Images(self.pixels.decoded(rows, shard), self.spec, torch.arange(len(rows))).batch(
                torch.arange(len(rows)), options
            )
        if draws is None:
            return self._centres(rows[shard])
        if not isinstance(options.augment, str):
            centres = self._centres(rows[shard])
            return custom_augmentation.apply(options.augment, centres, len(rows), draws, shard)
        if "crop" in STEPS[options.augment]:
            images = random_crops(self.pixels, rows, self.spec.size, draws, shard)
        else:
            images = self._centres(rows[shard])
        return vary(images, options.augment, len(rows), draws, shard)

    def _centres(self, indices: Tensor) -> Tensor:
        """Return centre crops (N, C, S, S), uint8."""
        size = self.spec.size
        if isinstance(self.pixels, Tensor):
            return _centre(self.pixels[indices], size)
        centres = torch.empty(len(indices), self.spec.channels, size, size, dtype=torch.uint8)
        for centre, i in zip(centres, indices.tolist(), strict=True):
            centre.copy_(_centre(self.pixels[i], size))
        return centres


def normalise(images: Tensor, spec: ImageInput) -> Tensor:
    """Map uint8 pixels (N, C, S, S) to (pixel / 255 - mean) / std as float32, in one multiplication and addition."""
    scale, shift = _scale_and_shift(spec, images.device)
    return images.float().mul_(scale).sub_(shift)


@lru_cache(maxsize=16)
def _scale_and_shift(spec: ImageInput, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the constants of `normalise` (1, C, 1, 1), once for each device: copies of them would delay every step."""
    mean = torch.tensor(spec.mean).view(1, -1, 1, 1)
    std = torch.tensor(spec.std).view(1, -1, 1, 1)
    return (1 / (255 * std)).to(device), (mean / std).to(device)


def _centre(images: Tensor, size: int) -> Tensor:
    height, width = images.shape[-2:]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return images[..., top : top + size, left : left + size]
