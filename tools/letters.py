"""Synthetic letter dataset: letters of open fonts, distorted to look like small scans of handwriting.

    python tools/letters.py --train 208000 --held 10400 --seed 0       # cached as .npz

52 classes (A-Z, a-z), 28 px grey, white on black. Each letter of each font is rendered once as a signed distance
field, which can be warped smoothly and whose stroke width changes by adding a constant. An image is a random warp and
stroke width and, mostly, a downscale to 7 to 10 px followed by an upscale to 28 px. Held-out images use other font
families than training images.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import string
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFont
from scipy.ndimage import distance_transform_edt
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional

LETTERS = string.ascii_uppercase + string.ascii_lowercase
SIZE = 28
CANVAS, BOX = 64, 44
"""The longer side of a letter is BOX px on a square canvas of CANVAS px."""
STEP = 8
"""Distances are int8 in units of 1 / STEP canvas px."""


@dataclass(frozen=True, slots=True)
class Face:
    """Letters of a font: signed distances int8 (52, CANVAS, CANVAS), positive inside, and a mask of its letters."""

    family: str
    distances: np.ndarray
    has: np.ndarray


@dataclass(frozen=True, slots=True)
class Hand:
    """Ranges of the random distortions; angles in radians, lengths as fractions of the image side.

    The defaults were tuned on scikit-learn's digits (docs/log.md), so accuracies on those digits are not on unseen
    data.
    """

    fill: tuple[float, float] = (0.85, 1.1)
    squeeze: float = 0.2
    rotation: float = 0.25
    slant: float = 0.5
    shift: float = 0.04
    wave: float = 0.06
    pen: tuple[float, float] = (0.05, 0.13)
    scanned: float = 0.85
    scan: tuple[int, ...] = (7, 8, 8, 8, 9, 10)
    ink: tuple[float, float] = (0.8, 1.3)
    noise: float = 0.03


@dataclass(frozen=True, slots=True)
class Letters:
    """Images uint8 (N, 28, 28) and labels uint8 (N,), indices into LETTERS; held-out ones are of unseen fonts."""

    images: np.ndarray
    labels: np.ndarray
    held_images: np.ndarray
    held_labels: np.ndarray
    fonts: int
    held_fonts: int


def load(train: int, held: int, seed: int) -> Letters:
    """Return the dataset, from the cache or generated from all fonts of `real_data.fonts()`."""
    import real_data

    hand = Hand()
    key = hashlib.sha256(repr((hand, train, held, seed)).encode()).hexdigest()[:12]

    def make(folder: Path) -> None:
        faces = read_faces([font.path for font in real_data.fonts()])
        seen, unseen = split(faces, 0.1, np.random.default_rng(seed))
        images, labels = draw(seen, train, seed, hand)
        held_images, held_labels = draw(unseen, held, seed + 1, hand)
        parts = {"images": images, "labels": labels, "held_images": held_images, "held_labels": held_labels}
        np.savez(folder / "letters.npz", fonts=len(seen), held_fonts=len(unseen), **parts)

    with np.load(real_data.once(f"letters/{key}", make) / "letters.npz") as parts:
        counts = {name: int(parts[name]) for name in ("fonts", "held_fonts")}
        return Letters(**counts, **{name: parts[name] for name in parts.files if name not in counts})


def read_face(path: Path) -> Face | None:
    """Render the letters of a font file; None if it is unreadable or has fewer than 20 different letters."""
    try:
        font = ImageFont.truetype(str(path), 96)
        family = font.getname()[0] or path.stem
        missing = font.getmask("\U000f1234").getbbox(), bytes(font.getmask("\U000f1234"))
        masks = [font.getmask(letter, mode="L") for letter in LETTERS]
    except (OSError, ValueError, SystemError):  # FreeType rejects the file or a glyph
        return None
    drawn = [np.array(mask, np.uint8).reshape(mask.size[::-1]) if mask.getbbox() else None for mask in masks]
    has = np.array(
        [mask is not None and (m.getbbox(), bytes(m)) != missing for mask, m in zip(drawn, masks, strict=True)]
    )
    if len({bytes(mask) for mask, known in zip(masks, has, strict=True) if known}) < 20:
        return None
    empty = np.zeros((CANVAS, CANVAS), np.int8)
    return Face(family, np.stack([distance(d) if known else empty for d, known in zip(drawn, has, strict=True)]), has)


def distance(ink: np.ndarray) -> np.ndarray:
    """Return the signed distance field int8 (CANVAS, CANVAS) of a glyph uint8 (h, w), scaled to BOX."""
    rows, columns = np.flatnonzero(ink.max(1)), np.flatnonzero(ink.max(0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX / max(ink.shape)
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    small = Image.fromarray(ink).resize((width, height), Image.Resampling.BOX)
    canvas = np.zeros((CANVAS, CANVAS), bool)
    top, left = (CANVAS - height) // 2, (CANVAS - width) // 2
    canvas[top : top + height, left : left + width] = np.asarray(small) > 127
    if not canvas.any():
        return np.full((CANVAS, CANVAS), -127, np.int8)
    signed = distance_transform_edt(canvas) - distance_transform_edt(~canvas) + np.where(canvas, -0.5, 0.5)
    return np.clip(np.round(signed * STEP), -127, 127).astype(np.int8)


def read_faces(paths: Sequence[Path]) -> list[Face]:
    """Render the letters of all font files on all cores and drop illegible fonts."""
    with multiprocessing.get_context("spawn").Pool() as pool:
        faces = [face for face in pool.imap(read_face, paths, chunksize=8) if face is not None]
    return legible(faces)


def legible(faces: Sequence[Face], least: float = 0.3) -> list[Face]:
    """Keep fonts with at least a share `least` of letters nearest to the mean letter of all fonts, in either case.

    Symbols, bar codes and other scripts score near chance, 1 in 26. Lower-case letters closer to the mean capitals
    are dropped as small capitals.
    """
    thumbs = np.stack([thumbnails(face) for face in faces])  # (faces, 52, 256)
    has = np.stack([face.has for face in faces])
    means = np.stack([thumbs[has[:, i], i].mean(0) for i in range(52)])
    scores = thumbs @ means.T  # (faces, 52, 52): each letter against each average
    own = np.diagonal(scores, axis1=1, axis2=2)
    right = (scores.argmax(-1) % 26 == np.arange(52) % 26) & has
    capitals = (np.diagonal(scores[:, 26:, :26], axis1=1, axis2=2) > own[:, 26:]).sum(1) >= 20
    small = np.where(capitals[:, None], False, has[:, 26:])
    has = np.concatenate([has[:, :26], small], 1)
    keep = right.sum(1) >= least * np.maximum(has.sum(1), 1)
    return [replace(face, has=mask) for face, mask, kept in zip(faces, has, keep, strict=True) if kept]


def thumbnails(face: Face) -> np.ndarray:
    """Return the letters resized to 16 x 16 px, with mean 0 and norm 1 each: float32 (52, 256)."""
    small = np.zeros((52, 16, 16), np.float32)
    for i in np.flatnonzero(face.has):
        ink = Image.fromarray((face.distances[i] > 0).astype(np.float32))
        small[i] = ink.resize((16, 16), Image.Resampling.BOX, box=Image.fromarray(face.distances[i] > 0).getbbox())
    flat = small.reshape(52, -1) - small.mean((1, 2))[:, None]
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def split(faces: Sequence[Face], part: float, rng: np.random.Generator) -> tuple[list[Face], list[Face]]:
    """Hold out a share `part` of the groups of fonts; fonts of a group share a family name or similar letters."""
    groups = group(faces)
    held = set(rng.permutation(groups.max() + 1)[: round(part * (groups.max() + 1))].tolist())
    train = [face for face, number in zip(faces, groups, strict=True) if number not in held]
    return train, [face for face, number in zip(faces, groups, strict=True) if number in held]


def group(faces: Sequence[Face], alike: float = 0.97) -> np.ndarray:
    """Return group indices (fonts,): equal first word of the family name, or thumbnail cosine above `alike`."""
    thumbs = np.stack([thumbnails(face).ravel() for face in faces])
    thumbs /= np.linalg.norm(thumbs, axis=1, keepdims=True)
    words = np.array([face.family.split()[0].lower() for face in faces])
    return connected_components((thumbs @ thumbs.T > alike) | (words[:, None] == words))[1]


def draw(faces: Sequence[Face], count: int, seed: int, hand: Hand) -> tuple[np.ndarray, np.ndarray]:
    """Generate images uint8 (count, 28, 28) and labels uint8 (count,), balanced over classes and font families."""
    rng = np.random.default_rng(seed)
    distances = torch.from_numpy(np.concatenate([face.distances for face in faces]))
    has = np.stack([face.has for face in faces])
    families = np.unique([face.family for face in faces], return_inverse=True)[1]
    weight = 1 / np.sqrt(np.bincount(families))[families]  # down-weights families with many fonts
    labels = rng.permutation(np.arange(count) % 52)
    chosen = np.empty(count, int)
    for label in range(52):
        odds = weight * has[:, label]
        at = np.flatnonzero(labels == label)
        chosen[at] = rng.choice(len(faces), len(at), p=odds / odds.sum()) * 52 + label
    images = [write(distances[chosen[at : at + 2048]].float() / STEP, hand, rng) for at in range(0, count, 2048)]
    return torch.cat(images).numpy(), labels.astype(np.uint8)


def write(distances: Tensor, hand: Hand, rng: np.random.Generator) -> Tensor:
    """Render distance fields (N, CANVAS, CANVAS) as images uint8 (N, 28, 28) with random distortions."""
    count = len(distances)
    halfwidth = distances.flatten(1).amax(1)
    pen = uniform(rng, count, *hand.pen) * BOX
    pen = torch.maximum(
        torch.minimum(pen, halfwidth + 3), 0.5 * halfwidth
    )  # keeps counters open and thin strokes connected
    warped = functional.grid_sample(
        distances[:, None], grid(count, hand, rng), padding_mode="border", align_corners=False
    )  # (N, 1, 56, 56)
    ink = ((warped + (pen - halfwidth)[:, None, None, None]) * (2 * SIZE / CANVAS) + 0.5).clamp(0, 1)
    images = functional.avg_pool2d(ink, 2)  # (N, 1, 56, 56) -> (N, 1, 28, 28)
    pixels = np.where(rng.random(count) < hand.scanned, rng.choice(hand.scan, count), 0)
    for side in sorted(set(hand.scan)):
        at = torch.from_numpy(np.flatnonzero(pixels == side))
        small = functional.adaptive_avg_pool2d(ink[at], side)
        images[at] = functional.interpolate(small, SIZE, mode="bilinear")
    images = images * uniform(rng, count, *hand.ink)[:, None, None, None]
    noise = torch.from_numpy(rng.standard_normal(images.shape, np.float32)) * hand.noise
    return ((images + noise).clamp(0, 1) * 255).round().to(torch.uint8)[:, 0]


def grid(count: int, hand: Hand, rng: np.random.Generator) -> Tensor:
    """Return random sampling grids (N, 56, 56, 2) in [-1, 1] for grid_sample."""
    angle, slant = uniform(rng, count, -1, 1) * hand.rotation, uniform(rng, count, -1, 1) * hand.slant
    zoom = BOX / CANVAS / uniform(rng, count, *hand.fill)  # the letter fills `fill` of the image's side
    squeeze = torch.exp(uniform(rng, count, -1, 1) * hand.squeeze)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2)
    lean = torch.stack([squeeze, slant, torch.zeros(count), 1 / squeeze], -1).view(-1, 2, 2)
    shift = uniform(rng, 2 * count, -2, 2).view(-1, 2, 1) * hand.shift
    points = functional.affine_grid(
        torch.cat([turn @ lean, shift], -1) * zoom[:, None, None], [count, 1, 56, 56], False
    )
    wave = torch.from_numpy(rng.standard_normal((count, 2, 4, 4), np.float32)) * hand.wave
    wave = functional.interpolate(wave, 56, mode="bicubic", align_corners=True)
    return points + wave.permute(0, 2, 3, 1)  # (N, 2, 56, 56) -> (N, 56, 56, 2)


def uniform(rng: np.random.Generator, count: int, low: float, high: float) -> Tensor:
    """Sample (count,) float32 uniformly from [low, high)."""
    return torch.from_numpy(rng.uniform(low, high, count).astype(np.float32))


def main() -> None:
    """Generate the dataset if it is not cached and print its statistics."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("train", 208_000), ("held", 10_400), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    start = time.monotonic()
    found = load(**vars(parser.parse_args()))
    print(f"letters   {len(found.images):,} images of {found.fonts} fonts", end="; ")
    print(f"held out {len(found.held_images):,} of {found.held_fonts} fonts of other families")
    print(f"ink       mean {found.images.mean() / 255:.3f}, std {found.images.std() / 255:.3f}", end="; ")
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
