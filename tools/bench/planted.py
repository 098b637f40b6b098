"""Planted faults on real data: how many does the report find, how many does it miss, what does it say of clean data?

    python tools/bench/planted.py [--seeds 10] [--only flipped leaked …] [--cleanlab FOLDER]

Photos (EfficientNet-Lite0), digits (resnet14.letters) and mails (MiniLM); each fault is planted anew for each seed.
Features are computed once for each set, and the functions are those that `zoo report` calls. With --cleanlab FOLDER, as
filled by `pip install --no-deps --target FOLDER cleanlab==2.9.0 termcolor`, its label issues are measured beside ours,
on the same out-of-fold probabilities.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import small_sets
import small_sides
import torch
from PIL import Image, ImageEnhance

from zoo.data import duplicates, groups, prepare
from zoo.data.examples import Examples
from zoo.evidence.report.doctor import cues, drift, grouped, labels, outliers, overfitting, shortcuts
from zoo.finetune.features import linear_probe, out_of_fold
from zoo.finetune.features.linear_probe import ProbeData
from zoo.finetune.features.stage_outputs import StageOutput
from zoo.tasks.classify import Classify

WEIGHTS = {
    "photos": "timm/tf_efficientnet_lite0.in1k",
    "digits": "native/resnet14.letters",
    "mails": "hf/sentence-transformers/all-MiniLM-L6-v2",
}
DIMS = {"photos": 1280, "digits": 64, "mails": 384}
"""Pooled features of each backbone; those of its stages are behind them."""
MOST = 600
"""Examples of a set."""
FLIPPED, REVIEWED, LEAKED, STARVED = 0.05, 0.1, 0.1, 3
"""Share of the labels that are wrong, of those reviewed; of held-out examples copied into training; left of a class."""
CLIPS, FRAMES = 40, 5
HELD = 0.2


@dataclass(frozen=True)
class Set:
    """Examples with their features (N, D), of which the first `dim` are pooled, and class indices (N,)."""

    name: str
    examples: Examples
    features: torch.Tensor
    dim: int
    targets: np.ndarray
    classes: tuple[str, ...]

    @property
    def is_text(self) -> bool:
        """Whether the inputs are texts."""
        return self.name == "mails"

    @property
    def pooled(self) -> np.ndarray:
        """Pooled features (N, dim)."""
        return self.features[:, : self.dim].double().numpy()


@cache
def model(name: str) -> Any:
    import zoo

    return zoo.load(WEIGHTS[name], "cpu")


@cache
def load(name: str) -> Set:
    chance = np.random.default_rng(0)
    if name == "mails":
        rows = [json.loads(line) for line in small_sets.real_data.mails().read_text().splitlines()]
        pairs = [(row["text"], row["label"]) for row in rows]
    elif name == "photos":
        pairs = [(path, path.parent.name) for path in sorted(small_sets.real_data.photos().rglob("*.png"))]
    else:
        pairs = [(value, label) for label, values in small_sets.SETS[name].load().items() for value in values]
    pairs = [pairs[i] for i in sorted(chance.permutation(len(pairs))[:MOST])]
    inputs, given = [value for value, _ in pairs], [label for _, label in pairs]
    classes = tuple(sorted(set(given)))
    targets = np.array([classes.index(label) for label in given])
    features = embedded(name, inputs)
    return Set(name, Examples(inputs, given, name), features, DIMS[name], targets, classes)


def embedded(name: str, inputs: Sequence[Any], stages: bool = True) -> torch.Tensor:
    """Return the features of inputs, computed once and stored in the folder of real data."""
    key = hashlib.sha256(
        repr(
            (name, stages, [str(value) for value in inputs] if isinstance(inputs[0], str | Path) else len(inputs))
        ).encode()
    ).hexdigest()[:12]

    def fill(folder: Path) -> None:
        np.save(folder / "features.npy", model(name.split()[0]).embed(inputs, stages=stages).numpy())

    return torch.from_numpy(np.load(small_sets.real_data.once(f"planted/{key}", fill) / "features.npy"))


def predictions(data: Set, given: np.ndarray) -> np.ndarray:
    """Return out-of-fold probabilities (N, K) for the given labels."""
    rest = data.features.shape[1] - data.dim
    stages = (StageOutput("stages", "NTC", rest),) if rest else ()
    rows = ProbeData(data.features, torch.tensor(given), None, stages)
    return out_of_fold.predict(Classify(data.classes), rows).values.double().numpy()


def halves(count: int, chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return random training and held-out indices."""
    order = chance.permutation(count)
    cut = round(HELD * count)
    return np.sort(order[cut:]), np.sort(order[:cut])


