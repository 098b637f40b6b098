"""The doctor of the data: wrong labels, conflicting copies, outliers, inputs without content or unreadable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from zoo.console import counted
from zoo.data import duplicates
from zoo.data.decode_cache import name_of
from zoo.data.examples import Examples, Label
from zoo.data.image_batches import Images
from zoo.evidence.report.doctor import label_doctor, labels, outliers
from zoo.evidence.report.doctor.examination import Examination
from zoo.evidence.report.explain.items import as_text
from zoo.evidence.report.findings import Finding, Item
from zoo.tasks import Task
from zoo.tasks.intervals import wilson
from zoo.tasks.regress import Regress

SURE_GIVEN, SURE_OTHER = 0.05, 0.8
"""A label is contradicted clearly if its own probability is at most the first, and that of another at least this."""
NAMED = 5
"""Names of unreadable inputs that are shown."""
FAR_RESIDUAL = 6.0
"""Residual of a number, in robust standard deviations, from which its label is doubted."""


def examine(found: Examination) -> Iterator[Finding]:
    """Yield the findings on labels, copies and odd inputs."""
    yield from _conflicts(found)
    if found.facts.task.single_label:
        yield from _label_issues(found)
    elif found.facts.task.name == "regress":
        yield from _far_numbers(found)
    elif found.facts.task.name == "multilabel":
        yield from label_doctor.of_several(found)
    else:
        yield from label_doctor.of_tags(found)
    yield from _blank(found)
    if found.has_rows:
        yield from _outliers(found)
    yield from unreadable(found)


def _label_issues(found: Examination) -> Iterator[Finding]:
    """Find labels that out-of-fold predictions contradict, over all parts together."""
    if found.out_of_fold is None:
        return
    frozen = list(found.out_of_fold.values())
    values = torch.cat([part.values for part in frozen]).double().numpy()
    held = torch.cat([part.held for part in frozen]).numpy()
    given = np.concatenate(list(found.labels.values()))
    kept = np.flatnonzero(held)
    issues = labels.find(values[kept], given[kept])
    if not len(issues.issues):
        return
    rows = kept[issues.issues]
    own, other = values[rows, given[rows]], issues.suggested[issues.issues]
    clear = int(((own <= SURE_GIVEN) & (values[rows, other] >= SURE_OTHER)).sum())
    low, high = wilson(len(rows), len(kept))
    what = f"{counted(len(rows), 'label')} of {len(kept):,} may be wrong, {clear:,} of them clearly contradicted"
    share = len(rows) / len(kept)
    evidence = (
        f"confident learning on out-of-fold probabilities of a linear head on {_features(found)}: {share:.1%} "
        f"(95 % interval {low:.1%} to {high:.1%}) of the labels; if all of these are wrong, no accuracy above about "
        f"{1 - share:.3f} means anything on them"
    )
    items = tuple(
        found.item(
            found.of_all(row),
            f"labelled {found.label(int(given[row]))} (probability {p:.3f})",
            suggested=found.label(int(k)),
            score=float(p),
        )
        for row, p, k in zip(rows.tolist(), own.tolist(), other.tolist(), strict=True)
    )
    confidence = "likely" if clear > len(rows) / 2 else "possible"
    fix = found.review
    yield Finding("label-issues", what, evidence, confidence, fix, items)


def _features(found: Examination) -> str:
    if found.is_blind:
        return "frozen features"
    if found.facts.recipe.strategy == "probe":
        return "frozen features (without the pretrained weights it is not certain that they have not seen the labels)"
    return "features of the fine-tuned backbone (it has seen these labels, so some wrong ones stay hidden)"


def _far_numbers(found: Examination) -> Iterator[Finding]:
    """Find numbers that out-of-fold predictions contradict by far."""
    if found.out_of_fold is None:
        return
    values = torch.cat([part.values for part in found.out_of_fold.values()]).double()
    truths = torch.cat(list(found.targets.values())).double().reshape(values.shape)
    residuals = (values - truths).abs().mean(1).numpy()
    z = residuals / max(1.4826 * float(np.median(residuals)), 1e-9)
    far = np.flatnonzero(z >= FAR_RESIDUAL)
    if not len(far):
        return
    order = far[np.argsort(-z[far], kind="stable")]
    what = f"{counted(len(far), 'number')} of {len(z):,} may be wrong: far from what similar examples have"
    evidence = (
        f"out-of-fold errors of a linear head on {_features(found)} of at least {FAR_RESIDUAL:g} robust standard "
        f"deviations; the largest is {z[order[0]]:.1f}"
    )
    items = tuple(
        found.item(found.of_all(i), f"error {z[i]:.1f} standard deviations", score=-float(z[i])) for i in order.tolist()
    )
    yield Finding("label-issues", what, evidence, "possible", found.review, items)


def _conflicts(found: Examination) -> Iterator[Finding]:
    """Find near-duplicates inside and between the parts whose labels differ."""
    items: list[Item] = []
    pairs = 0
    for name in found.parts:
        known = [(name, i, name, j) for i, j in duplicates.within(found.compared[name])]
        for (other, held), near in found.near.items():
            if held == name:
                known += [(name, i, other, j) for i, j in zip(near.held, near.train, strict=True)]
        for first, i, second, j in known:
            ours, theirs = found.parts[first].whole.examples, found.parts[second].whole.examples
            if not _differ(found.facts.task, ours.labels[i], theirs.labels[j]):
                continue
            pairs += 1
            items += [
                Item(first, i, _copied(theirs, j), score=0.0),
                Item(second, j, _copied(ours, i), score=0.0),
            ]
    if not pairs:
        return
    what = f"{counted(pairs, 'pair')} of near-duplicates with different labels: at least one label of each is wrong"
    evidence = f"{counted(pairs, 'pair')} among {_total(found):,} examples"
    unique = tuple({(item.part, item.index): item for item in items}.values())
    yield Finding("conflicting-labels", what, evidence, "likely", found.review, unique)


def _differ(task: Task, first: Label, second: Label) -> bool:
    """Return whether two labels contradict each other: numbers from a standard deviation of those of training on."""
    if not isinstance(task, Regress):
        return bool(first != second)
    ours, theirs = task.targets([first, second]).tolist()
    return any(abs(a - b) >= 1 for a, b in zip(ours, theirs, strict=True))


def _copied(examples: Examples, index: int) -> str:
    label = as_text(examples.labels[index])
    return f"a copy of {name_of(examples.inputs[index], index):.60} is labelled {label}"


def _total(found: Examination) -> int:
    """Return the number of examples of all parts."""
    return sum(len(part.whole.inputs) for part in found.parts.values())


def _blank(found: Examination) -> Iterator[Finding]:
    """Find images of one colour and texts without a token."""
    items = []
    for name, part in found.parts.items():
        inputs = part.whole.inputs
        blank = duplicates.blank(inputs) if isinstance(inputs, Images) else _empty(part.whole.examples.inputs)
        items += [Item(name, int(i), "no content", score=0.0) for i in blank]
    if not items:
        return
    kind = "image" if found.facts.entry.modality == "image" else "text"
    what = f"{counted(len(items), kind)} of {_total(found):,} {'is' if len(items) == 1 else 'are'} blank"
    evidence = "one colour" if kind == "image" else "no word"
    yield Finding("blank", what, evidence, "certain", found.review, tuple(items))


def _empty(inputs: Sequence[Any]) -> list[int]:
    texts = ("".join(item if isinstance(item, tuple | list) else [item]) for item in inputs)
    return [i for i, text in enumerate(texts) if not text.strip()]


def _outliers(found: Examination) -> Iterator[Finding]:
    features = np.concatenate([part.double().numpy() for part in found.pooled.values()])
    far, z = outliers.find(features)
    if not len(far):
        return
    items = tuple(
        found.item(found.of_all(i), f"{z[i]:.1f} standard deviations away", score=-float(z[i])) for i in far.tolist()
    )
    what = f"{counted(len(far), 'example')} of {len(z):,} {'is' if len(far) == 1 else 'are'} unlike all others"
    evidence = (
        f"mean distance to {outliers.NEIGHBOURS} neighbours in {_features(found)}: its logarithm is at least "
        f"{outliers.LEAST_Z:g} robust standard deviations above the median"
    )
    yield Finding("outliers", what, evidence, "possible", found.review, items)


def unreadable(found: Examination) -> Iterator[Finding]:
    """Report the inputs that could not be read."""
    skipped = found.facts.skipped
    if not skipped:
        return
    count, total = counted(len(skipped), "input"), len(skipped) + _total(found)
    what = f"{count} of {total:,} could not be read and {'was' if len(skipped) == 1 else 'were'} left out"
    shown = ", ".join(f"{name:.80}" for name in skipped[:NAMED])
    shown += f" and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
    yield Finding("unreadable", what, shown, "certain", "restore these files, or remove them")
