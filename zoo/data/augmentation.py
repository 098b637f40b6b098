"""Random training augmentation on uint8 images (N, C, S, S): random resized crop, shift, flip, RandAugment.

Random numbers are drawn for the whole batch, and only the slice `part` of it is processed: a slice equals the same
rows of the full batch bit for bit. So no result may depend on how many images share a call: sums are over integers,
and random parameters are computed per image. Flips and RandAugment are applied image by image, as a whole batch does
not fit into the cache of a processor (docs/log.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.data.decode_cache import Ragged

STEPS = {
    "none": (),
    "shift": ("shift",),
    "shift-flip": ("shift", "flip"),
    "crop-flip": ("crop", "flip"),
    "randaugment": ("crop", "flip", "rand"),
}
"""Augmentation name -> its steps, in order of application."""
SHIFT = 0.1
"""Maximum shift, as a fraction of the side (4 of 40 padded pixels in He et al. 2015, section 4.2)."""
CROP_AREA = (0.35, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
PER_IMAGE = 2
"""RandAugment operations per image: N = 2 for ResNet-50 on ImageNet (Cubuk et al. 2019, arXiv 1909.13719)."""
MAGNITUDE = 0.9
"""Maximum RandAugment magnitude, as a fraction of each range: M = 9 of 10, as for ResNet-50 in the same paper.

The magnitude is sampled uniformly from 0 to this value: the paper (section 3) found this as good as a fixed magnitude,
and it is weaker, which suits short training on few images.
"""
ROTATE = 30.0
"""Degrees in either direction at full magnitude; all ranges are AutoAugment's (arXiv 1805.09501, appendix)."""
SHEAR = 0.3
TRANSLATE = 150 / 331
"""Fraction of the side: AutoAugment translates images of 331 pixels by up to 150."""
POSTERIZE = 4
"""Low bits cleared at full magnitude."""

Coefficients = tuple[Tensor | float, Tensor | float, Tensor | float]


def random_crops(
    pixels: Tensor | list[Tensor] | Ragged, rows: Tensor, size: int, chance: torch.Generator, part: slice
) -> Tensor:
    """Random resized crop: crop a random box of the images `rows[part]` and resize it to (n, C, S, S); `rows` is (N,).

    The box covers 35-100 % of the area (8-100 % in Szegedy et al. 2014, arXiv 1409.4842, section 6).
    """
    draws = torch.rand(len(rows), 4, generator=chance)[part].tolist()
    crops = torch.empty(len(draws), len(pixels[0]), size, size, dtype=torch.uint8)
    for crop, row, drawn in zip(crops, rows[part].tolist(), draws, strict=True):
        image = pixels[row]
        top, left, height, width = _box(image.shape[1], image.shape[2], drawn)
        box = image[None, :, top : top + height, left : left + width]
        crop.copy_(F.interpolate(box, (size, size), mode="bilinear", antialias=True)[0])
    return crops


def _box(height: int, width: int, drawn: list[float]) -> tuple[int, int, int, int]:
    """Map four uniform numbers in [0, 1) to top, left, height and width of a box inside (height, width)."""
    area = height * width * (CROP_AREA[0] + drawn[0] * (CROP_AREA[1] - CROP_AREA[0]))
    ratio = CROP_RATIO[0] * (CROP_RATIO[1] / CROP_RATIO[0]) ** drawn[1]
    box_h = min(height, max(1, round((area / ratio) ** 0.5)))
    box_w = min(width, max(1, round((area * ratio) ** 0.5)))
    return int(drawn[2] * (height - box_h + 1)), int(drawn[3] * (width - box_w + 1)), box_h, box_w


def vary(images: Tensor, augment: str, count: int, chance: torch.Generator, part: slice) -> Tensor:
    """Apply the steps of `augment` after the crop to (n, C, S, S), the slice `part` of a batch of `count` images."""
    steps = STEPS[augment]
    if "shift" in steps:
        limit = round(SHIFT * images.shape[-1])
        images = _shift(images, torch.randint(-limit, limit + 1, (2, count), generator=chance)[:, part])
    if "flip" in steps:
        images = _flip(images, torch.rand(count, generator=chance)[part] < 0.5)
    if "rand" in steps:
        kinds = torch.randint(len(_operations(images)), (count, PER_IMAGE), generator=chance)[part]
        levels = torch.rand(count, PER_IMAGE, generator=chance)[part]
        images = _rand_augment(images, kinds, (2 * levels - 1) * MAGNITUDE)
    return images