Row = Mapping[str, float]


def flipped(name: str, seed: int) -> Row:
    """Flip labels to a random other class, and review the most suspicious ones."""
    data, chance = load(name), np.random.default_rng(seed)
    count = len(data.targets)
    wrong = np.zeros(count, dtype=bool)
    wrong[chance.permutation(count)[: round(FLIPPED * count)]] = True
    shift = chance.integers(1, len(data.classes), count)
    given = np.where(wrong, (data.targets + shift) % len(data.classes), data.targets)
    start = time.process_time()
    values = predictions(data, given)
    found = labels.find(values, given)
    spent = time.process_time() - start
    row = {"cpu s": spent} | ranked("zoo", found.quality, found.issues, wrong)
    if "cleanlab" in sys.modules:
        row |= of_cleanlab(values, given, wrong)
    return row


def ranked(who: str, quality: np.ndarray, issues: np.ndarray, wrong: np.ndarray) -> Row:
    """Return recall among the first REVIEWED of the ranking, its average precision, and both of the issues."""
    order = np.argsort(quality, kind="stable")
    hits = wrong[order]
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    return {
        f"{who} first 10 %": hits[: round(REVIEWED * len(hits))].sum() / wrong.sum(),
        f"{who} average precision": float(precision[hits].mean()),
        f"{who} issues precision": float(wrong[issues].mean()) if len(issues) else 0.0,
        f"{who} issues recall": float(wrong[issues].sum() / wrong.sum()),
    }


def of_cleanlab(values: np.ndarray, given: np.ndarray, wrong: np.ndarray) -> Row:
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    issues = find_label_issues(given, values, return_indices_ranked_by="normalized_margin", n_jobs=1)
    quality = get_label_quality_scores(given, values, method="normalized_margin")
    return ranked("cleanlab", quality, issues, wrong)


def clean_labels(name: str, seed: int) -> Row:
    """Count label issues on the labels as they are (some may be wrong), and outliers."""
    data = load(name)
    found = labels.find(predictions(data, data.targets), data.targets)
    return {"issues": len(found.issues) / len(data.targets), "outliers": len(outliers.find(data.pooled)[0])}


@cache
def prepared(name: str) -> Any:
    """Return the prepared inputs of a set."""
    from zoo.finetune.recipe import Recipe
    from zoo.finetune.setup import preprocessing

    return prepare.prepare(load(name).examples, preprocessing(model(name).backbone, Recipe(), cache=False)).inputs


