"""Image decoding: convert a path, PIL image, array or tensor to uint8 pixels (C, H, W)."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import DataError
from zoo.plugin import ImageInput

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

MAX_PIXELS = 200_000_000
"""Larger images are rejected before decoding: a PNG of a few kB can expand to gigabytes (decompression bomb)."""
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
        item = _from_tensor(item, name)
    if isinstance(item, np.ndarray) and _is_ready(item, spec):
        array = item
    else:
        image = item if _is_pil(item) else _open(item, name)
        array = np.asarray(_resize(_convert(image, spec.channels, name), spec))
    chw = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(np.array(chw, order="C"))


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


def _from_tensor(tensor: Tensor, name: str) -> np.ndarray[Any, Any]:
    """Convert (C, H, W) uint8, or float in [0, 1], to a uint8 array (H, W, C), or (H, W) for one channel."""
    if tensor.is_floating_point():
        low, high = float(tensor.min()), float(tensor.max())
        if not (low >= 0 and high <= 1):  # NaN as well
            raise DataError(
                f"{name} is a float tensor with values from {low:g} to {high:g}; expected uint8, or float in [0, 1]",
                fix="scale it to [0, 1]; zoo normalises with the backbone's own mean and std",
            )
        tensor = (tensor * 255).round()
    array: np.ndarray[Any, Any] = tensor.detach().cpu().byte().numpy()
    if array.ndim == 3:
        array = array.transpose(1, 2, 0)
        array = array[:, :, 0] if array.shape[2] == 1 else array
    return array


def _open(item: Any, name: str) -> Image:
    """Open a path, the bytes of a file or an array as a decoded PIL image, with its EXIF orientation applied."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(item, dict):  # an undecoded image of the `datasets` library
        item = item.get("bytes") or item.get("path")
    if not isinstance(item, str | os.PathLike | bytes):
        return _from_array(item, name)
    if not isinstance(item, bytes) and not Path(item).is_file():
        raise DataError(f"{item} does not exist or is not a file", fix=f"check the path: ls {Path(item).parent}")
    try:
        with Image.open(io.BytesIO(item) if isinstance(item, bytes) else item) as image:
            _check_size(image, name)
            image.load()  # the first frame of an animation
            return ImageOps.exif_transpose(image)
    except Image.DecompressionBombError as error:
        raise _too_large(name, str(error)) from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is not a readable image", fix=_skip_hint(name)) from error
    except (OSError, SyntaxError, ValueError, EOFError, ArithmeticError, MemoryError) as error:
        raise DataError(f"{name} is damaged: {error}", fix=_skip_hint(name)) from error


def _from_array(item: Any, name: str) -> Image:
    import numpy as np
    from PIL import Image

    is_image = isinstance(item, np.ndarray) and item.dtype == np.uint8
    if not is_image or not (item.ndim == 2 or (item.ndim == 3 and item.shape[2] in (3, 4))):
        got = f"{item.dtype} array of shape {item.shape}" if isinstance(item, np.ndarray) else type(item).__name__
        raise DataError(
            f"{name} is {got}, not an image",
            fix="pass a path, a PIL image, or a uint8 array (H, W), (H, W, 3) or (H, W, 4)",
        )
    return Image.fromarray(item)


def _check_size(image: Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name, f"{image.width} x {image.height} pixels")


def _too_large(name: str, found: str) -> DataError:
    return DataError(
        f"{name} is too large to decode safely: {found}; the limit is {MAX_PIXELS:,} pixels",
        fix=f"shrink it with an image editor, or {_skip_hint(name)}",
    )


def _skip_hint(name: str) -> str:
    return f"replace or remove {name}, or let fine-tuning skip unreadable images: skip_bad=true"


def _convert(image: Image, channels: int, name: str) -> Image:
    """Convert any mode to 8-bit grey (1 channel) or RGB (3); transparent images are composited on white."""
    from PIL import Image as pil

    if channels not in (1, 3):
        raise DataError(
            f"{name}: this backbone takes {channels} channels, and an image file has 1 or 3",
            fix=f"pass uint8 arrays (H, W, {channels}) of the backbone's input size",
        )
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bit(image, name)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = pil.new("RGBA", rgba.size, "white")
        image = pil.alpha_composite(white, rgba)
    return image.convert("L" if channels == 1 else "RGB")


def _eight_bit(image: Image, name: str) -> Image:
    """Scale 16- and 32-bit grey to 8 bits; PIL's conversion would clip all values above 255. DataError for NaN."""
    import numpy as np
    from PIL import Image as pil

    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError(f"{name} has pixels that are NaN or infinite", fix=_skip_hint(name))
    top = float(values.max(initial=0.0))
    full = 1.0 if top <= 1 and image.mode == "F" else 255.0 if top <= 255 else 65535.0 if top <= 65535 else top
    return pil.fromarray((values.clip(0, full) * (255 / full)).round().astype(np.uint8))


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
