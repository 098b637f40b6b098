"""Examples as a page shows them: small images in data URIs, excerpts of texts."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from zoo.console import printable
from zoo.data.datasets import Inputs
from zoo.data.examples import Examples
from zoo.data.texts import Texts

SIZE, SMALL = 112, 32
"""Longest side of a thumbnail in pixels; up to SMALL an image is kept as it is."""
QUALITY = 68
EXCERPT = 280
"""Characters of a text that are shown."""
NAME = 60


@dataclass(frozen=True, slots=True)
class Shown:
    """An example: `image` is a data URI ("" for texts), `text` an excerpt ("" for images), `name` where it is from."""

    image: str
    text: str
    name: str


def show(examples: Examples, inputs: Inputs, index: int) -> Shown:
    """Return example `index` as a page shows it; `inputs` are the prepared ones, in the same order."""
    item = examples.inputs[index]
    name = _name(examples.files[index] if examples.files else item, index)
    if isinstance(inputs, Texts):
        return Shown("", excerpt(item), name)
    return Shown(data_uri(inputs.batch(torch.tensor([index]))[0]), "", name)


def _name(item: Any, index: int) -> str:
    """Return folder and name of a file, else the number of the example."""
    if isinstance(item, os.PathLike):
        return printable("/".join(Path(item).parts[-2:]), NAME)
    return f"example {index}"


def excerpt(item: Any) -> str:
    """Return the beginning of a text, of a pair both, of words all."""
    if isinstance(item, tuple | list):
        item = (" | " if isinstance(item, tuple) else " ").join(map(str, item))
    text = " ".join(str(item)[: 4 * EXCERPT].split())
    return printable(text if len(text) <= EXCERPT else f"{text[:EXCERPT]}…")


def data_uri(pixels: Tensor, size: int = SIZE, *, lossless: bool = False) -> str:
    """Return pixels (C, H, W) uint8, as the net sees them, as the data URI of an image of at most `size` pixels.

    JPEG, of a small image, or with `lossless`, PNG; of two channels the first, of more than three the first three.
    """
    grey = len(pixels) < 3
    array = pixels[: 1 if grey else 3].permute(1, 2, 0).contiguous().numpy()
    image = Image.fromarray(array[:, :, 0] if grey else array)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    is_png = lossless or max(image.size) <= SMALL
    buffer = io.BytesIO()
    if is_png:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{'png' if is_png else 'jpeg'};base64,{encoded}"
