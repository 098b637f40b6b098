"""Kill a fine-tuning run repeatedly at random times, resume it, and compare the result with an uninterrupted run.

Prints a JSON document: the number of kills, of kills that left a checkpoint and of finished runs, and the differences.
Runs are forked, because importing torch in each would take longer than the run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import zoo.model.load  # imported before the fork
from zoo.console import quiet
from zoo.model.demo import digits

OPTIONS = {"steps": 18, "evals": 3, "save_every": 0, "batch_size": 32}


def finetune(settings: dict[str, object], out: Path, resume: bool) -> int:
    """Start a run in a forked process and return its process id."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with quiet():
            model = zoo.load("native/resnet14.letters", "cpu")
            model.finetune(digits()[:150], out=out, resume=resume, **{**OPTIONS, **settings})
        os._exit(0)
    return child


def result(out: Path) -> tuple[str, object, object]:
    """Return what must be equal: hash of the weights, metrics, history."""
    manifest = json.loads((out / "zoo.json").read_text())
    return (
        hashlib.sha256((out / "zoo.safetensors").read_bytes()).hexdigest(),
        manifest["metrics"],
        manifest["history"],
    )


def _checkpoint_time(unfinished: Path) -> int:
    """Return the modification time of the checkpoint in ns, 0 if there is none."""
    try:
        return (unfinished / "state.safetensors").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", type=json.loads)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    start = time.monotonic()
    assert os.waitpid(finetune(options.settings, options.folder / "uninterrupted", False), 0)[1] == 0
    duration = time.monotonic() - start
    expected, out = result(options.folder / "uninterrupted"), options.folder / "killed"
    unfinished = out.with_name("killed.unfinished")
    kills = resumed = finished = runs = 0
    differences = []
    while kills < options.kills or finished == 0:
        child = finetune(options.settings, out, True)
        wait = rng.uniform(duration / 4, duration) if kills < options.kills else 600
        end = time.monotonic() + wait
        runs += 1
        if runs % 2 and kills < options.kills:  # every other run: kill just after the next checkpoint
            before = _checkpoint_time(unfinished)
            end = math.inf
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
            if end == math.inf and _checkpoint_time(unfinished) != before:
                end = time.monotonic() + rng.uniform(0, 0.02)
            time.sleep(0.001)
        if done[0] == 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
            resumed += (unfinished / "state.safetensors").exists()
            continue
        assert done[1] == 0, f"the run failed: {done[1]}"
        finished += 1
        if result(out) != expected:
            differences.append(finished)
        if unfinished.exists():
            differences.append("unfinished folder left")
        shutil.rmtree(out)
    json.dump({"kills": kills, "checkpoints": resumed, "finished": finished, "differences": differences}, sys.stdout)


if __name__ == "__main__":
    main()
