"""Benchmark preparing images: zoo against torchvision (decode_image, v2 transforms), alternating in one process.

One thread, 64 photos of 640 x 480 pixels for an input of 224. The import of torchvision, which zoo does not need, is
timed in subprocesses.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timing import alternate, process, table
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from zoo.data.augmentation import random_crops, vary
from zoo.data.images import pixels
from zoo.plugin import ImageInput

COUNT, ROUNDS = 64, 5
SPEC = ImageInput(224, (0.5,) * 3, (0.5,) * 3, "bicubic", 0.875)


def write(folder: Path, suffix: str) -> list[Path]:
    """Write smooth random photos; returns their paths."""
    draws = np.random.default_rng(0)
    paths = [folder / f"{number}{suffix}" for number in range(COUNT)]
    for path in paths:
        small = Image.fromarray(draws.integers(0, 255, (24, 32, 3), dtype=np.uint8))
        small.resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def by_torchvision(path: Path) -> torch.Tensor:
    image = decode_image(str(path), mode=ImageReadMode.RGB, apply_exif_orientation=True)
    return v2.functional.resize(image, [256], interpolation=v2.InterpolationMode.BICUBIC, antialias=True)


def decoding(folder: Path) -> None:
    for suffix in (".jpg", ".png"):
        paths = write(folder, suffix)
        sides = {
            "zoo": lambda paths=paths: [pixels(path, SPEC, path.name) for path in paths],
            "torchvision": lambda paths=paths: [by_torchvision(path) for path in paths],
        }
        pairs = [(pixels(path, SPEC, path.name), by_torchvision(path)) for path in paths[:4]]
        difference = max(int((one.int() - other.int()).abs().max()) for one, other in pairs)
        print(f"decode and resize {COUNT} {suffix} files; largest difference {difference} of 255")
        table(alternate(sides, ROUNDS), "torchvision")


def augmenting(folder: Path) -> None:
    images = [by_torchvision(path) for path in write(folder, ".jpg")]
    draws = torch.Generator().manual_seed(0)
    crop = v2.Compose([v2.RandomResizedCrop(224, scale=(0.35, 1), antialias=True), v2.RandomHorizontalFlip()])
    for name, theirs in (("crop-flip", crop), ("randaugment", v2.Compose([crop, v2.RandAugment(2, 9)]))):

        def ours(name: str = name) -> torch.Tensor:
            crops = random_crops(images, torch.arange(COUNT), 224, draws, slice(None))
            return vary(crops, name, COUNT, draws, slice(None))

        sides = {"zoo": ours, "torchvision": lambda theirs=theirs: torch.stack([theirs(image) for image in images])}
        print(f"{name} of {COUNT} images")
        table(alternate(sides, ROUNDS), "torchvision")


def importing() -> None:
    sides = {name: process([sys.executable, "-c", f"import {name}"]) for name in ("torch", "torchvision")}
    print("import, whole process")
    table(alternate(sides, 3), "torch")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        decoding(Path(temporary))
        augmenting(Path(temporary))
    importing()
