"""Image decoding: convert a path, PIL image, array or tensor to uint8 pixels (C, H, W)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from zoo.data.image_files import decoded, refusal, skip_hint
from zoo.errors import DataError
from zoo.plugin import ImageInput

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

STRIP_PIXELS = 4_000_000
"""Pixels converted at once: a larger image is converted strip by strip."""
MAX_ASPECT = 4
"""Maximum ratio of the long to the short side; longer images are centre-cropped, as models see a square."""


def pixels(item: Any, spec: ImageInput, name: str) -> Tensor:
    """Convert `item` to uint8 pixels (C, H, W) with the short side resized to size / crop.

    `item` is a path, a PIL image, an array, a tensor, the bytes of a file, or a dict with "bytes" or "path"; `name`
    identifies it in messages. Raises DataError if it is not an image, is damaged or is too large.
    """
    import numpy as np
    import torch

    if isinstance(item, torch.Tensor):
        item = _from_tensor(item)
    if isinstance(item, dict):  # an undecoded image of the `datasets` library
        item = item.get("bytes") or item.get("path")
    if _is_pil(item) or isinstance(item, str | os.PathLike | bytes):
        array = _from_encoded(item, spec, name)
    else:
        item = _from_floats(item, name)
        if isinstance(item, np.ndarray) and item.ndim == 3 and item.shape[2] == 1:
            item = item[:, :, 0]
        ready = isinstance(item, np.ndarray) and _is_ready(item, spec)
        array = item if ready else _fitted(_from_array(item, name), spec, name)
    chw = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(np.array(chw, order="C"))


def _from_encoded(item: Any, spec: ImageInput, name: str) -> np.ndarray[Any, Any]:
    """Decode a path, the bytes of a file or a PIL image; any error of a decoder is a DataError."""
    try:
        with decoded(item, name) as image:
            return _fitted(image, spec, name)
    except DataError:
        raise
    except Exception as error:  # decoders raise nearly all types: struct.error, OverflowError, AttributeError, …
        raise refusal(name, error) from error


def _fitted(image: Image, spec: ImageInput, name: str) -> np.ndarray[Any, Any]:
    """Return the pixels of an image in the channels and the size of the input."""
    import numpy as np

    return np.asarray(_resize(_convert(image, spec.channels, name), spec))


def short_side(spec: ImageInput) -> int:
    """Return the length in pixels of the resized short side, before the centre crop."""
    return int(spec.size / spec.crop)


def _is_pil(item: object) -> bool:
    from PIL import Image

    return isinstance(item, Image.Image)


def _is_ready(array: np.ndarray[Any, Any], spec: ImageInput) -> bool:
    """Return whether a uint8 array already has the target size and channels: (S, S) for grey, else (S, S, C)."""
    side = short_side(spec)
    shape = (side, side) if spec.channels == 1 else (side, side, spec.channels)
    return str(array.dtype) == "uint8" and array.shape == shape


def _from_tensor(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Convert (C, H, W), or (H, W), to an array with the channels last."""
    tensor = tensor.detach().cpu()
    array: np.ndarray[Any, Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array.transpose(1, 2, 0) if array.ndim == 3 else array


def _from_floats(item: Any, name: str) -> Any:
    """Convert a float array in [0, 1] to uint8; anything else stays as it is."""
    import numpy as np

    if not isinstance(item, np.ndarray) or item.dtype.kind != "f" or not item.size:
        return item
    low, high = float(item.min()), float(item.max())
    if not (low >= 0 and high <= 1):  # NaN as well
        raise DataError(
            f"{name} is a float image with values from {low:g} to {high:g}; expected uint8, or float in [0, 1]",
            fix="scale it to [0, 1]; zoo normalises with the backbone's own mean and std",
        )
    return (item * 255).round().astype(np.uint8)


def _from_array(item: Any, name: str) -> Image:
    import numpy as np
    from PIL import Image

    is_image = isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.size > 0
    if not is_image or not (item.ndim == 2 or (item.ndim == 3 and item.shape[2] in (3, 4))):
        got = f"{item.dtype} array of shape {item.shape}" if isinstance(item, np.ndarray) else type(item).__name__
        raise DataError(
            f"{name} is {got}, not an image",
            fix="pass a path, a PIL image, or an array (H, W), (H, W, 3) or (H, W, 4): uint8, or float in [0, 1]",
        )
    return Image.fromarray(item)


def _convert(image: Image, channels: int, name: str) -> Image:
    """Convert any mode to 8-bit grey (1 channel) or RGB (3); transparent images are composited on white."""
    from PIL import Image as pil

    if channels not in (1, 3):
        raise DataError(
            f"{name}: this backbone takes {channels} channels, and an image file has 1 or 3",
            fix=f"pass uint8 arrays (H, W, {channels}) of the backbone's input size",
        )
    if image.mode == "LAB":
        raise DataError(f"{name} has the colour mode LAB, which is not converted", fix=skip_hint(name))
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode and "transparency" not in image.info:
        return image
    rows = max(1, STRIP_PIXELS // max(1, image.width))
    full = _full_scale(image, rows, name)
    if rows >= image.height:
        return _flat(image, mode, full)
    converted = pil.new(mode, image.size)
    for strip, top in _strips(image, rows):
        converted.paste(_flat(strip, mode, full), (0, top))
    return converted


def _strips(image: Image, rows: int) -> Iterator[tuple[Image, int]]:
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height))), top


def _flat(image: Image, mode: str, full: float | None) -> Image:
    """Convert an image to 8-bit `mode`: composited on white, and scaled from 0 … `full` where that is given."""
    import numpy as np
    from PIL import Image as pil

    if full is not None:
        values = np.asarray(image)
        is_short = values.dtype.kind == "u" and values.dtype.itemsize == 2  # a table is faster than arithmetic
        levels = np.arange(1 << 16, dtype=np.float64) if is_short else values.astype(np.float64)
        scaled = (levels.clip(0, full) * (255 / full)).round().astype(np.uint8)
        image = pil.fromarray(scaled[values] if is_short else scaled)
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = pil.alpha_composite(pil.new("RGBA", rgba.size, "white"), rgba)
    return image.convert(mode)


def _full_scale(image: Image, rows: int, name: str) -> float | None:
    """Return the white of 16-, 32-bit and float grey, None for 8-bit images; raises DataError for NaN.

    PIL's own conversion would clip all values above 255.
    """
    import numpy as np

    if not image.mode.startswith("I") and image.mode != "F":
        return None
    top = 0.0
    for strip, _ in _strips(image, rows):
        values = np.asarray(strip)
        if not np.isfinite(values).all():
            raise DataError(f"{name} has pixels that are NaN or infinite", fix=skip_hint(name))
        top = max(top, float(values.max(initial=0)))
    return 1.0 if top <= 1 and image.mode == "F" else 255.0 if top <= 255 else 65535.0 if top <= 65535 else top


def _resize(image: Image, spec: ImageInput) -> Image:
    """Resize the short side, keeping the aspect ratio; crop to MAX_ASPECT first."""
    from PIL import Image as pil

    width, height = image.size
    limit = MAX_ASPECT * min(width, height)
    if max(width, height) > limit:
        left, top = max(0, width - limit) // 2, max(0, height - limit) // 2
        image = image.crop((left, top, left + min(width, limit), top + min(height, limit)))
        width, height = image.size
    side = short_side(spec)
    scale = side / min(width, height)
    size = (max(side, int(width * scale)), max(side, int(height * scale)))
    return image if size == image.size else image.resize(size, pil.Resampling[spec.interpolation.upper()])
