"""Benchmark the linear probe: its head on stages against one on pooled features alone, and large problems.

python tools/bench/probe.py [--rounds 3] [--rows 12500 25000 50000 100000] [--dim 2000]

CPU seconds, so that other work on the machine matters little. Large problems are made up: ten Gaussian classes that
overlap; memory is the peak of the process less that before the solution.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import peers
import small_sets
import small_sides

SETS = {
    ("photos", 10): peers.LITE0,
    ("photos", None): peers.LITE0,
    ("films", 10): peers.MINILM,
    ("mails", 100): peers.MINILM,
}
"""Data set and examples of each class (None: all) -> weights."""
CLASSES = 10


def cpu(call: Callable[[], Any]) -> float:
    """Return the CPU seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def against_pooled(rounds: int) -> None:
    """Print the CPU seconds of both heads, in turn: `finetune` with nothing cached, and choosing the head alone.

    Each row is the median of the rounds. Two views are what a probe of photos had before stages and before views were
    cross-validated.
    """
    import torch

    import zoo
    from zoo import tasks
    from zoo.finetune.features import linear_probe, stage_search

    os.environ["ZOO_CACHE_GB"] = "0"
    rows = [["CPU s", "pooled features", "and stages", "ratio"]]
    for (name, count), weights in SETS.items():
        train = small_sets.split(name).draw(count, 0)
        model, task = zoo.load(weights, "cpu"), tasks.make("classify", [label for _, label in train])
        stages = stage_search.find(model.backbone)
        wide = model.embed([value for value, _ in train], stages=True)
        data = linear_probe.ProbeData(wide, task.targets([label for _, label in train]), None, stages)
        assert data.dim == model.backbone.dim

        def whole(stages: int | None, views: int | None, name: str = weights, train: Any = train) -> None:
            fields = {"strategy": "probe", "views": views, "head_stages": stages, "valid": 0}
            zoo.load(name, "cpu").finetune(train, **fields, quiet=True)

        def solve(data: Any, task: Any = task) -> None:
            linear_probe.choose(task, data, None, 0)

        sides = {
            "finetune, one view": (partial(whole, 0, 1), partial(whole, None, 1)),
            "finetune, views 2 and cross-validated": (partial(whole, 0, 2), partial(whole, None, None)),
            "head": (partial(solve, data.last_stages(0)), partial(solve, data)),
        }
        if not isinstance(train[0][0], Path):
            del sides["finetune, views 2 and cross-validated"]
        for what, pair in sides.items():
            times = [[cpu(side) for side in pair] for _ in range(rounds)]
            pooled, staged = (statistics.median(column) for column in zip(*times, strict=True))
            row = [f"{name}, {len(train)} examples, {what}", f"{pooled:.2f}", f"{staged:.2f}", f"{staged / pooled:.2f}"]
            rows.append(row)
    print(f"{torch.get_num_threads()} threads")
    peers.table(rows)


def large(rows: int, dim: int) -> None:
    """Print the CPU seconds and the memory of a cross-validated head."""
    import torch

    from zoo import tasks
    from zoo.finetune.features import large_probe, linear_probe

    draws = torch.Generator().manual_seed(0)
    targets = torch.randint(CLASSES, (rows,), generator=draws)
    centres = torch.randn(CLASSES, dim, generator=draws)
    features = torch.randn(rows, dim, generator=draws)
    features += (0.7 / dim**0.25) * centres[targets]
    task, data = tasks.make("classify", list(range(CLASSES))), linear_probe.ProbeData(features, targets)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = _peak(), time.process_time()
    if large_probe.is_large(task, data):
        fitted = large_probe.fit(task, data, None, 0, linear_probe.choose)
    else:
        fitted = linear_probe.choose(task, data, None, 0)
    spent, more = time.process_time() - start, _peak() - before
    size = features.numel() * 4 / 2**30
    print(f"{rows:,} x {dim:,}: {spent:.1f} CPU s, {more:.2f} GiB beside {size:.2f} GiB of features, L2 {fitted.l2:g}")


def _peak() -> float:
    """Return the peak of the memory of this process in GiB (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="*", default=[12_500, 25_000, 50_000, 100_000])
    parser.add_argument("--dim", type=int, default=2_000)
    parser.add_argument("--large", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.large:
        large(given.large, given.dim)
        return
    for rows in given.rows:  # a process each: the peak of memory is that of a process
        subprocess.run([sys.executable, sys.argv[0], "--large", str(rows), "--dim", str(given.dim)], check=True)
    if given.rounds:
        small_sides.prepare((peers.LITE0, peers.LITE1, peers.LITE2, peers.MINILM))
        against_pooled(given.rounds)


if __name__ == "__main__":
    main()
