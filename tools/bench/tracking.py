"""Benchmark what recording costs: the CPU seconds inside metrics.jsonl and TensorBoard, of those of the whole run.

python tools/bench/tracking.py [--steps 400]

A native ResNet-14 on images of 32 x 32 pixels trains in steps of 16 examples, with an evaluation every 40 steps.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict

import torch

import zoo
from zoo.finetune.callbacks import Isolated
from zoo.finetune.training import recording

spent: dict[str, float] = defaultdict(float)
call = Isolated.__call__


start_tracker = recording._start


def started(*arguments: str) -> object:
    start = time.process_time()
    try:
        return start_tracker(*arguments)
    finally:
        spent["to start"] += time.process_time() - start


def timed(self: Isolated, method: str, *arguments: object) -> object:
    start = time.process_time()
    try:
        return call(self, method, *arguments)
    finally:
        spent[type(self.callback).__name__] += time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    steps = parser.parse_args().steps
    images = torch.randint(0, 256, (200, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = [(image, f"class {i % 4}") for i, image in enumerate(images)]
    os.chdir(tempfile.mkdtemp(prefix="zoo-tracking-"))
    Isolated.__call__, recording._start = timed, started
    model = zoo.load("native/resnet14.letters", "cpu")
    start = time.process_time()
    fields = {"strategy": "full", "batch_size": 16, "evals": steps // 40, "augment": "none", "precision": "fp32"}
    model.finetune(data, out="runs/a", track="tensorboard", quiet=True, steps=steps, patience=0, **fields)
    whole = time.process_time() - start
    once = spent.pop("to start")
    spent["Tracked"] -= once
    print(f"TensorBoard starts once, in {once:.2f} s; a step takes {whole / steps * 1e3:.1f} ms, of which")
    for name, seconds in spent.items():
        print(f"{name:<12} {seconds / steps * 1e6:4.0f} µs: {seconds / whole:.2%}")


if __name__ == "__main__":
    main()
