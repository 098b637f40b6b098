"""Augmentation by a function of the user: one image at a time, with all random numbers seeded."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from zoo.errors import RecipeError

SEEDS = 2**32
_ONE_AT_A_TIME = threading.Lock()
"""Batches are prepared in several threads, and the global generators are one for all."""
FIX = "augment takes a uint8 tensor (C, H, W) and returns one of that shape, or floats in [0, 1]"


def apply(
    function: Callable[[Tensor], Any], images: Tensor, count: int, chance: torch.Generator, part: slice
) -> Tensor:
    """Apply `function` to each of (n, C, S, S) uint8, the slice `part` of a batch of `count` images.

    Inside the function the generators of torch, `random` and NumPy are seeded for the image. Raises RecipeError if it
    raises, or returns another shape or type.
    """
    seeds = torch.randint(SEEDS, (count,), generator=chance)[part].tolist()
    result = torch.empty_like(images)
    for target, image, seed in zip(result, images, seeds, strict=True):
        with _seeded(seed):
            try:
                found = function(image.clone())
            except Exception as error:
                what = f"augment={getattr(function, '__name__', function)!s:.60} raised {type(error).__name__}: {error}"
                raise RecipeError(what, fix=FIX) from error
        target.copy_(_pixels(found, image))
    return result


def _pixels(found: Any, image: Tensor) -> Tensor:
    """Return the result of a function as uint8; RecipeError for another shape, type or range."""
    if not isinstance(found, Tensor) or found.shape != image.shape:
        said = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise RecipeError(f"augment returned {said} for an image {tuple(image.shape)}", fix=FIX)
    if found.is_floating_point():
        low, high = float(found.min()), float(found.max())
        if not (low >= 0 and high <= 1):  # NaN as well
            raise RecipeError(f"augment returned floats from {low:g} to {high:g}", fix=f"{FIX}: leave out Normalize")
        return (found.detach() * 255).round().byte()
    if found.dtype != torch.uint8:
        raise RecipeError(f"augment returned {found.dtype}", fix=FIX)
    return found


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators of torch (CPU), `random` and NumPy inside the block; their states are restored."""
    numpy = sys.modules.get("numpy")
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        before = random.getstate(), numpy and numpy.random.get_state()
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        if numpy:
            numpy.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            if numpy:
                numpy.random.set_state(before[1])
