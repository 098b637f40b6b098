"""Benchmark what recording costs: CPU seconds of runs without callbacks, with metrics.jsonl, and with TensorBoard.

python tools/bench/tracking.py [--rounds 5]

A native ResNet-14 on images of 32 x 32 pixels trains for 200 steps of 16 examples with 5 evaluations; the sides alternate.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path

import timing
import torch

import zoo

STEPS = 200


def train(model: zoo.Model, data: object, number: list[int], **options: object) -> None:
    number[0] += 1
    out = f"runs/{number[0]}" if options.pop("save") else None
    fields = {"strategy": "full", "steps": STEPS, "batch_size": 16, "evals": 5, "augment": "none", "precision": "fp32"}
    model.finetune(data, valid=0.2, out=out, quiet=True, **fields, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    images = torch.randint(0, 256, (200, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = [(image, f"class {i % 4}") for i, image in enumerate(images)]
    os.chdir(tempfile.mkdtemp(prefix="zoo-tracking-"))
    Path("runs").mkdir()
    run = partial(train, zoo.load("native/resnet14.letters", "cpu"), data, [0])
    sides = {
        "saved, metrics.jsonl": partial(run, save=True),
        "and TensorBoard": partial(run, save=True, track="tensorboard"),
        "not saved": partial(run, save=False),
    }
    medians = timing.alternate(sides, rounds, time.process_time)
    timing.table(medians, "saved, metrics.jsonl")
    print(
        f"per step: {(medians['and TensorBoard'] - medians['saved, metrics.jsonl']) / STEPS * 1e6:.0f} µs of CPU more"
    )


if __name__ == "__main__":
    main()
