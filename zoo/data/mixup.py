"""Mixed images: each of a batch with another of it, the targets in the same shares (mixup, cutmix)."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

NAMES = ("none", "mixup", "cutmix", "both")
MIXUP = 0.8
"""Both parameters of the Beta distribution of mixup's share, and so of cutmix's below: DeiT's recipe, which also
chooses between the two by an even coin for each batch (Touvron et al. 2020, arXiv 2012.12877, table 9)."""
CUTMIX = 1.0


@dataclass(frozen=True, slots=True)
class Mixed:
    """Mixed images (N, C, S, S); which image each was mixed with, (N,) long; how much of each is its own, in [0, 1].

    The loss is share * loss(outputs, targets) + (1 - share) * loss(outputs, targets[partner]).
    """

    inputs: Tensor
    partner: Tensor
    share: float


def mix(images: Tensor, how: str, chance: torch.Generator) -> Mixed:
    """Mix a batch of normalised images (N, C, S, S) by "mixup", "cutmix", or "both": one of them, by a coin.

    Whatever is random depends on `chance` alone, a generator of the CPU. `images` are left as they are.
    """
    # A Beta distribution of torch draws from the global generator only.
    dice = random.Random(int(torch.randint(2**62, (), generator=chance)))
    partner = torch.randperm(len(images), generator=chance).to(images.device)
    if how == "both":
        how = dice.choice(("mixup", "cutmix"))
    return {"mixup": _mixup, "cutmix": _cutmix}[how](images, partner, dice)


def _mixup(images: Tensor, partner: Tensor, dice: random.Random) -> Mixed:
    """Blend whole images (Zhang et al. 2017, arXiv 1710.09412)."""
    share = dice.betavariate(MIXUP, MIXUP)
    return Mixed(share * images + (1 - share) * images[partner], partner, share)


def _cutmix(images: Tensor, partner: Tensor, dice: random.Random) -> Mixed:
    """Put a box of the partner into each image (Yun et al. 2019, arXiv 1905.04899); what sticks out is cut off."""
    height, width = images.shape[-2:]
    side = (1 - dice.betavariate(CUTMIX, CUTMIX)) ** 0.5
    top, bottom = _stretch(height, side, dice)
    left, right = _stretch(width, side, dice)
    inputs = images.clone()
    inputs[..., top:bottom, left:right] = images[..., top:bottom, left:right][partner]
    return Mixed(inputs, partner, 1 - (bottom - top) * (right - left) / (height * width))


def _stretch(length: int, share: float, dice: random.Random) -> tuple[int, int]:
    """Draw the begin and end, within `length`, of a stretch that is a share of it around any place."""
    begin = dice.randrange(length) - int(share * length) // 2
    return max(0, begin), min(length, begin + int(share * length))
