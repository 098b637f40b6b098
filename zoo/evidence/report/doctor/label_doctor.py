"""Label issues of examples with several labels, and of words with tags: confident learning on each of their labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from zoo.console import counted
from zoo.data.examples import Label
from zoo.evidence.report.doctor import labels
from zoo.evidence.report.doctor.examination import Examination
from zoo.evidence.report.explain import stages
from zoo.evidence.report.facts import Part
from zoo.evidence.report.findings import Finding, Item
from zoo.finetune.features import out_of_fold
from zoo.finetune.features.linear_probe import ProbeData
from zoo.finetune.inference import extract_features
from zoo.tasks.classify import Classify
from zoo.tasks.intervals import wilson

TEXTS = 400
"""Texts of each part whose tags are examined, at most: each of their words is a row."""
SHOWN = 3
"""Words of a text, or labels of an example, that a note names."""


def of_several(found: Examination) -> Iterator[Finding]:
    """Find labels of a multi-label model that are there and should not be, or the other way round."""
    if found.out_of_fold is None:
        return
    values = torch.cat([part.values for part in found.out_of_fold.values()]).double().numpy()
    given = torch.cat(list(found.targets.values())).numpy() > 0.5
    doubts: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for quality, row, place in labels.find_several(values, given):
        doubts[row].append((quality, place))
    items = []
    for row, wrong in sorted(doubts.items(), key=lambda pair: min(pair[1])):
        changed = given[row].copy()
        changed[[place for _, place in wrong]] ^= True
        suggested: Label = tuple(found.label(place) for place in np.flatnonzero(changed).tolist())
        notes = [f"{'not ' if given[row, k] else ''}{found.label(k)}? ({p:.3f})" for p, k in sorted(wrong)[:SHOWN]]
        items.append(found.item(found.of_all(row), "; ".join(notes), suggested, min(wrong)[0]))
    yield from _finding(found, items, sum(map(len, doubts.values())), given.size)


def of_tags(found: Examination) -> Iterator[Finding]:
    """Find tags of words that out-of-fold predictions from the words' features contradict."""
    pretrained = found.facts.pretrained()
    if pretrained is None and found.facts.recipe.strategy != "probe":
        return
    backbone = found.facts.backbone if pretrained is None else pretrained
    rows: list[tuple[str, int, int]] = []
    features, targets = [], []
    for name, part in found.parts.items():
        texts = stages.sample(len(part), TEXTS, "tags")
        read = extract_features(
            backbone.module, stages.at(part.data, texts), reads="tokens", precision=found.facts.recipe.precision
        )
        for index, values, tags in zip(texts, read.values, read.targets, strict=True):
            rows += [(name, index, word) for word in range(len(tags))]
            features.append(values)
            targets.append(tags)
    groups = torch.arange(len(features)).repeat_interleave(torch.tensor([len(each) for each in features]))
    data = ProbeData(torch.cat(features), torch.cat(targets), groups)
    predicted = out_of_fold.predict(Classify(tuple(found.facts.task.labels)), data, repeats=1)
    kept = predicted.held.numpy()
    issues = labels.find(predicted.values.double().numpy()[kept], data.targets.numpy()[kept], labels.LIKELY)
    places = np.flatnonzero(kept)
    doubts: dict[tuple[str, int], list[tuple[float, int, int, int]]] = defaultdict(list)
    for place in issues.issues.tolist():
        name, index, word = rows[places[place]]
        own = int(data.targets[places[place]]), int(issues.suggested[place])
        doubts[name, index].append((float(issues.quality[place]), word, *own))
    items = [_of_text(found, found.parts[name], index, wrong) for (name, index), wrong in doubts.items()]
    items.sort(key=lambda item: item.score or 0.0)
    yield from _finding(found, items, len(issues.issues), int(kept.sum()))


def _of_text(found: Examination, part: Part, index: int, wrong: Sequence[tuple[float, int, int, int]]) -> Item:
    """Return the item of a text with doubtful tags."""
    words, tags = part.examples.inputs[index], list(part.examples.labels[index])
    for _, word, _, suggested in wrong:
        tags[word] = found.label(suggested)
    worst = sorted(wrong)[:SHOWN]
    notes = [f"{words[word]:.30}: {found.label(own)} or {found.label(k)}? ({p:.3f})" for p, word, own, k in worst]
    return Item(part.name, part.chosen[index], "; ".join(notes), tuple(tags), worst[0][0])


def _finding(found: Examination, items: Sequence[Item], count: int, total: int) -> Iterator[Finding]:
    if not items:
        return
    unit = "tag" if found.facts.task.name == "tag" else "label"
    low, high = wilson(count, total)
    what = f"{counted(count, unit)} of {total:,} may be wrong, in {counted(len(items), 'example')}"
    evidence = (
        f"confident learning on out-of-fold probabilities of a linear head, each {unit} on its own: "
        f"{count / total:.2%} (95 % interval {low:.2%} to {high:.2%}); in brackets the probability of what is given"
    )
    yield Finding("label-issues", what, evidence, "possible", found.review, tuple(items))
