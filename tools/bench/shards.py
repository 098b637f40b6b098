"""Benchmark reading tar shards of small PNG files: CPU time of one pass, against datasets and webdataset."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import growth

from zoo.data.examples import Columns
from zoo.data.streaming import opening
from zoo.data.streaming.windows import Limits, Reader

EXAMPLES, ROUNDS = 10_000, 3


def ours(pattern: str) -> int:
    source = opening.splits(pattern)["train"]
    return sum(1 for _ in Reader(source, Columns(("image",), "label"), "image", Limits(1, 1, 1)).rows())


def of_datasets(pattern: str) -> int:
    found = datasets.load_dataset("webdataset", data_files=pattern, split="train", streaming=True)
    return sum(1 for _ in found.cast_column("png", datasets.Image(decode=False)))


def of_webdataset(pattern: str) -> int:
    import webdataset

    names = [str(path) for path in sorted(Path(pattern).parent.glob("*.tar"))]
    return sum(1 for _ in webdataset.WebDataset(names, shardshuffle=False))


def main() -> None:
    datasets.disable_progress_bars()
    sides: dict[str, Callable[[str], int]] = {"zoo": ours, "datasets": of_datasets}
    if importlib.util.find_spec("webdataset"):
        sides["webdataset"] = of_webdataset
    with tempfile.TemporaryDirectory() as folder:
        growth.write_shards(Path(folder, "shards"), EXAMPLES)
        best = dict.fromkeys(sides, float("inf"))
        for _ in range(ROUNDS):
            for name, read in sides.items():
                start = time.process_time()
                assert read(f"{folder}/shards/*.tar") == EXAMPLES
                best[name] = min(best[name], time.process_time() - start)
    for name, seconds in best.items():
        print(f"{name:<12} {1e6 * seconds / EXAMPLES:6.0f} µs each  {seconds / best['zoo']:5.2f} x zoo")


if __name__ == "__main__":
    main()
