"""Export random timm models with random weights to onnx and torch-export: the share that is verified.

    python tools/bench/export_walk.py walk.jsonl [--count 100] [--seed 0]   # continues where it was stopped
    python tools/bench/export_walk.py walk.jsonl --report

The names are a seeded sample of the catalogue rows of the timm plugin with at most 40 M parameters and 256 pixels. Each
model has random weights, and a head whose logits differ by about 1 between images, so that a wrong graph shows (by less
where float32 itself, against float64, would already differ by more than the limit); it is checked on 8 seeded images.
Each result is a line: a model in a format, the spread of its logits, CPU seconds, and the largest difference or the
error.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import random
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from zoo_timm import plugin

import zoo
from zoo import console
from zoo.data import prepare
from zoo.errors import ZooError
from zoo.export import items
from zoo.export.export import export
from zoo.export.source import Source, prepared
from zoo.finetune.network import Network
from zoo.plugin import Entry, ImageInput
from zoo.tasks.classify import Classify
from zoo.weights import loader

FORMS = ("onnx", "torch-export")
MAX_PARAMS, MAX_SIZE = 40_000_000, 256
IMAGES = 8
MAX_ROUNDING = 5e-5
"""Difference of logits due to float32, against float64: a random net may amplify it without bound."""
NOISE = 0.02
"""Standard deviation of what is added to initial weights, of which many are zero or one."""


def names(count: int, seed: int) -> list[Entry]:
    """Return a seeded sample of the rows that fit."""
    rows = sorted(zoo.list(plugin="timm"), key=lambda entry: entry.name)
    fits = [row for row in rows if (row.params or MAX_PARAMS + 1) <= MAX_PARAMS and _size(row) <= MAX_SIZE]
    return random.Random(seed).sample(fits, count)


def _size(entry: Entry) -> int:
    assert isinstance(entry.input, ImageInput)
    return entry.input.size


def source(entry: Entry, folder: Path) -> tuple[Source, list[str], float]:
    """Return a model with random weights and a head of three classes, images for it, and the spread of its logits."""
    backbone = loader.initialise(plugin, entry, {}, seed=0)
    chance = torch.Generator().manual_seed(0)
    for name, tensor in backbone.module.state_dict().items():
        if tensor.is_floating_point() and "running_var" not in name:
            tensor.add_(torch.randn(tensor.shape, generator=chance) * NOISE)
    head = nn.Linear(backbone.dim, 3)
    network = Network(backbone.module, head, "pooled", backbone.stages).eval().requires_grad_(False)
    made = Source(entry, backbone, network, Classify(("a", "b", "c")), prepare.Preprocessing(backbone.input), {})
    images = items.chosen(made, None, folder)[:IMAGES]
    exact = copy.deepcopy(backbone.module).double()
    with torch.inference_mode():
        given = prepared(made, images)[0]
        assert isinstance(given, torch.Tensor)
        pooled = backbone.module(given).pooled
        rounding = float((exact(given[:2].double()).pooled - pooled[:2]).abs().max())
    direction = torch.randn(head.weight.shape, generator=chance)
    spread = float((pooled @ direction.T).std(0).max())
    scale = min(1 / max(spread, 1e-30), MAX_ROUNDING / max(rounding * float(direction.abs().sum(1).max()), 1e-30))
    head.weight.copy_(direction * scale)
    head.bias.copy_(-(head.weight @ pooled.mean(0)))
    return made, images, scale * spread


def walk(entries: list[Entry], done: set[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """Yield a result for each model and format that is not done."""
    for entry in entries:
        forms = [form for form in FORMS if (entry.name, form) not in done]
        if not forms:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            try:
                made, images, spread = source(entry, folder)
            except Exception as error:  # noqa: BLE001  (one broken model must not hide the others)
                yield from ({"name": entry.name, "form": form, "error": f"build: {error}"} for form in forms)
                continue
            for form in forms:
                start, row = time.process_time(), {"name": entry.name, "form": form, "spread": float(f"{spread:.2g}")}
                try:
                    with console.quiet():
                        row["difference"] = export(made, form, folder / form, images).max_difference
                except ZooError as error:
                    row["error"] = error.what
                except Exception as error:  # noqa: BLE001
                    row["error"] = f"{type(error).__name__}: {error}"
                yield row | {"seconds": round(time.process_time() - start, 1)}


def report(rows: list[dict[str, Any]]) -> None:
    """Print the share that is verified by format, and the errors."""
    for form in FORMS:
        found = [row for row in rows if row["form"] == form]
        fine = [row["difference"] for row in found if "error" not in row]
        spread = sorted(row["spread"] for row in found if "spread" in row)
        print(f"{form:<13} {len(fine)} of {len(found)} verified, largest difference {max(fine, default=0):.1e}")
        print(f"   spread of the logits: median {spread[len(spread) // 2]}, smallest {spread[0]}" if spread else "")
        for message, count in Counter(f"{row['name']}: {row['error']}" for row in found if "error" in row).items():
            print(f"   {count} x {message[:300]}")


def main() -> None:
    """Walk over the sample, or print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.results.read_text().splitlines()] if options.results.exists() else []
    if not options.report:
        logging.disable(logging.WARNING)
        warnings.filterwarnings("ignore")
        with options.results.open("a") as file:
            for row in walk(names(options.count, options.seed), {(row["name"], row["form"]) for row in rows}):
                file.write(json.dumps(row) + "\n")
                file.flush()
                rows.append(row)
    report(rows)


if __name__ == "__main__":
    main()
