"""Images of the ranking benchmark: twelve small backbones, eight tasks of 50 to 150 examples."""

from __future__ import annotations

import random
import sys
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
TEST = 600
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


def prepare(folder: Path) -> tuple[list[str], str]:
    """Pre-train the backbones; returns their names, and their rows in TOML."""
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
    return ["native/resnet14.letters", *(f"bench/{name}" for name in SOURCES), *LITE0, *RANDOM], "\n".join(rows)
