"""Few-shot classification of handwritten digits: from scratch, and with a backbone pre-trained on letters."""

from __future__ import annotations

import os
import random
import statistics
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.console import Bar, quiet, say
from zoo.errors import ZooError

if TYPE_CHECKING:
    import numpy as np

BACKBONE = "native/resnet14.letters"
INSTALL = "pip install 'backbone-zoo[demo]'"
SIZES = (1, 5, 10, 20)
"""Training examples per class."""
STEPS = {"scratch": 150, "probe": None, "full": 100}
"""Optimizer steps by strategy; at 20 examples a class, scratch gains .008 over 100 steps, full none (docs/log.md)."""
TEST = 800

Pair = tuple["np.ndarray[Any, Any]", int]


def digits() -> list[Pair]:
    """Return scikit-learn's 1,797 handwritten digits (Alpaydin and Kaynak, 1998) as (uint8 image (8, 8), label)."""
    import numpy as np

    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ZooError("the digits are part of scikit-learn, which is not installed", fix=INSTALL) from error

    found = load_digits()
    images = np.round(found.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8), ink from 0 to 16
    return [(image, int(label)) for image, label in zip(images, found.target, strict=True)]


def draw(pairs: Sequence[Pair], per_class: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Sample `per_class` training examples of each digit, and 800 test examples from the rest."""
    shuffled = random.Random(seed).sample(list(pairs), len(pairs))
    train: list[Pair] = []
    rest: list[Pair] = []
    taken: dict[int, int] = {}
    for image, label in shuffled:
        needed = taken.get(label, 0) < per_class
        taken[label] = taken.get(label, 0) + needed
        (train if needed else rest).append((image, label))
    return train, rest[:TEST]


def accuracy(job: tuple[int, str, int]) -> float:
    """Train on one (per_class, strategy, seed) and return the accuracy on the test examples."""
    from zoo.model.load import load

    per_class, strategy, seed = job
    train, test = draw(digits(), per_class, seed)
    with quiet():
        model = load(BACKBONE, "cpu").finetune(train, valid=0, strategy=strategy, seed=seed, steps=STEPS[strategy])
        return float(model.evaluate(test)["accuracy"])


def run(seeds: int = 3) -> dict[str, Any]:
    """Run every size, strategy and seed; returns {"rows": [{"per_class": …, "scratch": {"mean", "std"}, …}]}.

    Uses one single-threaded process per core, at most eight: on two cores 64 s instead of 80 s for one process with
    two threads, and the results do not depend on the number of cores.
    """
    jobs = [(size, strategy, seed) for size in SIZES for strategy in STEPS for seed in range(seeds)]
    workers = min(len(jobs), os.cpu_count() or 1, 8)  # each imports torch
    scores: dict[tuple[int, str], list[float]] = defaultdict(list)
    with (
        Bar("demo", len(jobs)) as bar,
        ProcessPoolExecutor(workers, get_context("spawn"), initializer=_one_thread) as pool,
    ):
        for (size, strategy, _), score in zip(jobs, pool.map(accuracy, jobs), strict=True):
            scores[size, strategy].append(score)
            bar.advance(note=f"{size} a class, {strategy}")
    rows = [{"per_class": size} | {name: _mean_std(scores[size, name]) for name in STEPS} for size in SIZES]
    return {"rows": rows, "seeds": seeds, "test": TEST, "backbone": BACKBONE}


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _mean_std(scores: Sequence[float]) -> dict[str, float]:
    std = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return {"mean": round(statistics.mean(scores), 4), "std": round(std, 4)}


def table(result: dict[str, Any]) -> None:
    """Print a table of test accuracy: mean and standard deviation over the seeds."""
    say("digits", f"accuracy on {result['test']} handwritten digits, mean ± std of {result['seeds']} draws")
    say("a class", f"{'from scratch':>16}{'frozen probe':>16}{'fine-tuned':>16}")
    for row in result["rows"]:
        cells = (f"{row[name]['mean']:.3f} ± {row[name]['std']:.3f}" for name in STEPS)
        say(f"{row['per_class']:>7}", "".join(f"{cell:>16}" for cell in cells))


def plot(result: dict[str, Any], path: Path) -> Path:
    """Plot the learning curves, accuracy against examples per class, to an image file; returns its path."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise ZooError("the plot needs matplotlib, which is not installed", fix=INSTALL) from error
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = {"scratch": "from scratch", "probe": "pre-trained on letters, frozen", "full": "pre-trained, fine-tuned"}
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    sizes = [row["per_class"] for row in result["rows"]]
    for name, colour in zip(STEPS, ("#9aa0a6", "#4285b4", "#d1495b"), strict=True):
        means = [row[name]["mean"] for row in result["rows"]]
        spread = [row[name]["std"] for row in result["rows"]]
        axes.errorbar(sizes, means, yerr=spread, marker="o", capsize=3, color=colour, label=names[name])
    axes.set(xscale="log", xticks=sizes, xlabel="examples of each digit", ylabel="test accuracy", ylim=(None, 1))
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_title("Handwritten digits from few examples", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
