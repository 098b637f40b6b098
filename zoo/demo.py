"""The lecture's experiment: handwritten digits from few examples, from scratch and from a net that knows letters."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.console import Bar, quiet, say

if TYPE_CHECKING:
    import numpy as np

BACKBONE = "native/resnet14.letters"
SIZES = (1, 5, 10, 20)
"""Examples of each digit."""
RECIPES: dict[str, dict[str, Any]] = {
    "scratch": {"steps": 150, "lr": 3e-3},
    "probe": {},
    "full": {"steps": 100, "lr": 1e-2, "backbone_lr": 3e-4},
}
"""What suits each strategy best among the recipes tried (docs/log.md)."""
TEST = 800

Pair = tuple["np.ndarray[Any, Any]", int]


def digits() -> list[Pair]:
    """Return scikit-learn's 1,797 handwritten digits (Alpaydin and Kaynak, 1998): uint8 (8, 8) with their label."""
    import numpy as np
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.round(found.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8), ink from 0 to 16
    return [(image, int(label)) for image, label in zip(images, found.target, strict=True)]


def draw(pairs: Sequence[Pair], per_class: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Draw `per_class` training examples of each digit, and 800 test examples from the rest."""
    shuffled = random.Random(seed).sample(list(pairs), len(pairs))
    train: list[Pair] = []
    rest: list[Pair] = []
    taken: dict[int, int] = {}
    for image, label in shuffled:
        short = taken.get(label, 0) < per_class
        taken[label] = taken.get(label, 0) + short
        (train if short else rest).append((image, label))
    return train, rest[:TEST]


def accuracy(strategy: str, train: list[Pair], test: list[Pair], seed: int) -> float:
    """Fine-tune the letters net by one strategy and return its accuracy on the test examples."""
    from zoo.model import load

    with quiet():
        model = load(BACKBONE, "cpu").finetune(train, valid=0, strategy=strategy, seed=seed, **RECIPES[strategy])
        return model.evaluate(test)["accuracy"]


def run(seeds: int = 3) -> dict[str, Any]:
    """Run every size, strategy and seed; returns {"rows": [{"per_class": …, "scratch": {"mean", "std"}, …}]}."""
    pairs = digits()
    rows: list[dict[str, Any]] = []
    with Bar("demo", len(SIZES) * len(RECIPES) * seeds) as bar:
        for per_class in SIZES:
            scores: dict[str, list[float]] = {strategy: [] for strategy in RECIPES}
            for seed in range(seeds):
                train, test = draw(pairs, per_class, seed)
                for strategy in RECIPES:
                    scores[strategy].append(accuracy(strategy, train, test, seed))
                    bar.advance(note=f"{per_class} a class, {strategy}")
            rows.append({"per_class": per_class} | {name: _spread(found) for name, found in scores.items()})
    return {"rows": rows, "seeds": seeds, "test": TEST, "backbone": BACKBONE}


def _spread(scores: Sequence[float]) -> dict[str, float]:
    std = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return {"mean": round(statistics.mean(scores), 4), "std": round(std, 4)}


def table(result: dict[str, Any]) -> None:
    """Print the result as a table: accuracy on the test examples, mean and standard deviation over the seeds."""
    say("digits", f"accuracy on {result['test']} handwritten digits, mean ± std of {result['seeds']} draws")
    say("a class", f"{'from scratch':>16}{'frozen probe':>16}{'fine-tuned':>16}")
    for row in result["rows"]:
        cells = (f"{row[name]['mean']:.3f} ± {row[name]['std']:.3f}" for name in RECIPES)
        say(f"{row['per_class']:>7}", "".join(f"{cell:>16}" for cell in cells))


def plot(result: dict[str, Any], path: Path) -> Path:
    """Write the learning curves, accuracy against examples a class, as a picture; returns its path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = {"scratch": "from scratch", "probe": "pre-trained on letters, frozen", "full": "pre-trained, fine-tuned"}
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    sizes = [row["per_class"] for row in result["rows"]]
    for name, colour in zip(RECIPES, ("#9aa0a6", "#4285b4", "#d1495b"), strict=True):
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
