"""Runs one fine-tuning again and again, killing it at random moments, and compares what comes out with a run in peace.

Prints one JSON document: the number of kills, how many of the killed runs had left a checkpoint, and what differed.
Children are forked: importing torch for each would take longer than the runs.
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

import torch

import zoo.model.load  # here, so that children need not import torch again
from zoo.console import quiet
from zoo.model.demo import digits

OPTIONS = {"steps": 18, "evals": 3, "save_every": 0, "batch_size": 16, "autotune": False}


def finetune(settings: dict[str, object], out: Path, resume: bool) -> int:
    """Run in a forked child; returns its process id."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with quiet():
            model = zoo.load("native/resnet14.letters", "cpu")
            model.finetune(digits()[:150], out=out, resume=resume, **{**OPTIONS, **settings})
        os._exit(0)
    return child


def result(out: Path) -> tuple[str, object, object]:
    """Return what has to be the same: the weights' hash, metrics, history."""
    manifest = json.loads((out / "zoo.json").read_text())
    return (
        hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
        manifest["metrics"],
        manifest["history"],
    )


def _written(unfinished: Path) -> int:
    """Return when the last checkpoint was written; 0: there is none."""
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
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    chance = random.Random(wanted.seed)
    start = time.monotonic()
    assert os.waitpid(finetune(wanted.settings, wanted.folder / "peace", False), 0)[1] == 0
    whole = time.monotonic() - start
    expected, out = result(wanted.folder / "peace"), wanted.folder / "killed"
    unfinished = out.with_name("killed.unfinished")
    kills = resumed = finished = tries = 0
    differences = []
    while kills < wanted.kills or finished == 0:
        child = finetune(wanted.settings, out, True)
        wait = chance.uniform(whole / 4, whole) if kills < wanted.kills else 600
        end = time.monotonic() + wait
        tries += 1
        if tries % 2 and kills < wanted.kills:  # every other time, a moment after a checkpoint, if one is written
            before = _written(unfinished)
            end = math.inf
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
            if end == math.inf and _written(unfinished) != before:
                end = time.monotonic() + chance.uniform(0, 0.02)
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
