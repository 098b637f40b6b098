"""What chance does to training images: crops, shifts, mirrors, RandAugment. All of it on uint8 pixels (N, C, S, S).

Every draw is made for a whole batch, and only the images of a `part` of it are worked on: a part comes out bit for bit
as in the whole. So no result may depend on how many images share a call: sums are of integers, and what is drawn is
turned into numbers image by image.
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
    "rand": ("crop", "flip", "rand"),
}
"""What each augmentation consists of, in this order."""
NAMES = tuple(STEPS)
SHIFT = 0.1
"""Largest shift of a small image, as a share of its side (4 of 40 padded pixels in He et al. 2015, section 4.2)."""
CROP_AREA = (0.35, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
PER_IMAGE = 2
"""Operations of RandAugment an image: N = 2 for ResNet-50 on ImageNet (Cubuk et al. 2019, arXiv 1909.13719)."""
MAGNITUDE = 0.9
"""Largest strength of an operation, as a share of its range: M = 9 of 10, as for ResNet-50 in the same paper.

The strength is drawn evenly between none and this: the paper (section 3) found it as good as one that is fixed, and it
is milder, which suits few steps on few images.
"""
ROTATE = 30.0
"""Degrees both ways at full strength; this range and those below are AutoAugment's (arXiv 1805.09501, appendix)."""
SHEAR = 0.3
TRANSLATE = 150 / 331
"""As a share of the side: AutoAugment moves images of 331 pixels by up to 150."""
POSTERIZE = 4
"""Low bits that are cleared at full strength."""


