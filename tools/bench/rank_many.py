"""Rank hundreds of small random nets from the command line: CPU time, memory, and what a kill costs.

    python tools/bench/rank_many.py [--rows 200] [--examples 400] [--kill 60] [--workers 1]

Each row is a weights file of its own (resnet14 or plain14, random from another seed), one has no file. The command runs
to its end, and a second time in another store, where it is killed after so many seconds and started again: both have to
give the same scores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ARCHITECTURES = ("resnet14", "plain14")
ROW = """
["many/{number:03}"]
plugin = "native"
modality = "image"
source = "{source}"
files = [{{ path = "{number:03}.safetensors" }}]
dim = 64
params = {params}
input = {{ size = 32, mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }}
options = {{ arch = "{arch}" }}
"""
VARYING = ("ms", "seconds")
"""Fields of a row that a clock decides."""


def prepare(folder: Path, rows: int, examples: int) -> None:
    """Write weights, zoo.toml and a folder of digits; the last row has no file."""
    from PIL import Image
    from safetensors.torch import save_file

    from zoo.catalogue import registry
    from zoo.catalogue.plugins import load
    from zoo.model.demo import digits
    from zoo.weights.loader import initialise

    text = []
    for number in range(rows):
        entry = registry.find(f"native/{ARCHITECTURES[number % len(ARCHITECTURES)]}")
        module = initialise(load("native"), entry, {}, seed=number).module
        if number < rows - 1:
            save_file(module.state_dict(), folder / f"{number:03}.safetensors")
        fields = {"arch": entry.options["arch"], "params": entry.params, "source": folder.as_uri()}
        text.append(ROW.format(number=number, **fields))
    (folder / "zoo.toml").write_text("".join(text))
    for number, (image, label) in enumerate(random.Random(0).sample(digits(), examples)):
        (folder / "digits" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "digits" / str(label) / f"{number:04}.png")


def start(folder: Path, store: str, workers: str) -> subprocess.Popen[bytes]:
    """Start the command with a store of its own; it writes its JSON document into a file."""
    command = [sys.executable, "-m", "zoo", "rank", "digits", "many/*", "--json", "--workers", workers]
    env = {**os.environ, "ZOO_HOME": str(folder / store)}
    with (folder / f"{store}.json").open("wb") as out:
        return subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.DEVNULL, env=env)


def scores(folder: Path, store: str) -> dict[str, Any]:
    """Return the document without what a clock decides."""
    found: dict[str, Any] = json.loads((folder / f"{store}.json").read_text())
    found["rows"] = [{key: value for key, value in row.items() if key not in VARYING} for row in found["rows"]]
    return found


def used() -> tuple[float, float]:
    """Return the CPU seconds of ended children so far, and the largest resident memory of one of them in MB."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime, spent.ru_maxrss / 1e3


def main() -> None:
    """Print time and memory of the command, and whether the killed one ends with the same scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--examples", type=int, default=400)
    parser.add_argument("--kill", type=float, default=60)
    parser.add_argument("--workers", default="1")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, given.rows, given.examples)
        began = time.monotonic()
        assert start(folder, "whole", given.workers).wait() == 0
        wall, (cpu, memory) = time.monotonic() - began, used()
        whole = scores(folder, "whole")
        rounds = [sum(row["round"] >= number for row in whole["rows"]) for number in (1, 2, 3)]
        print(
            f"{given.rows} rows, {given.examples} images: {cpu:.0f} s CPU, {wall:.0f} s, {memory:.0f} MB at most",
            flush=True,
        )
        print(f"measured in rounds 1, 2, 3: {rounds}; failed: {sum(row['error'] is not None for row in whole['rows'])}")
        killed = start(folder, "killed", given.workers)
        time.sleep(given.kill)
        print("killed" if killed.poll() is None else "ended before it could be killed")
        killed.kill()
        killed.wait()
        kept = len(list((folder / "killed/cache/jobs").glob("*.json")))
        before = used()[0]
        assert start(folder, "killed", given.workers).wait() == 0
        again = used()[0] - before
        print(f"killed after {given.kill:.0f} s: {kept} results kept; started again: {again:.0f} s CPU")
        print("the same scores" if scores(folder, "killed") == whole else "OTHER SCORES")


if __name__ == "__main__":
    main()
