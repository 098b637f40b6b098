"""Rank against exhaustive tuning: regret of the recommended backbone, cost, and whether the tie group holds the best.

    python tools/bench/rank.py [FOLDER] [--steps 40] [--tasks photos emoji]

Twelve image backbones: EfficientNet-Lite0 (ImageNet) at two sizes, the letters net, small nets pre-trained here by zoo
on Fashion-MNIST, digits and photos, and random ones; tasks of few examples. All are tuned on each task, which is the
truth; `zoo rank` sees the training examples alone. FOLDER keeps what was computed: a stopped run goes on.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOOLS), str(TOOLS / "bench")]

SOURCES = {
    "fashion14": ("native/resnet14", "fashion", 150),
    "fashion20": ("native/resnet20", "fashion", 100),
    "fashion-short": ("native/resnet14", "fashion", 30),
    "fashion-plain": ("native/plain20", "fashion", 80),
    "digits14": ("native/resnet14", "digits", 80),
    "photos14": ("native/resnet14", "photos", 60),
}
"""Backbones pre-trained here: architecture, data, optimizer steps."""
RANDOM = ("native/resnet14", "native/resnet20", "native/plain14")
LITE0 = {"bench/lite0-64": 64, "bench/lite0-48": 48}
"""Names and image sizes of EfficientNet-Lite0."""
STEPS = 300
"""Optimizer steps of exhaustive tuning: those of `strategy="lp-ft"` on so few images."""
TEST = 300
"""Test examples, at most."""
TASKS = ("photos", "emoji", "digits", "shirts", "clipart", "fashion", "digits-few", "animals")
Pairs = list[tuple[Any, Any]]


def pool(name: str, *, pretraining: bool) -> Pairs:
    """Return labelled images of a source; those for pre-training and those of the tasks have no image in common."""
    import numpy as np
    import real_data
    from PIL import Image

    from zoo.model.demo import digits

    if name == "fashion":
        train, labels, test, test_labels = real_data.fashion_mnist()
        images, classes = (train[:20_000], labels[:20_000]) if pretraining else (test, test_labels)
        return [(np.asarray(image), int(label)) for image, label in zip(images, classes, strict=True)]
    if name == "digits":
        shuffled = random.Random(1).sample(digits(), 1797)
        return shuffled[:700] if pretraining else shuffled[700:]
    found = []
    for path in sorted(real_data.photos().rglob("*.png")):
        picture = Image.open(path).convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        flat = Image.alpha_composite(white, picture).convert("RGB")
        flat.thumbnail((128, 128))
        found.append((np.asarray(flat), path.parent.name))
    shuffled = random.Random(1).sample(found, len(found))
    if not pretraining:
        return shuffled[100:]
    return [(np.asarray(Image.fromarray(image).convert("L")), label) for image, label in shuffled[:100]]


def examples(task: str) -> tuple[Pairs, Pairs]:
    """Return training and test examples of a task."""
    import small_sets

    if task in ("clipart", "emoji"):
        split = small_sets.split(task)
        test = random.Random(task).sample(list(split.test), len(split.test))
        return split.draw(12, seed=0), test[:TEST]
    kind, count = {
        **{"digits": ("digits", 120), "digits-few": ("digits", 50), "fashion": ("fashion", 150)},
        **{"shirts": ("fashion", 120), "photos": ("photos", 95), "animals": ("photos", 95)},
    }[task]
    pairs = pool(kind, pretraining=False)
    if task == "digits-few":
        pairs = pairs[::-1]
    if task == "shirts":
        pairs = [pair for pair in pairs if pair[1] in {0, 2, 4, 6}]
    if task == "animals":
        pairs = [(image, label in {"bird", "insect", "mammal", "sea"}) for image, label in pairs]
    return pairs[:count], pairs[count : count + TEST]


def tune(task: str, backbone: str, steps: int) -> dict[str, float]:
    """Fine-tune a backbone on a task; returns the accuracy on the test examples and the CPU seconds."""
    import zoo

    train, test = examples(task)
    start = cpu()
    scratch = backbone in RANDOM
    model = zoo.load(backbone, "cpu")
    model.finetune(train, valid=0, strategy="scratch" if scratch else "lp-ft", steps=steps, quiet=True)
    spent = cpu() - start
    return {"accuracy": model.evaluate(test)["accuracy"], "seconds": spent}


def cpu() -> float:
    """Return the CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def prepare(folder: Path) -> list[str]:
    """Pre-train and write the rows of all backbones; returns their names."""
    import real_data
    import timm
    import torch
    from safetensors.torch import save_file

    import zoo

    rows = []
    for name, (architecture, data, steps) in SOURCES.items():
        out = folder / "saved" / name
        if not out.exists():
            model = zoo.load(architecture, "cpu")
            model.finetune(
                pool(data, pretraining=True), valid=0, strategy="scratch", steps=steps, out=out, augment="none"
            )
        rows.append(f'["bench/{name}"]\nsaved = "{out}"\n')
    weights = folder / "lite0" / "model.safetensors"
    if not weights.exists():
        weights.parent.mkdir(parents=True, exist_ok=True)
        net = timm.create_model("tf_efficientnet_lite0").eval()
        published = torch.load(real_data.lite0(), weights_only=True)
        net.load_state_dict(dict(zip(net.state_dict(), published.values(), strict=True)), strict=True)
        save_file(net.state_dict(), weights)
    for name, size in LITE0.items():
        rows.append(
            f'["{name}"]\nplugin = "timm"\nmodality = "image"\nsource = "{weights.parent.as_uri()}"\n'
            f'files = [{{ path = "model.safetensors" }}]\ndim = 1280\nparams = 3371008\n'
            f"input = {{ size = {size}, mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5], interpolation = 'bicubic', "
            f'crop = 0.875 }}\noptions = {{ arch = "tf_efficientnet_lite0.in1k" }}\n'
            "metrics = { imagenet_top1 = 74.846 }\n"
        )
    (folder / "zoo.toml").write_text("\n".join(rows))
    return ["native/resnet14.letters", *(f"bench/{name}" for name in SOURCES), *LITE0, *RANDOM]


