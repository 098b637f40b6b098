"""Wrong labels planted where examples have several, or words have tags: how many are found.

    python tools/bench/planted_labels.py [--seeds 10]

Photos have their class and what it has in common with others as labels; words of mails are dates, addresses or other.
Of each label or tag 5 % are changed, anew for each seed.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Sequence
from functools import cache

import numpy as np
import planted
import small_sides
import torch

from zoo import tasks
from zoo.data import prepare
from zoo.data.examples import Examples
from zoo.evidence.report.doctor import labels
from zoo.finetune.features import out_of_fold
from zoo.finetune.features.linear_probe import ProbeData
from zoo.finetune.features.stage_outputs import StageOutput
from zoo.finetune.inference import extract_features
from zoo.finetune.recipe import Recipe
from zoo.finetune.setup import preprocessing
from zoo.tasks.classify import Classify

ANIMALS = ("bird", "insect", "mammal", "sea")
SHARED = {"animal": ANIMALS, "alive": (*ANIMALS, "plant")}
"""Labels that several classes of the photos have."""
PATTERNS = (("DATE", re.compile(r"\d{1,4}[-/:.]\d.*|[12]\d{3}")), ("ADDRESS", re.compile(r".*(@|://|www\.).*")))
TEXTS, WORDS = 200, 60
CHANGED = 0.05


def several(seed: int) -> planted.Row:
    """Add and take away labels of photos."""
    data, chance = planted.load("photos"), np.random.default_rng(seed)
    names = (*data.classes, *SHARED)
    truth = np.array([[k == label or label in SHARED.get(k, ()) for k in names] for label in data.examples.labels])
    wrong = chance.random(truth.shape) < CHANGED
    given = truth ^ wrong
    stages = (StageOutput("stages", "NTC", data.features.shape[1] - data.dim),)
    rows = ProbeData(data.features, torch.tensor(given).float(), None, stages)
    values = out_of_fold.predict(tasks.KINDS["multilabel"](names), rows, repeats=1).values.double().numpy()
    return of_issues([(row, place) for _, row, place in labels.find_several(values, given)], wrong)


@cache
def tagged() -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
    """Return features and tags of the words of some mails, and the number of the mail of each."""
    backbone = planted.model("mails").backbone
    texts = [text.split()[:WORDS] for text in planted.load("mails").examples.inputs[:TEXTS]]
    tags = [tuple(next((tag for tag, by in PATTERNS if by.fullmatch(word)), "O") for word in words) for words in texts]
    task = tasks.make("tag", tags)
    inputs = prepare.prepare(Examples(texts, tags, "words"), preprocessing(backbone, Recipe(), cache=False)).inputs
    data = task.dataset(inputs, tags, backbone.tokenizer)
    found = extract_features(backbone.module, data, reads="tokens", precision="fp32")
    groups = torch.arange(len(texts)).repeat_interleave(torch.tensor([len(each) for each in found.values]))
    return torch.cat(found.values), torch.cat(found.targets).numpy(), groups


def tags(seed: int) -> planted.Row:
    """Change tags of words to another one."""
    features, truth, groups = tagged()
    chance, classes = np.random.default_rng(seed), int(truth.max()) + 1
    wrong = chance.random(len(truth)) < CHANGED
    given = np.where(wrong, (truth + chance.integers(1, classes, len(truth))) % classes, truth)
    rows = ProbeData(features, torch.tensor(given), groups)
    predicted = out_of_fold.predict(Classify(tuple(range(classes))), rows, repeats=1)
    issues = labels.find(predicted.values.double().numpy(), given, labels.LIKELY)
    return of_issues([(row,) for row in issues.issues.tolist()], wrong)


def of_issues(issues: Sequence[tuple[int, ...]], wrong: np.ndarray) -> planted.Row:
    """Return precision and recall of the issues, and the precision of the first ones, as many as are wrong."""
    hits = [bool(wrong[place]) for place in issues]
    count = int(wrong.sum())
    first = sum(hits[:count]) / count
    return {"labels": wrong.size, "precision": float(np.mean(hits)), "recall": sum(hits) / count, "first": first}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = parser.parse_args().seeds
    warnings.simplefilter("ignore")
    small_sides.prepare([name for name in planted.WEIGHTS.values() if not name.startswith("native/")])
    for name, measure in (("several labels, photos", several), ("tags, mails", tags)):
        found = [measure(seed) for seed in range(seeds)]
        means = {key: float(np.mean([row[key] for row in found])) for key in found[0]}
        print(f"{name:<24}{seeds:>3} seeds  ", "  ".join(f"{k} {v:.3f}" for k, v in means.items()), flush=True)


if __name__ == "__main__":
    main()
