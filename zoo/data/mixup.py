"""Mixup and CutMix: mix each image of a batch with another one, and the targets in the same proportion."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

MIXUP = 0.8
"""Alpha of the Beta(alpha, alpha) distribution of mixup; CUTMIX is that of CutMix. Both are DeiT's, whose recipe also
picks one of the two per batch with probability 0.5 (Touvron et al. 2020, arXiv 2012.12877, table 9)."""
CUTMIX = 1.0


@dataclass(frozen=True, slots=True)
class Mixed:
    """Mixed images (N, C, S, S), the index of each partner (N,) int64, and the share of the original image in [0, 1].

    The loss is share * loss(outputs, targets) + (1 - share) * loss(outputs, targets[partner]).
    """

    inputs: Tensor
    partner: Tensor
    share: float


def mix(images: Tensor, how: str, chance: torch.Generator) -> Mixed:
    """Apply "mixup", "cutmix" or, for "both", one of the two at random to normalised images (N, C, S, S).

    All randomness comes from `chance`, a CPU generator. `images` is not modified.
    """
    # torch.distributions.Beta samples from the global generator only.
    rng = random.Random(int(torch.randint(2**62, (), generator=chance)))
    partner = torch.randperm(len(images), generator=chance).to(images.device, non_blocking=True)
    if how == "both":
        how = rng.choice(("mixup", "cutmix"))
    return {"mixup": _mixup, "cutmix": _cutmix}[how](images, partner, rng)


def _mixup(images: Tensor, partner: Tensor, rng: random.Random) -> Mixed:
    """Interpolate whole images (Zhang et al. 2017, arXiv 1710.09412)."""
    share = rng.betavariate(MIXUP, MIXUP)
    return Mixed(share * images + (1 - share) * images[partner], partner, share)


def _cutmix(images: Tensor, partner: Tensor, rng: random.Random) -> Mixed:
    """Paste a box of the partner, clipped to the image, into each image (Yun et al. 2019, arXiv 1905.04899)."""
    height, width = images.shape[-2:]
    side = (1 - rng.betavariate(CUTMIX, CUTMIX)) ** 0.5
    top, bottom = _interval(height, side, rng)
    left, right = _interval(width, side, rng)
    inputs = images.clone()
    inputs[..., top:bottom, left:right] = images[..., top:bottom, left:right][partner]
    return Mixed(inputs, partner, 1 - (bottom - top) * (right - left) / (height * width))


def _interval(length: int, share: float, rng: random.Random) -> tuple[int, int]:
    """Sample start and end of an interval of `share * length` with a uniform centre, clipped to `length`."""
    begin = rng.randrange(length) - int(share * length) // 2
    return max(0, begin), min(length, begin + int(share * length))