def truth(task: str, names: Sequence[str], steps: int) -> dict[str, dict[str, float]]:
    """Return accuracy and seconds of each backbone tuned on a task."""
    from zoo.jobs.job import Job
    from zoo.jobs.run import run

    found: dict[str, dict[str, float]] = {}
    jobs = [Job("rank:tune", {"task": task, "backbone": name, "steps": steps}) for name in names]
    for result in run(jobs, workers=1):
        if result.answer.error:
            sys.exit(f"{result.job.arguments}: {result.answer.error}")
        name = result.job.arguments["backbone"]
        found[name] = result.answer.value
        print(f"tuned {task:<11} {name:<24} {found[name]['accuracy']:.3f}", file=sys.stderr, flush=True)
    return found


def compare(task: str, tuned: Mapping[str, Mapping[str, float]], seed: int = 0) -> dict[str, Any]:
    """Rank the backbones on a task; returns the regrets against the best tuned one, and the CPU seconds of both."""
    from zoo.console import quiet
    from zoo.evidence.ranking import rank

    start = cpu()
    with quiet():
        found = rank(examples(task)[0], list(tuned), workers=1, device="cpu", seed=seed)
    spent = cpu() - start
    best = max(tuned, key=lambda name: tuned[name]["accuracy"])
    top = tuned[best]["accuracy"]
    group = [row.name for row in found.rows if row.group == 1]
    return {
        "task": task,
        "best": best,
        "recommended": found.recommended,
        "regret": top - tuned[found.recommended]["accuracy"],
        "first": top - tuned[found.rows[0].name]["accuracy"],
        "static": top - tuned[found.static_choice]["accuracy"],
        "random": top - sum(each["accuracy"] for each in tuned.values()) / len(tuned),
        "holds": best in group,
        "group": len(group),
        "rank_seconds": spent,
        "tune_seconds": sum(each["seconds"] for each in tuned.values()),
    }


def main() -> None:
    """Print a row for each task, and the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    given = parser.parse_args()
    folder = (given.folder or Path(tempfile.mkdtemp())).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["ZOO_HOME"] = str(folder / "store")
    os.environ.setdefault("ZOO_REAL", str(TOOLS.parent / ".real"))
    os.chdir(folder)
    names = prepare(folder)
    print(
        f"{len(names)} backbones tuned {given.steps} steps; regret in points of test accuracy against the best of them"
    )
    print("task        recommended  best score  by ImageNet or size  mean of all  best in group 1 (its size)  cost")
    rows = [_reported(compare(task, truth(task, names, given.steps))) for task in given.tasks]
    means = {key: 100 * sum(row[key] for row in rows) / len(rows) for key in ("regret", "first", "static", "random")}
    cost = sum(row["rank_seconds"] for row in rows) / sum(row["tune_seconds"] for row in rows)
    print("mean regret:", ", ".join(f"{key} {value:.1f}" for key, value in means.items()))
    print(f"best in group 1: {sum(row['holds'] for row in rows)} of {len(rows)}; cost: {cost:.3f} of tuning all")


def _reported(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Print a row and return it."""
    regrets = (f"{100 * row[key]:>10.1f}" for key in ("regret", "first", "static", "random"))
    held = f"{'yes' if row['holds'] else 'no':>8} ({row['group']})"
    cost = f"{row['rank_seconds']:.0f} of {row['tune_seconds']:.0f} s CPU"
    print(f"{row['task']:<11}", *regrets, held, f"  {cost}", flush=True)
    print(f"            recommended {row['recommended']}, best {row['best']}", flush=True)
    return row


if __name__ == "__main__":
    main()
