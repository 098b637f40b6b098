"""Rank against exhaustive tuning: regret of the recommended backbone, cost, and whether the tie group holds the best.

    python tools/bench/rank.py [FOLDER]

Twelve image backbones: EfficientNet-Lite0 (ImageNet) at two sizes, the letters net, small nets pre-trained here by zoo
on Fashion-MNIST, digits and photos, and random ones; seven tasks of few examples. All are tuned on each task, which is
the truth; `zoo rank` sees the training examples alone. FOLDER keeps what was computed: a stopped run goes on.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOOLS))

SOURCES = {
    "fashion14": ("native/resnet14", "fashion", 400),
    "fashion20": ("native/resnet20", "fashion", 400),
    "fashion-short": ("native/resnet14", "fashion", 60),
    "fashion-plain": ("native/plain20", "fashion", 200),
    "digits14": ("native/resnet14", "digits", 150),
    "photos14": ("native/resnet14", "photos", 150),
}
"""Backbones pre-trained here: architecture, data, optimizer steps."""
RANDOM = ("native/resnet14", "native/resnet20", "native/plain14")
LITE0 = {"bench/lite0-64": 64, "bench/lite0-48": 48}
"""Names and image sizes of EfficientNet-Lite0."""
STEPS = 40
"""Optimizer steps of exhaustive tuning (lp-ft)."""
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


def tasks() -> dict[str, tuple[Pairs, Pairs]]:
    """Return training and test examples of each task."""
    digits, fashion, photos = (pool(name, pretraining=False) for name in ("digits", "fashion", "photos"))
    animals = {"bird", "insect", "mammal", "sea"}
    shirts = {0, 2, 4, 6}
    found = {
        "digits": (digits, 120),
        "digits-odd": ([(image, label % 2) for image, label in digits], 120),
        "digits-few": (digits[::-1], 50),
        "fashion": (fashion, 150),
        "shirts": ([pair for pair in fashion if pair[1] in shirts], 120),
        "photos": (photos, 95),
        "animals": ([(image, label in animals) for image, label in photos], 95),
    }
    return {name: (pairs[:count], pairs[count : count + 500]) for name, (pairs, count) in found.items()}


def tune(task: str, backbone: str) -> dict[str, float]:
    """Fine-tune a backbone on a task; returns the accuracy on the test examples and the CPU seconds."""
    import zoo

    train, test = tasks()[task]
    start = cpu()
    scratch = backbone in RANDOM
    model = zoo.load(backbone, "cpu")
    model.finetune(train, valid=0, strategy="scratch" if scratch else "lp-ft", steps=STEPS, quiet=True)
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


def truth(names: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """Return accuracy and seconds of each backbone tuned on each task."""
    from zoo.jobs.job import Job
    from zoo.jobs.run import run

    found: dict[str, dict[str, dict[str, float]]] = {}
    jobs = [Job("rank:tune", {"task": task, "backbone": name}) for task in tasks() for name in names]
    for result in run(jobs, workers=1):
        if result.answer.error:
            sys.exit(f"{result.job.arguments}: {result.answer.error}")
        task, name = result.job.arguments["task"], result.job.arguments["backbone"]
        found.setdefault(task, {})[name] = result.answer.value
        print(f"tuned {task:<11} {name:<24} {result.answer.value['accuracy']:.3f}", file=sys.stderr, flush=True)
    return found


def compare(task: str, tuned: Mapping[str, Mapping[str, float]], seed: int = 0) -> dict[str, Any]:
    """Rank the backbones on a task; returns the regrets against the best tuned one, and the CPU seconds of both."""
    from zoo.console import quiet
    from zoo.evidence.ranking import rank

    start = cpu()
    with quiet():
        found = rank(tasks()[task][0], list(tuned), workers=1, device="cpu", seed=seed)
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
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["ZOO_HOME"] = str(folder / "store")
    os.chdir(folder)
    names = prepare(folder)
    rows = [compare(task, tuned) for task, tuned in truth(names).items()]
    print(
        f"{len(names)} backbones, all tuned {STEPS} steps; regret in points of test accuracy against the best of them"
    )
    print(
        "task        recommended  best score  by ImageNet or size  mean of all  best in group 1 (its size)  cost ratio"
    )
    for row in rows:
        regrets = (f"{100 * row[key]:>10.1f}" for key in ("regret", "first", "static", "random"))
        ratio = row["rank_seconds"] / row["tune_seconds"]
        held = f"{'yes' if row['holds'] else 'no':>8} ({row['group']})"
        print(f"{row['task']:<11}", *regrets, held, f"{ratio:>8.3f}")
        print(f"            recommended {row['recommended']}, best {row['best']}")
    means = {key: 100 * sum(row[key] for row in rows) / len(rows) for key in ("regret", "first", "static", "random")}
    ratio = sum(row["rank_seconds"] for row in rows) / sum(row["tune_seconds"] for row in rows)
    print("mean regret:", ", ".join(f"{key} {value:.1f}" for key, value in means.items()))
    print(f"best in group 1: {sum(row['holds'] for row in rows)} of {len(rows)}; cost: {ratio:.3f} of tuning all")


if __name__ == "__main__":
    main()
