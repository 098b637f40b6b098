"""Cues: properties of an input that should not give its label away, such as the border of an image or a text's length.

Each is measured without the network: numbers (N, D), or a category (N,) such as the sender of a mail.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.image_batches import Images

BORDER, CORNER = 0.06, 0.12
"""Width of the border, and side of a corner, as a share of the side of the image."""
BLOCK = 64
"""Images cropped at a time."""
HEAD = 2_000
"""Characters of a text that are searched for a sender."""
SENDER = re.compile(r"^from:[^\n]*?([\w.+-]+@[\w.-]+)", re.IGNORECASE | re.MULTILINE)
FEW_WORDS = 3
"""Words of a text's beginning and end that make a category."""
MARKS: tuple[Callable[[str], int], ...] = (
    lambda text: sum(map(str.isupper, text)),
    lambda text: sum(map(str.isdigit, text)),
    lambda text: sum(not letter.isalnum() and not letter.isspace() for letter in text),
    lambda text: sum(letter > "\x7f" for letter in text),
)


@dataclass(frozen=True, slots=True)
class Cue:
    """Values of each example: numbers (N, D) float64, or categories (N,) int64.

    name   "border", "corners", "colour", "size", "format"; of texts "length", "characters", "sender", "first words",
           "last words"
    """

    name: str
    values: NDArray[Any]

    @property
    def is_category(self) -> bool:
        """Whether the values are categories."""
        return self.values.ndim == 1


def of_images(images: Images, inputs: Sequence[Any]) -> list[Cue]:
    """Return the cues of images: pixels of what the network sees, and size and format of the files."""
    crops = (images.batch(indices) for indices in torch.arange(len(images)).split(BLOCK))
    pixels = [torch.cat(parts, 1) for parts in zip(*map(_statistics, crops), strict=True)]
    found = [Cue(name, values.T.double().numpy()) for name, values in zip(PIXELS, pixels, strict=True)]
    return found + _files(inputs)


PIXELS = ("border", "corners", "colour")
"""Cues that are made of pixels."""


def _statistics(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean colours of the sides (4 C, N), of the corners (4 C, N), and mean and deviation of all (2 C, N)."""
    values = images.float()
    side = values.shape[-1]
    border, corner = regions(side)
    sides = [values[..., rows, columns].mean((2, 3)) for rows, columns in border]
    corners = [values[..., rows, columns].mean((2, 3)) for rows, columns in corner]
    whole = [values.mean((2, 3)), values.std((2, 3))]
    sums = [torch.cat(parts, 1).T for parts in (sides, corners, whole)]
    return sums[0], sums[1], sums[2]


def regions(side: int) -> tuple[list[tuple[slice, slice]], list[tuple[slice, slice]]]:
    """Return the four sides and the four corners of a square image, as slices of rows and columns."""
    width, length = max(1, round(BORDER * side)), max(1, round(CORNER * side))
    every, first, last = slice(None), slice(0, width), slice(side - width, side)
    near, far = slice(0, length), slice(side - length, side)
    return (
        [(first, every), (last, every), (every, first), (every, last)],
        [(near, near), (near, far), (far, near), (far, far)],
    )


def _files(inputs: Sequence[Any]) -> list[Cue]:
    """Return size and format of image files; nothing for images in memory."""
    from PIL import Image

    sizes, formats = [], []
    for item in inputs:
        if not isinstance(item, os.PathLike):
            return []
        path = Path(item)
        try:
            with Image.open(path) as image:
                width, height = image.size
                formats.append(f"{image.format} {image.mode}")
            ratio = path.stat().st_size / (width * height)
        except Exception:  # noqa: BLE001  # decoders raise nearly all types; it was decoded before
            return []
        sizes.append((np.log(width), np.log(height), np.log(width / height), np.log(ratio)))
    return [Cue("size", np.array(sizes)), Cue("format", _categories(formats))]


def of_texts(texts: Sequence[str]) -> list[Cue]:
    """Return the cues of texts: length, kinds of characters, sender, first and last words."""
    lengths = np.array([[len(text), len(text.split()), text.count("\n")] for text in texts])
    marks = np.array([[mark(text) / max(1, len(text)) for mark in MARKS] for text in texts])
    found = [Cue("length", np.log1p(lengths)), Cue("characters", np.sqrt(marks))]
    senders = [match.group(1).lower() if (match := SENDER.search(text[:HEAD])) else "" for text in texts]
    words = [text.split() for text in texts]
    first, last = ([" ".join(part).lower() for part in parts] for parts in zip(*map(_ends, words), strict=True))
    kinds = {"sender": senders, "first words": first, "last words": last}
    return found + [Cue(name, _categories(values)) for name, values in kinds.items() if any(values)]


def _ends(words: list[str]) -> tuple[list[str], list[str]]:
    return words[:FEW_WORDS], words[-FEW_WORDS:]


def _categories(values: Sequence[str]) -> NDArray[np.int64]:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values])