def random_crops(
    pixels: Tensor | list[Tensor], rows: Tensor, size: int, chance: torch.Generator, part: slice
) -> Tensor:
    """Cut a random box out of each image and resize it: (n, C, S, S) of the part of `rows` (N,).

    A box has 35-100 % of the area (from 8 % in Szegedy et al. 2014, arXiv 1409.4842, section 6).
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
    """Turn four numbers in [0, 1) into top, left, height, width of a box inside (height, width)."""
    area = height * width * (CROP_AREA[0] + drawn[0] * (CROP_AREA[1] - CROP_AREA[0]))
    ratio = CROP_RATIO[0] * (CROP_RATIO[1] / CROP_RATIO[0]) ** drawn[1]
    box_h = min(height, max(1, round((area / ratio) ** 0.5)))
    box_w = min(width, max(1, round((area * ratio) ** 0.5)))
    return int(drawn[2] * (height - box_h + 1)), int(drawn[3] * (width - box_w + 1)), box_h, box_w


def vary(images: Tensor, augment: str, count: int, chance: torch.Generator, part: slice) -> Tensor:
    """Do to squares (n, C, S, S), which are the part of a batch of `count`, what is to be done after they are cut."""
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
    """Shift each image by `by` (2, n) pixels up and left, at most `limit`; the border is repeated beyond itself."""
    side = images.shape[-1]
    wide = F.pad(images.float(), [limit] * 4, mode="replicate").byte()  # older versions of torch pad no integers so
    shifted = torch.empty(images.shape, dtype=torch.uint8)
    for i, (top, left) in enumerate((by + limit).T.tolist()):
        shifted[i] = wide[i, :, top : top + side, left : left + side]
    return shifted


def _rand_augment(images: Tensor, kinds: Tensor, levels: Tensor) -> Tensor:
    """Do to each image the operations `kinds` (n, PER_IMAGE), at `levels` of the same shape in [-1, 1]."""
    images = images.clone(memory_format=torch.contiguous_format)
    operations = _operations(images)
    for turn in range(PER_IMAGE):
        for kind in kinds[:, turn].unique().tolist():
            chosen = (kinds[:, turn] == kind).nonzero()[:, 0]
            images.index_copy_(0, chosen, operations[kind](images[chosen], levels[chosen, turn]))
    return images


def _operations(images: Tensor) -> list[Callable[[Tensor, Tensor], Tensor]]:
    """Return the operations for images of so many channels: grey ones have no colour to change."""
    return [operation for name, operation in OPERATIONS.items() if name != "colour" or images.shape[1] == 3]


def _identity(images: Tensor, levels: Tensor) -> Tensor:
    return images


def _autocontrast(images: Tensor, levels: Tensor) -> Tensor:
    """Stretch each channel to 0 … 255; one that has a single value stays."""
    low = images.amin((2, 3), keepdim=True).float()
    span = images.amax((2, 3), keepdim=True).float() - low
    flat = span == 0
    return _bytes(images.float().sub_(low.masked_fill_(flat, 0)).mul_((255 / span).masked_fill_(flat, 1)))


def _equalize(images: Tensor, levels: Tensor) -> Tensor:
    """Spread each channel so that its values are about equally frequent, by the formula of PIL.ImageOps.equalize."""
    n, c, h, w = images.shape
    table = torch.arange(n * c)[:, None] * 256  # where the 256 values of a channel begin: (n C, 1)
    index = images.reshape(n * c, h * w) + table
    counts = torch.bincount(index.flatten(), minlength=n * c * 256).view(n * c, 256)
    brightest = counts.gather(1, images.reshape(n * c, -1).amax(1, keepdim=True).long())
    step = (h * w - brightest) // 255
    darker = counts.cumsum(1) - counts
    spread = (darker + step // 2) // step.clamp(min=1)
    values = torch.where(step > 0, spread.clamp_(max=255), torch.arange(256))  # too few values to spread: as it is
    return values.byte().flatten()[index].view(n, c, h, w)


def _rotate(images: Tensor, levels: Tensor) -> Tensor:
    angles = [math.radians(ROTATE * level) for level in levels.tolist()]
    cos = torch.tensor([math.cos(angle) for angle in angles])
    sin = torch.tensor([math.sin(angle) for angle in angles])
    return _warp(images, xx=cos, xy=-sin, yx=sin, yy=cos)


def _warp(
    images: Tensor,
    *,
    xx: Tensor | float = 1.0,
    xy: Tensor | float = 0.0,
    x0: Tensor | float = 0.0,
    yx: Tensor | float = 0.0,
    yy: Tensor | float = 1.0,
    y0: Tensor | float = 0.0,
) -> Tensor:
    """Show at (x, y) what was at (xx x + xy y + x0, yx x + yy y + y0); coordinates run from -1 to 1, numbers are (n,).

    The border is repeated into what is uncovered: a plain background simply goes on, where a fill would draw an edge.
    """
    side = images.shape[-1]
    across = (torch.arange(side) * 2 + 1) / side - 1
    down = across[:, None]
    xx, xy, x0, yx, yy, y0 = (torch.as_tensor(v).expand(len(images)).view(-1, 1, 1) for v in (xx, xy, x0, yx, yy, y0))
    # affine_grid multiplies matrices, whose rounding may depend on how many there are
    grid = torch.stack([xx * across + (xy * down + x0), yx * across + (yy * down + y0)], -1)  # (n, S, S, 2)
    return _bytes(F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False))


def _solarize(images: Tensor, levels: Tensor) -> Tensor:
    """Invert what is brighter than a threshold, which falls from 256 to 0 with the strength."""
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
    return _bytes(images.float().mul_(1 + levels.view(-1, 1, 1, 1)))


def _colour(images: Tensor, levels: Tensor) -> Tensor:
    return _blend(images, _grey(images).float(), levels)


def _sharpness(images: Tensor, levels: Tensor) -> Tensor:
    """Blend with a smoothed image: a pixel counts 5, its eight neighbours 1 (PIL.ImageFilter.SMOOTH)."""
    if images.shape[-1] < 3:
        return images
    wide = images.short()
    rows = wide[..., :-2] + wide[..., 1:-1] + wide[..., 2:]
    total = rows[..., :-2, :] + rows[..., 1:-1, :] + rows[..., 2:, :] + 4 * wide[..., 1:-1, 1:-1]
    smooth = images.float()
    smooth[..., 1:-1, 1:-1] = total.float().mul_(1 / 13)  # the border has too few neighbours and stays
    return _blend(images, smooth, levels)


def _grey(images: Tensor) -> Tensor:
    """Return the brightness (n, 1, H, W) of RGB as int32, weighed by ITU-R 601-2 as in PIL; else each channel."""
    if images.shape[1] != 3:
        return images.int()
    red, green, blue = images.int().split(1, 1)
    grey: Tensor = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return grey


def _blend(images: Tensor, other: Tensor, levels: Tensor) -> Tensor:
    """Go from `other` (level -1) through the images (0) to as far beyond them (1)."""
    return _bytes((images.float() - other).mul_(1 + levels.view(-1, 1, 1, 1)).add_(other))


def _bytes(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255).byte()


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": _identity,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "rotate": _rotate,
    "shear-x": lambda images, levels: _warp(images, xy=SHEAR * levels),
    "shear-y": lambda images, levels: _warp(images, yx=SHEAR * levels),
    "translate-x": lambda images, levels: _warp(images, x0=2 * TRANSLATE * levels),
    "translate-y": lambda images, levels: _warp(images, y0=2 * TRANSLATE * levels),
    "solarize": _solarize,
    "posterize": _posterize,
    "contrast": _contrast,
    "brightness": _brightness,
    "sharpness": _sharpness,
    "colour": _colour,
}
"""Each changes images (n, C, S, S) at levels (n,) in [-1, 1]: the sign is a direction, where there are two."""
