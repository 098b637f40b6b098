"""Benchmark preparing batches ahead: utilisation beside an artificial step of fixed length, which sleeps.

python tools/bench/overlap.py [--rounds 3]

Utilisation is the share of the time in which no step waited for its batch. The step is a multiple of the CPU seconds in
which one core prepares a batch; a step that the system wakes late is a longer step. On a machine whose processors
others use, or with one processor, less can be overlapped: read it together with the load.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.nn import functional as F

from zoo.data.batch_options import BatchOptions
from zoo.data.datasets import Batch, LabelledDataset
from zoo.data.image_batches import Images
from zoo.data.seeding import generator
from zoo.finetune.runtime.loader_processes import from_processes
from zoo.finetune.runtime.prefetch import from_threads
from zoo.plugin import ImageInput

BATCH, STEPS, AFTER = 32, 30, 8
"""Images of a batch; timed steps, and those before them, in which batches pile up."""
SPEC = ImageInput(224, (0.5,) * 3, (0.5,) * 3, "bicubic", 0.875)


def in_place(load: Callable[[int], Any], items: Iterable[int], count: int) -> Iterator[Any]:
    """Load where the batch is used."""
    return map(load, items)


SIDES = {"in the step's thread": (in_place, 0), "1 thread": (from_threads, 1), "1 process": (from_processes, 1)}
SIDES |= {"2 threads": (from_threads, 2), "2 processes": (from_processes, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    data = photos()
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; batches of {BATCH} images, {STEPS} steps")
    for name, augment in (("crop-flip", "crop-flip"), ("randaugment", "randaugment"), ("function", slow_in_python)):

        def load(step: int, augment: Any = augment) -> tuple[int, Batch]:
            order = torch.randperm(len(data), generator=generator(0, "order", step))[:BATCH]
            return step, data.batch(order, BatchOptions(augment, generator(0, "augment", step)))

        seconds = cost(load)
        print(f"{name}: {BATCH / seconds:,.0f} images/s a core")
        for factor in (10, 4, 1.25):
            shares: dict[str, list[float]] = {side: [] for side in SIDES}
            for _ in range(rounds):
                for side, (ahead, count) in SIDES.items():
                    shares[side].append(utilisation(ahead(load, range(STEPS + AFTER), count), factor * seconds))
            medians = ", ".join(f"{side} {statistics.median(found):.3f}" for side, found in shares.items())
            print(f"  step of {factor:g} x a batch ({factor * seconds * 1e3:.0f} ms): {medians}", flush=True)


def photos() -> LabelledDataset:
    """Return decoded smooth random photos of 256 x 341 pixels."""
    small = torch.rand(256, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    pixels = F.interpolate(small, (256, 341), mode="bicubic").clamp_(0, 1).mul_(255).byte()
    return LabelledDataset(Images(list(pixels), SPEC, torch.arange(len(pixels))), torch.arange(len(pixels)))


def slow_in_python(image: torch.Tensor) -> torch.Tensor:
    """Stand for an augmentation that holds Python's lock."""
    total = 0
    for number in range(20_000):
        total += number
    return image.flip(-1) if total else image


def cost(load: Callable[[int], Any]) -> float:
    """Return the least CPU seconds of a batch."""
    found = []
    for step in range(6):
        start = time.process_time()
        load(step)
        found.append(time.process_time() - start)
    return min(found)


def utilisation(batches: Iterator[Any], step: float) -> float:
    """Return the time of the steps as a share of that until the last one is over."""
    spent, start = 0.0, time.perf_counter()
    for number, _ in batches:
        begin = time.perf_counter()
        if number == AFTER:
            spent, start = 0.0, begin
        time.sleep(step)
        spent += time.perf_counter() - begin
    return spent / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
