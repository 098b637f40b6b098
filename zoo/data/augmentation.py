"""Random training augmentation on uint8 images (N, C, S, S): random resized crop, shift, flip, RandAugment.

Random numbers are drawn for the whole batch, and only the slice `part` of it is processed: a slice equals the same
rows of the full batch bit for bit. So no result may depend on how many images share a call: sums are over integers,
and random parameters are computed per image.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

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
    pixels: Tensor | list[Tensor], rows: Tensor, size: int, chance: torch.Generator, part: slice
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
        images = _shift(images, torch.randint(-limit, limit + 1, (2, count), generator=chance)[:, part], limit)
    if "flip" in steps:
        mirrored = (torch.rand(count, generator=chance)[part] < 0.5).nonzero()[:, 0]
        images = images.index_copy(0, mirrored, images[mirrored].flip(-1))
    if "rand" in steps:
        kinds = torch.randint(len(_operations(images)), (count, PER_IMAGE), generator=chance)[part]
        levels = torch.rand(count, PER_IMAGE, generator=chance)[part]
        images = _rand_augment(images, kinds, (2 * levels - 1) * MAGNITUDE)
    return images


def _shift(images: Tensor, by: Tensor, limit: int) -> Tensor:
    """Shift each image up and left by `by` (2, n) pixels, at most `limit`, with replicate padding."""
    side = images.shape[-1]
    wide = F.pad(images.float(), [limit] * 4, mode="replicate").byte()  # older torch cannot replicate-pad integers
    shifted = torch.empty(images.shape, dtype=torch.uint8)
    for i, (top, left) in enumerate((by + limit).T.tolist()):
        shifted[i] = wide[i, :, top : top + side, left : left + side]
    return shifted


def _rand_augment(images: Tensor, kinds: Tensor, levels: Tensor) -> Tensor:
    """Apply to each image the operations `kinds` (n, PER_IMAGE) at `levels` of the same shape, in [-1, 1]."""
    images = images.clone(memory_format=torch.contiguous_format)
    operations = _operations(images)
    for turn in range(PER_IMAGE):
        for kind in kinds[:, turn].unique().tolist():
            chosen = (kinds[:, turn] == kind).nonzero()[:, 0]
            images.index_copy_(0, chosen, operations[kind](images[chosen], levels[chosen, turn]))
    return images


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
    n, c, h, w = images.shape
    table = torch.arange(n * c)[:, None] * 256  # offset of each channel's 256 bins: (n C, 1)
    index = images.reshape(n * c, h * w) + table
    counts = torch.bincount(index.flatten(), minlength=n * c * 256).view(n * c, 256)
    brightest = counts.gather(1, images.reshape(n * c, -1).amax(1, keepdim=True).long())
    step = (h * w - brightest) // 255
    darker = counts.cumsum(1) - counts
    spread = (darker + step // 2) // step.clamp(min=1)
    values = torch.where(step > 0, spread.clamp_(max=255), torch.arange(256))  # too few values to equalize: identity
    return values.byte().flatten()[index].view(n, c, h, w)


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
    grid = torch.stack([xx * across + (xy * down + x0), yx * across + (yy * down + y0)], -1)  # (n, S, S, 2)
    return _to_uint8(F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False))


def _solarize(images: Tensor, levels: Tensor) -> Tensor:
    """Invert pixels at or above a threshold, which falls from 256 to 0 as |level| grows."""
    threshold = (256 * (1 - levels.abs())).round().short().view(-1, 1, 1, 1)
    return torch.where(images >= threshold, ~images, images)


def _posterize(images: Tensor, levels: Tensor) -> Tensor:
    cleared = (POSTERIZE * levels.abs()).round().int()
    return images & (255 << cleared).bitwise_and_(255).byte().view(-1, 1, 1, 1)


def _contrast(images: Tensor, levels: Tensor) -> Tensor:
    grey = _grey(images)
    size = grey.shape[-2] * grey.shape[-1]
    mean = (grey.sum((2, 3), keepdim=True) + size // 2) // size
    return _blend(images, mean.float(), levels)


def _brightness(images: Tensor, levels: Tensor) -> Tensor:
    return _to_uint8(images.float().mul_(1 + levels.view(-1, 1, 1, 1)))


def _colour(images: Tensor, levels: Tensor) -> Tensor:
    return _blend(images, _grey(images).float(), levels)


def _sharpness(images: Tensor, levels: Tensor) -> Tensor:
    """Blend with a smoothed image: kernel weight 5 at the centre, 1 at eight neighbours (PIL.ImageFilter.SMOOTH)."""
    if images.shape[-1] < 3:
        return images
    wide = images.short()
    rows = wide[..., :-2] + wide[..., 1:-1] + wide[..., 2:]
    total = rows[..., :-2, :] + rows[..., 1:-1, :] + rows[..., 2:, :] + 4 * wide[..., 1:-1, 1:-1]
    smooth = images.float()
    smooth[..., 1:-1, 1:-1] = total.float().mul_(1 / 13)  # border pixels lack neighbours and are unchanged
    return _blend(images, smooth, levels)


def _grey(images: Tensor) -> Tensor:
    """Return ITU-R 601-2 luma (n, 1, H, W) of RGB images as int32, as in PIL; other images channel by channel."""
    if images.shape[1] != 3:
        return images.int()
    red, green, blue = images.int().split(1, 1)
    grey: Tensor = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return grey


def _blend(images: Tensor, other: Tensor, levels: Tensor) -> Tensor:
    """Interpolate between `other` (level -1) and the images (0), and extrapolate beyond them (up to 1)."""
    return _to_uint8((images.float() - other).mul_(1 + levels.view(-1, 1, 1, 1)).add_(other))


def _to_uint8(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255).byte()


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