def edited(item: Any, chance: np.random.Generator) -> Any:
    """Return a copy as they leak: resized, brighter, mirrored or as it is; a text with a line added or cut."""
    kind = chance.integers(4)
    if isinstance(item, str):
        words = item.split()
        cut = max(1, len(words) // 20)
        return [item, f"{item} -- sent from my phone", " ".join(words[cut:]), " ".join(words[:-cut])][kind]
    image = Image.open(item).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if kind == 1:
        image = image.resize((max(8, image.width // 2), max(8, image.height // 2)))
    if kind == 2:
        image = ImageEnhance.Brightness(image).enhance(0.9)
    if kind == 3:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def leaked(name: str, seed: int) -> Row:
    """Copy a tenth of the training examples into the held-out ones."""
    from zoo.finetune.recipe import Recipe
    from zoo.finetune.setup import preprocessing

    data, chance = load(name), np.random.default_rng(seed)
    train, held = halves(len(data.targets), chance)
    inputs = prepared(name)
    sides = [(inputs.at(part.tolist()), data.examples.at(part.tolist()).inputs) for part in (train, held)]
    before = duplicates.near(*duplicates.comparable(sides))
    copies = chance.choice(train, round(LEAKED * len(held)), replace=False)
    added = Examples([edited(data.examples.inputs[i], chance) for i in copies], [0] * len(copies), "copies")
    how = preprocessing(model(name).backbone, Recipe(), cache=False)
    copied = prepare.prepare(added, how).inputs
    found = duplicates.near(*duplicates.comparable([sides[0], (copied, added.inputs)]))
    return {"found": len(found.held) / len(copies), "of the rest": len(before.held) / len(held)}


def starved(name: str, seed: int) -> Row:
    """Leave three training examples of one class."""
    data, chance = load(name), np.random.default_rng(seed)
    train, held = halves(len(data.targets), chance)
    classes = len(data.classes)
    clean = overfitting.small_classes(data.targets[train], data.targets[held], hits(data, train, held), classes)
    hungry = int(chance.choice([k for k in range(classes) if (data.targets[train] == k).sum() > 4 * STARVED]))
    own = np.flatnonzero(data.targets[train] == hungry)
    kept = np.delete(train, own[STARVED:])
    found = overfitting.small_classes(data.targets[kept], data.targets[held], hits(data, kept, held), classes)
    known = {small.label for small in clean}
    return {
        "found": float(hungry in {small.label for small in found}),
        "surely worse": float(any(small.label == hungry and small.p <= 0.05 for small in found)),
        "others named": len({small.label for small in found} - {hungry} - known),
        "named when clean": len(clean),
    }


def hits(data: Set, train: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Return which held-out examples a linear head on pooled features gets right."""
    features = data.features[:, : data.dim]
    rows = ProbeData(features[train], torch.tensor(data.targets[train]))
    head = linear_probe.fit(Classify(data.classes), rows, 0.1, 0).head
    with torch.no_grad():
        return head(features[held]).argmax(1).numpy() == data.targets[held]


def corner(name: str, seed: int) -> Row:
    """Paint a corner of each image in the colour of its class, on 95 % of them; prefix texts with a sender."""
    data, chance = load(name), np.random.default_rng(seed)
    accuracy = shortcuts.balanced_accuracy(predictions_once(name).argmax(1), data.targets)
    clean = [one.cue for one in shortcuts.find(own_cues(name), data.targets, accuracy, seed=seed) if one.is_hint]
    marked = chance.random(len(data.targets)) < 0.95
    if data.is_text:
        senders = [[f"From: {chance.integers(4)}.{label}@mail.org\n", ""] for label in data.examples.labels]
        texts = [f"{senders[i][0] if marked[i] else ''}{text}" for i, text in enumerate(data.examples.inputs)]
        planted, wanted = cues.of_texts(texts), "sender"
    else:
        planted, wanted = painted(data, marked, chance), "corners"
    found = [one.cue for one in shortcuts.find(planted, data.targets, 0.99, seed=seed) if one.is_hint]
    return {"found": float(wanted in found), "clean": len(clean)}


def painted(data: Set, marked: np.ndarray, chance: np.random.Generator) -> list[cues.Cue]:
    inputs = prepared(data.name)
    pixels = inputs.batch(torch.arange(len(inputs)))
    side = pixels.shape[-1]
    _, corners = cues.regions(side)
    rows, columns = corners[chance.integers(4)]
    colours = torch.tensor(chance.integers(0, 256, (len(data.classes), pixels.shape[1])), dtype=torch.uint8)
    for i in np.flatnonzero(marked).tolist():
        pixels[i, :, rows, columns] = colours[data.targets[i]][:, None, None]
    return cues.of_images(replace(inputs, pixels=pixels, rows=torch.arange(len(pixels))), [None])


@cache
def predictions_once(name: str) -> np.ndarray:
    return predictions(load(name), load(name).targets)


@cache
def own_cues(name: str) -> list[cues.Cue]:
    data = load(name)
    if data.is_text:
        return cues.of_texts(list(data.examples.inputs))
    return cues.of_images(prepared(name), list(data.examples.inputs))


@cache
def clips(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return pooled features of FRAMES frames of each image, (N, FRAMES, D): crops of 80 to 90 %, other light."""
    data, chance = load(name), np.random.default_rng(7)
    frames = []
    for item in data.examples.inputs[:: max(1, len(data.targets) // 60)]:
        image = Image.open(item).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        for _ in range(FRAMES):
            share = chance.uniform(0.8, 0.9)
            width, height = round(share * image.width), round(share * image.height)
            left, top = (
                int(chance.integers(0, all_ - part + 1)) for all_, part in zip(image.size, (width, height), strict=True)
            )
            light = ImageEnhance.Brightness(image.crop((left, top, left + width, top + height)))
            frames.append(np.asarray(light.enhance(chance.uniform(0.8, 1.2))))
    found = embedded(f"{name} clips", frames, stages=False).double().numpy()
    kept = np.arange(0, len(data.targets), max(1, len(data.targets) // 60))
    return found.reshape(len(kept), FRAMES, -1), data.targets[kept]


def frames(name: str, seed: int) -> Row:
    """Divide the frames of clips at random; beside them the set as it is, with the names of its files."""
    data, chance = load(name), np.random.default_rng(seed)
    features, targets = clips(name)
    chosen = chance.permutation(len(features))[:CLIPS]
    rows = features[chosen].reshape(CLIPS * FRAMES, -1)
    names = groups.by_file_name(
        Examples([Path(f"clip{c:03}_{f:04}.png") for c in range(CLIPS) for f in range(FRAMES)], [], "clips")
    )
    train, held = halves(len(rows), chance)
    sides = [(rows[part], [names[i] for i in part]) for part in (train, held)]
    leak = grouped.find(*sides, np.repeat(targets[chosen], FRAMES)[train], seed=seed)
    own = groups.by_file_name(data.examples)
    train, held = halves(len(own), chance)
    sides = [(data.pooled[part], [own[i] for i in part]) for part in (train, held)]
    clean = grouped.find(*sides, data.targets[train], seed=seed)
    return {"found": float(leak is not None and leak.is_leak), "clean": float(clean is not None and clean.is_leak)}


def drifted(name: str, seed: int) -> Row:
    """Compare random halves, and training examples with held-out ones of which half of the classes are missing."""
    data, chance = load(name), np.random.default_rng(seed)
    train, held = halves(len(data.targets), chance)
    features = data.features[:, : data.dim]
    clean = drift.find(features[train], features[held], seed=seed)
    kept = chance.permutation(len(data.classes))[: max(1, len(data.classes) // 2)]
    other = held[np.isin(data.targets[held], kept)]
    found = drift.find(features[train], features[other], seed=seed)
    shares = drift.of_shares(data.targets[train], data.targets[held], len(data.classes))
    return {
        "found": float(found is not None and found.is_drift),
        "clean": float(clean is not None and clean.is_drift),
        "shares, clean": float(shares.is_change),
    }


Fault = Callable[[str, int], Row]
FAULTS: dict[str, tuple[Fault, Sequence[str]]] = {
    "flipped": (flipped, ("photos", "digits", "mails")),
    "clean labels": (clean_labels, ("photos", "digits", "mails")),
    "leaked": (leaked, ("photos", "digits", "mails")),
    "starved": (starved, ("photos", "digits")),
    "corner": (corner, ("photos", "digits", "mails")),
    "frames": (frames, ("photos", "digits")),
    "drift": (drifted, ("photos", "digits", "mails")),
}


def rows(only: Sequence[str], seeds: int) -> Iterator[tuple[str, str, list[Row]]]:
    for fault, (measure, sets) in FAULTS.items():
        for name in sets if fault in only else ():
            yield fault, name, [measure(name, seed) for seed in range(1 if fault == "clean labels" else seeds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--cleanlab", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.cleanlab:
        sys.path.append(str(given.cleanlab))
        import cleanlab  # noqa: F401
    small_sides.prepare([weights for weights in WEIGHTS.values() if not weights.startswith("native/")])
    for fault, name, found in rows(given.only, given.seeds):
        means = {key: float(np.mean([row[key] for row in found])) for key in found[0]}
        print(
            f"{fault:<13}{name:<8}{len(found):>3} seeds  ",
            "  ".join(f"{k} {v:.3f}" for k, v in means.items()),
            flush=True,
        )


if __name__ == "__main__":
    main()
