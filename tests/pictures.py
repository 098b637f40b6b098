"""Tiny separable images and tiny catalogue rows for tests that train in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (40, 190, 70), "red": (210, 50, 40), "grey": (128, 128, 128)}

ROW = """
["tiny/{name}"]
plugin = "native"
modality = "image"
input = {{ size = {size}, mean = {mean}, std = {mean} }}
options = {{ arch = "resnet14", width = 4 }}
"""


def array(colour: str, seed: int, size: tuple[int, int] = (16, 16)) -> np.ndarray:
    """Return a noisy image (H, W, 3) uint8 of a colour."""
    noise = np.random.default_rng(seed).normal(0, 25, (*size, 3))
    return np.clip(noise + COLOURS[colour], 0, 255).astype(np.uint8)


def pairs(per_class: int = 6, classes: tuple[str, ...] = ("blue", "green", "red"), seed: int = 0) -> list:
    """Return (array, label) pairs, class by class."""
    return [(array(c, seed * 1000 + 100 * k + i), c) for k, c in enumerate(classes) for i in range(per_class)]


def folder(root: Path, per_class: int = 6, classes: tuple[str, ...] = ("blue", "green", "red"), seed: int = 0) -> Path:
    """Write a folder per class of PNG files; returns `root`."""
    for index, (pixels, label) in enumerate(pairs(per_class, classes, seed)):
        (root / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / label / f"{index:03}.png")
    return root


def saved(root: Path, data: list, **fields: object) -> Path:
    """Train a tiny net from random weights, with a store in `root`; returns the folder it is saved to."""
    import pytest

    import zoo

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("ZOO_HOME", str(root / "store"))
        patch.setenv("ZOO_CONFIG_HOME", str(root / "config"))
        model = zoo.load(catalogue(root), "cpu")
        return model.finetune(data, strategy="scratch", **fields).save(root / "colours")


def catalogue(where: Path, name: str = "net", size: int = 16, channels: int = 3) -> str:
    """Add a tiny untrained residual net to the zoo.toml in `where`; returns its name."""
    with (where / "zoo.toml").open("a") as file:
        file.write(ROW.format(name=name, size=size, mean=[0.5] * channels))
    return f"tiny/{name}"
