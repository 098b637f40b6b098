"""Cache of decoded images: packed uint8 pixels, memory-mapped from disk if the images come from files."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data.examples import Examples
from zoo.data.fingerprint import identity
from zoo.data.images import pixels
from zoo.errors import DataError
from zoo.plugin import ImageInput
from zoo.store import cache_file, caches

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 64
IN_MEMORY = 1_000_000_000
"""Bytes of pixels up to which they may be in memory."""
MEASURED = 16
"""Images from whose pixels those of all are estimated: evenly spaced ones."""
WIDE = 4
"""Width through height that is assumed of all images of a set so small that even then its pixels fit into memory."""
SKIPPED = (0, 0, 0)
"""Shape of a skipped image in the cache."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """N decoded images: flat pixels (B,) uint8, one (C, H, W) shape each, and the indices of skipped inputs."""

    flat: Tensor
    shapes: tuple[tuple[int, int, int], ...]
    skipped: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.shapes)

    def images(self) -> Ragged | Tensor:
        """Return the images: one tensor (N, C, H, W) if all shapes are equal."""
        import torch

        if len(set(self.shapes)) == 1:
            return self.flat.view(len(self), *self.shapes[0])
        shapes = torch.tensor(self.shapes, dtype=torch.int32).view(-1, 3)
        ends = shapes.prod(1).cumsum(0)
        return Ragged(self.flat, shapes, ends)


@dataclass(frozen=True, slots=True)
class Ragged:
    """Images of several shapes (N, 3) in flat pixels (B,), which end at `ends` (N,); an item is a view (C, H, W).

    They take 20 bytes an image beside the pixels, where a list of views takes 585.
    """

    flat: Tensor
    shapes: Tensor
    ends: Tensor

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Tensor:
        channels, height, width = self.shapes[index].tolist()
        end = int(self.ends[index])
        return self.flat[end - channels * height * width : end].view(channels, height, width)


def decode(
    examples: Examples, spec: ImageInput, cache: Path | None, *, skip_bad: bool, advance: Callable[[int], None]
) -> Decoded:
    """Decode and resize every image; cache images from files in the folder `cache` (None: no cache).

    The cache key is path, size, time of change and input specification. Pixels of other images that take more than
    IN_MEMORY are mapped from a file that is deleted after use. `advance` is called with the number of images of each
    finished chunk. Raises DataError naming the first image that cannot be read; with `skip_bad` its index is in
    `skipped` instead.
    """
    from_files = _from_files(examples)
    if cache is None or (not from_files and estimate(examples, spec) <= IN_MEMORY):
        return _in_memory(_prepare(examples, spec, skip_bad, advance))
    path = cache_path(examples, spec, cache, skip_bad=skip_bad)
    found = cache_file.read(path) if from_files else None
    if found is None:
        caches.make_room(estimate(examples, spec))
        found = _write(_prepare(examples, spec, skip_bad, advance), path)
        if not from_files:
            path.unlink(missing_ok=True)
    shapes = [(c, h, w) for c, h, w in found["shapes"].tolist()]
    kept = tuple(shape for shape in shapes if shape != SKIPPED)
    return Decoded(found["pixels"], kept, tuple(i for i, shape in enumerate(shapes) if shape == SKIPPED))


def cache_path(examples: Examples, spec: ImageInput, cache: Path, *, skip_bad: bool) -> Path:
    """Return the cache file of the images of files; of others an unused one."""
    name = _key(examples, spec, skip_bad) if _from_files(examples) else secrets.token_hex(16)
    return cache / f"{name}.safetensors"


def estimate(examples: Examples, spec: ImageInput) -> int:
    """Return about how many bytes the pixels of all images take, by those of a few; of a small set how many at most."""
    most = int(len(examples) * spec.channels * WIDE * (spec.size / spec.crop) ** 2)
    if most <= IN_MEMORY:
        return most
    sizes = []
    for index in range(0, len(examples), -(-len(examples) // MEASURED) or 1):
        with suppress(DataError):
            sizes.append(pixels(examples.inputs[index], spec, "").numel())
    return len(examples) * sum(sizes) // max(1, len(sizes))


def exceeds_limit(examples: Examples, spec: ImageInput, cache: Path, *, skip_bad: bool) -> bool:
    """Return whether the pixels fit neither into memory nor into the caches, and are not there yet."""
    if _from_files(examples) and os.path.exists(cache_path(examples, spec, cache, skip_bad=skip_bad)):
        return False
    needed = estimate(examples, spec)
    return needed > IN_MEMORY and not caches.make_room(needed)


def unreadable(
    examples: Examples, spec: ImageInput, *, skip_bad: bool, advance: Callable[[int], None]
) -> tuple[int, ...]:
    """Decode every image and keep none; returns the indices of those to skip. Raises DataError as `decode`."""
    found = _prepare(examples, spec, skip_bad, advance)
    return tuple(index for index, image in enumerate(found) if image is None)


def _from_files(examples: Examples) -> bool:
    return all(isinstance(item, str | os.PathLike) for item in examples.inputs)


def _key(examples: Examples, spec: ImageInput, skip_bad: bool) -> str:
    digest = hashlib.sha256(repr((spec.size, spec.crop, spec.interpolation, spec.channels, skip_bad)).encode())
    for item in examples.inputs:
        digest.update(f"{os.path.abspath(item)}\t{identity(Path(item))}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:32]


def name_of(item: Any, index: int) -> str:
    """Return the name of an image in messages: its path, else its index."""
    return str(item) if isinstance(item, str | os.PathLike) else f"image {index}"


def _prepare(
    examples: Examples, spec: ImageInput, skip_bad: bool, advance: Callable[[int], None]
) -> Iterator[Tensor | None]:
    """Yield the pixels of each image in order, None if skipped; decode in threads, as PIL releases the GIL."""

    def one(index: int) -> Tensor | None:
        item = examples.inputs[index]
        try:
            return pixels(item, spec, name_of(item, index))
        except DataError:
            if skip_bad:
                return None
            raise

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # For arrays a thread costs more than the conversion.
        encoded = len(examples) and isinstance(examples.inputs[0], str | os.PathLike | bytes | dict)
        run = pool.map if encoded else map
        for start in range(0, len(examples), CHUNK):
            chunk = range(start, min(start + CHUNK, len(examples)))
            yield from run(one, chunk)
            advance(len(chunk))


def _in_memory(images: Iterator[Tensor | None]) -> Decoded:
    import torch

    found = list(images)
    kept = [image for image in found if image is not None]
    return Decoded(
        torch.cat([image.reshape(-1) for image in kept]) if kept else torch.empty(0, dtype=torch.uint8),
        tuple(_shape(image) for image in kept),
        tuple(i for i, image in enumerate(found) if image is None),
    )


def _write(images: Iterator[Tensor | None], path: Path) -> dict[str, Tensor]:
    """Write the pixels, then one shape for each image, and return them mapped."""
    import torch

    shapes: list[tuple[int, int, int]] = []
    with cache_file.Writer(path) as writer:
        for image in images:
            shapes.append(SKIPPED if image is None else _shape(image))
            if image is not None:
                writer.append(image)
        table = torch.tensor(shapes, dtype=torch.int64).reshape(-1, 3)  # (N, 3)
        size = sum(c * h * w for c, h, w in shapes)
        writer.append(table)
        return writer.finish({"pixels": (torch.uint8, (size,)), "shapes": (torch.int64, table.shape)})


def _shape(image: Tensor) -> tuple[int, int, int]:
    channels, height, width = image.shape
    return channels, height, width