def _flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Flip the images left to right that are `mirrored` (n,)."""
    flipped = images.clone(memory_format=torch.contiguous_format)
    for i in mirrored.nonzero()[:, 0].tolist():
        flipped[i] = images[i].flip(-1)
    return flipped


def _shift(images: Tensor, by: Tensor) -> Tensor:
    """Shift each image up and left by `by` (2, n) pixels; the nearest border pixel takes the place of missing ones."""
    side = images.shape[-1]
    shifted = torch.empty(images.shape, dtype=torch.uint8)
    for image, target, (up, left) in zip(images, shifted, by.T.tolist(), strict=True):
        top, bottom = max(0, -up), min(side, side - up)
        begin, end = max(0, -left), min(side, side - left)
        rows = target[:, top:bottom]
        rows[..., begin:end] = image[:, top + up : bottom + up, begin + left : end + left]
        rows[..., :begin], rows[..., end:] = rows[..., begin : begin + 1], rows[..., end - 1 : end]
        target[:, :top], target[:, bottom:] = target[:, top : top + 1], target[:, bottom - 1 : bottom]
    return shifted


def _rand_augment(images: Tensor, kinds: Tensor, levels: Tensor) -> Tensor:
    """Apply to each image the operations `kinds` (n, PER_IMAGE) at `levels` of the same shape, in [-1, 1]."""
    varied = torch.empty(images.shape, dtype=torch.uint8)
    operations = _operations(images)
    for image, chosen, level, target in zip(images[:, None], kinds.tolist(), levels[:, None], varied, strict=True):
        for turn, kind in enumerate(chosen):
            image = operations[kind](image, level[:, turn])
        target.copy_(image[0])
    return varied


def _operations(images: Tensor) -> list[Callable[[Tensor, Tensor], Tensor]]:
    """Return the operations for the number of channels: colour saturation needs RGB."""
    return [operation for name, operation in OPERATIONS.items() if name != "colour" or images.shape[1] == 3]


def _identity(images: Tensor, levels: Tensor) -> Tensor:
    return images


def _autocontrast(images: Tensor, levels: Tensor) -> Tensor:
    """Stretch each channel to 0 … 255; a constant channel is unchanged."""
    low = images.amin((2, 3), keepdim=True).float()
    span = images.amax((2, 3), keepdim=True).float() - low
    flat = span == 0
    return _to_uint8(images.float().sub_(low.masked_fill_(flat, 0)).mul_((255 / span).masked_fill_(flat, 1)))


def _equalize(images: Tensor, levels: Tensor) -> Tensor:
    """Equalize the histogram of each channel, by the formula of PIL.ImageOps.equalize."""
    channels = images.reshape(-1, images.shape[-2] * images.shape[-1])  # (n C, H W)
    equalized = torch.empty_like(channels)
    for values, target in zip(channels.int(), equalized, strict=True):
        counts = torch.bincount(values, minlength=256)
        step = (len(values) - int(counts[values.max()])) // 255
        if step:
            table = (counts.cumsum(0) - counts + step // 2).div_(step, rounding_mode="floor").clamp_(max=255)
            torch.index_select(table.byte(), 0, values, out=target)
        else:  # too few values to equalize
            target.copy_(values)
    return equalized.view(images.shape)


def _rotate(images: Tensor, levels: Tensor) -> Tensor:
    angles = [math.radians(ROTATE * level) for level in levels.tolist()]
    cos = torch.tensor([math.cos(angle) for angle in angles])
    sin = torch.tensor([math.sin(angle) for angle in angles])
    return _warp(images, (cos, -sin, 0.0), (sin, cos, 0.0))


def _warp(images: Tensor, x: Coefficients = (1.0, 0.0, 0.0), y: Coefficients = (0.0, 1.0, 0.0)) -> Tensor:
    """Affine warp: output (x, y) samples input (x0 x + x1 y + x2, y0 x + y1 y + y2), in [-1, 1]; coefficients are (n,).

    Uncovered pixels take the nearest border pixel: a constant fill would add an edge to a plain background.
    """
    side = images.shape[-1]
    across = (torch.arange(side) * 2 + 1) / side - 1
    down = across[:, None]
    xx, xy, x0, yx, yy, y0 = (torch.as_tensor(v).expand(len(images)).view(-1, 1, 1) for v in (*x, *y))
    # not affine_grid: the rounding of its batched matmul may depend on the batch size
    grid = torch.empty(len(images), side, side, 2)
    torch.add(xx * across, xy * down + x0, out=grid[..., 0])
    torch.add(yx * across, yy * down + y0, out=grid[..., 1])
    return _to_uint8(F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False))


def _solarize(images: Tensor, levels: Tensor) -> Tensor:
    """Invert pixels at or above a threshold, which falls from 256 to 0 as |level| grows."""
    threshold = (256 * (1 - levels.abs())).round().view(-1, 1, 1, 1)
    inverted = (images > (threshold - 1).clamp_(min=0).byte()) | (threshold == 0)
    return images ^ inverted.byte().mul_(255)


def _posterize(images: Tensor, levels: Tensor) -> Tensor:
    cleared = (POSTERIZE * levels.abs()).round().int()
    return images & (255 << cleared).bitwise_and_(255).byte().view(-1, 1, 1, 1)


def _contrast(images: Tensor, levels: Tensor) -> Tensor:
    values = images.float()
    grey = _grey(values).byte()
    size = grey.shape[-2] * grey.shape[-1]
    mean = (grey.sum((2, 3), keepdim=True) + size // 2) // size
    return _blend(values, mean.float(), levels)


def _brightness(images: Tensor, levels: Tensor) -> Tensor:
    return _to_uint8(images.float().mul_(1 + levels.view(-1, 1, 1, 1)))


def _colour(images: Tensor, levels: Tensor) -> Tensor:
    values = images.float()
    return _blend(values, _grey(values), levels)


def _sharpness(images: Tensor, levels: Tensor) -> Tensor:
    """Blend with a smoothed image: kernel weight 5 at the centre, 1 at eight neighbours (PIL.ImageFilter.SMOOTH)."""
    if images.shape[-1] < 3:
        return images
    values = images.float()  # sums of the integers below are exact
    centre = values[..., 1:-1, 1:-1]
    rows = (values[..., :-2] + values[..., 1:-1]).add_(values[..., 2:])
    total = (rows[..., :-2, :] + rows[..., 1:-1, :]).add_(rows[..., 2:, :]).add_(centre, alpha=4)
    sharp = images.clone()
    sharp[..., 1:-1, 1:-1] = _blend(centre, total.mul_(1 / 13), levels)  # pixels of the border lack neighbours
    return sharp


def _grey(values: Tensor) -> Tensor:
    """Return the ITU-R 601-2 luma (n, 1, H, W) of RGB images in float32, as of PIL; other images channel by channel.

    PIL computes (19595 R + 38470 G + 7471 B + 2^15) >> 16 in integers, all of which float32 represents exactly.
    """
    if values.shape[1] != 3:
        return values
    red, green, blue = values.split(1, 1)
    luma: Tensor = (red * 19595).add_(green, alpha=38470).add_(blue, alpha=7471).add_(1 << 15)
    return luma.mul_(1 / (1 << 16)).floor_()


def _blend(values: Tensor, other: Tensor, levels: Tensor) -> Tensor:
    """Interpolate between `other` (level -1) and the images (0), and extrapolate beyond them (up to 1)."""
    return _to_uint8((values - other).mul_(1 + levels.view(-1, 1, 1, 1)).add_(other))


def _to_uint8(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255).short().byte()  # by way of integers: twice as fast as from floats


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": _identity,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "rotate": _rotate,
    "shear-x": lambda images, levels: _warp(images, x=(1.0, SHEAR * levels, 0.0)),
    "shear-y": lambda images, levels: _warp(images, y=(SHEAR * levels, 1.0, 0.0)),
    "translate-x": lambda images, levels: _warp(images, x=(1.0, 0.0, 2 * TRANSLATE * levels)),
    "translate-y": lambda images, levels: _warp(images, y=(0.0, 1.0, 2 * TRANSLATE * levels)),
    "solarize": _solarize,
    "posterize": _posterize,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "colour": _colour,
}
"""RandAugment operations on images (n, C, S, S) at levels (n,) in [-1, 1]; the sign is the direction, if any."""
