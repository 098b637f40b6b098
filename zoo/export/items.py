"""Inputs on which an export is checked: the user's own, or seeded random ones, as files and texts."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.data import images
from zoo.errors import DataError, ExportError
from zoo.export.source import Source
from zoo.plugin import ImageInput

COUNT = 64
"""Items an export is checked on."""
LANGUAGE_COUNT = 16
"""Items of a language model, whose answers are as long as its vocabulary."""
SEED = 20_18


def chosen(source: Source, inputs: Sequence[Any] | None, folder: Path) -> list[Any]:
    """Return up to COUNT items as JSON values: paths of image files, which are written to `folder`, or texts.

    inputs  of the user, of which a seeded sample is drawn; None: random images or texts
    """
    count = COUNT if source.task.labelled else LANGUAGE_COUNT
    if inputs is None:
        return _random_images(source, count, folder) if _spec(source) else _random_texts(source, count)
    sample = sorted(random.Random(SEED).sample(range(len(inputs)), min(count, len(inputs))))
    return as_values(source, [inputs[i] for i in sample], folder)


def as_values(source: Source, inputs: Sequence[Any], folder: Path) -> list[Any]:
    """Return items as JSON values: paths of image files, which are written to `folder` if they are none, or texts."""
    if _spec(source):
        return [_as_file(item, index, folder) for index, item in enumerate(inputs)]
    return [list(item) if isinstance(item, tuple) else item for item in source.task.parse(inputs)]


def as_inputs(source: Source, items: Sequence[Any]) -> list[Any]:
    """Return items as the network's preprocessing takes them: a pair of texts is a tuple."""
    return [tuple(item) if source.pairs else Path(item) if _spec(source) else item for item in items]


def _spec(source: Source) -> ImageInput | None:
    spec = source.how.input
    if not isinstance(spec, ImageInput):
        return None
    if spec.channels not in (1, 3):
        what = f"{source.entry.name} takes {spec.channels} channels, and the image files that run.py reads have 1 or 3"
        raise ExportError(what, fix="model.module, with torch.export.export or torch.onnx.export of your own")
    return spec


def _random_images(source: Source, count: int, folder: Path) -> list[str]:
    """Write images of coloured blobs in several sizes: smooth enough for resizing to matter as it does for photos."""
    import numpy as np
    from PIL import Image

    spec, chance = _spec(source), np.random.default_rng(SEED)
    assert spec is not None
    side, found = images.short_side(spec), []
    for index in range(count):
        width, height = (int(n) for n in chance.integers(side, 2 * side + 1, 2))
        blobs = Image.fromarray(chance.integers(0, 256, (6, 6, 3), np.uint8)).resize((width, height), 3)
        grain = chance.normal(0, 12, (height, width, 3))
        pixels = np.clip(np.asarray(blobs) + grain, 0, 255).astype(np.uint8)
        path = folder / f"{index:03}.png"
        Image.fromarray(pixels).convert("L" if spec.channels == 1 else "RGB").save(path)
        found.append(str(path))
    return found


def _as_file(item: Any, index: int, folder: Path) -> str:
    """Return the path of an image; one in memory is written to a file."""
    from PIL import Image

    if isinstance(item, dict):
        item = item.get("path") or item.get("bytes")
    if isinstance(item, str | os.PathLike):
        return str(Path(item).absolute())
    path = folder / f"{index:06}.png"
    if isinstance(item, bytes):
        path.write_bytes(item)
        return str(path)
    try:
        made = item if isinstance(item, Image.Image) else Image.fromarray(item)
        made.save(path)
    except Exception as error:  # Pillow raises many types
        what = f"image {index} of the data cannot be written to a file: {error}"
        raise DataError(what, fix="give a folder of image files: --data FOLDER") from error
    return str(path)


def _random_texts(source: Source, count: int) -> list[Any]:
    """Return texts of random tokens, a few of them longer than the model reads."""
    tokenizer = source.backbone.tokenizer
    assert tokenizer is not None
    fast, chance, limit = tokenizer.fast, random.Random(SEED), source.how.length
    special = set(fast.get_added_tokens_decoder())
    known = [i for i in range(min(fast.get_vocab_size(), tokenizer.size or 1 << 30)) if i not in special]

    def text(tokens: int) -> str:
        return fast.decode([chance.choice(known) for _ in range(tokens)]).strip() or "a"

    def item(index: int) -> Any:
        if source.takes_words:
            return (text(chance.randint(3, max(4, limit // 8))).split() or ["a"])[: max(1, limit // 8)]
        if not source.task.labelled:
            made = text(chance.randint(3, max(4, min(32, limit // 4))))
            mask = tokenizer.mask if not source.task.autoregressive else None
            return made if mask is None else f"{made} {fast.id_to_token(mask)}"
        tokens = limit + limit // 4 if index % 16 == 15 else chance.randint(2, max(3, limit // 2))
        return [text(tokens), text(tokens)] if source.pairs else text(tokens)

    return [item(index) for index in range(count)]
