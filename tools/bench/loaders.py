"""Benchmark loading images for training: zoo against timm's create_loader and fastai's DataLoaders on the same files.

python tools/bench/loaders.py [--files 256] [--rounds 3]

JPEG files of 640 x 480 pixels, random crops of 224 and flips, without and with RandAugment (fastai: without).
Images per CPU second of all processes hold on a busy machine too; images a second with two workers need two idle
processors. zoo decodes and resizes each file once ("first epoch"), then reads its cache; the others decode in every
epoch.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from zoo.data.batch_options import BatchOptions
from zoo.data.datasets import Batch, LabelledDataset
from zoo.data.decode_cache import decode
from zoo.data.examples import Examples
from zoo.data.image_batches import Images
from zoo.data.seeding import generator
from zoo.finetune.runtime.loader_processes import from_processes
from zoo.plugin import ImageInput

BATCH, SIDE, CLASSES = 32, 224, 4
SPEC = ImageInput(SIDE, (0.5,) * 3, (0.5,) * 3, "bicubic", 0.875)
Epoch = Callable[[], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class Rate:
    """Images a second: per CPU second of all processes, and by the clock."""

    cpu: float
    clock: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["ZOO_HOME"] = str(Path(temporary) / "home")
        folder = write(Path(temporary) / "photos", given.files)
        print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; images per CPU second | images a second")
        for workers in (0, 2):
            sides: dict[str, Epoch] = {}
            for augment in ("crop-flip", "randaugment"):
                sides[f"zoo, first epoch, {augment}"] = ours(folder, augment, workers, Path(temporary) / "cold")
                sides[f"zoo, {augment}"] = ours(folder, augment, workers, None)
                sides[f"timm, {augment}"] = by_timm(folder, augment, workers)
            if fastai() is not None:
                sides["fastai, crop-flip"] = by_fastai(folder, workers)
            rates: dict[str, list[Rate]] = {name: [] for name in sides}
            for _ in range(given.rounds):
                for name, epoch in sides.items():
                    rates[name].append(rate(epoch))
            for name, found in rates.items():
                cpu, clock = (statistics.median(getattr(one, kind) for one in found) for kind in ("cpu", "clock"))
                print(f"{workers} workers  {name:32} {cpu:7,.0f} | {clock:7,.0f}", flush=True)


def write(folder: Path, count: int) -> Path:
    """Write smooth random photos into folders of classes."""
    draws = np.random.default_rng(0)
    for number in range(count):
        small = Image.fromarray(draws.integers(0, 255, (24, 32, 3), dtype=np.uint8))
        path = folder / f"class{number % CLASSES}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small.resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=90)
    return folder


def rate(epoch: Epoch) -> Rate:
    """Return the rate of one epoch, the start of workers included."""
    start, before = time.perf_counter(), cpu_seconds()
    count = sum(map(size, epoch()))
    return Rate(count / (cpu_seconds() - before), count / (time.perf_counter() - start))


def size(batch: Any) -> int:
    return batch[-1].size if isinstance(batch[-1], Batch) else len(batch[0])


def cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def ours(folder: Path, augment: str, workers: int, cold: Path | None) -> Epoch:
    paths = sorted(folder.rglob("*.jpg"))
    examples = Examples(paths, [path.parent.name for path in paths], str(folder))

    def epoch() -> Iterator[Any]:
        cache = None if cold is None else Path(tempfile.mkdtemp(prefix="cold", dir=folder.parent))
        decoded = decode(examples, SPEC, cache or folder.parent / "warm", skip_bad=False, advance=lambda done: None)
        data = LabelledDataset(Images.of(decoded, SPEC), torch.arange(len(paths)))

        def load(item: tuple[int, torch.Tensor]) -> tuple[int, Batch]:
            return item[0], data.batch(item[1], BatchOptions(augment, generator(0, "augment", item[0])))

        steps = enumerate(torch.randperm(len(paths)).split(BATCH))
        return from_processes(load, steps, workers) if workers else map(load, steps)

    if cold is None:
        list(epoch())
    return epoch


def by_timm(folder: Path, augment: str, workers: int) -> Epoch:
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", folder), (3, SIDE, SIDE), BATCH, is_training=True, num_workers=workers,
        use_prefetcher=False, scale=(0.35, 1.0), hflip=0.5, color_jitter=None, re_prob=0.0,
        auto_augment="rand-m9-n2" if augment == "randaugment" else None, persistent_workers=False,
    )  # fmt: skip
    return lambda: loader


def fastai() -> Path | None:
    """Return the folder that `make real` installs fastai to, if it is there."""
    place = Path(__file__).parents[2] / ".real" / "fastai"
    return place if place.is_dir() else None


def by_fastai(folder: Path, workers: int) -> Epoch:
    sys.path.append(str(fastai()))
    from fastai.vision import all as fast

    loaders = fast.ImageDataLoaders.from_folder(
        folder, valid_pct=0.01, seed=0, bs=BATCH, num_workers=workers,
        item_tfms=fast.RandomResizedCrop(SIDE, min_scale=0.35), batch_tfms=[fast.Flip()], device="cpu",
    )  # fmt: skip
    return lambda: loaders.train


if __name__ == "__main__":
    main()
