"""The doctor of the split: leakage between the parts, shortcuts, and drift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from zoo.data import duplicates, groups
from zoo.data.decode_cache import name_of
from zoo.data.duplicates import Duplicates
from zoo.data.examples import Examples, Lazy
from zoo.data.image_batches import Images
from zoo.evidence.report.doctor import cues, drift, grouped, interventions, shortcuts
from zoo.evidence.report.doctor.cues import Cue
from zoo.evidence.report.doctor.examination import Examination
from zoo.evidence.report.doctor.grouped import GroupLeak
from zoo.evidence.report.doctor.model_doctor import NAMES, SHOWN
from zoo.evidence.report.doctor.shortcuts import Shortcut
from zoo.evidence.report.findings import Finding, Item
from zoo.tasks.intervals import wilson

GROUPED = {"@file-name": "file name", "@camera": "camera", "@thread": "subject"}
"""Derived groups -> what their members have in common."""
ADVICE = {
    "border": "crop the border away, or take pictures of all classes in the same places",
    "corners": "crop or paint over the corners (logos, dates, scale bars), or take all classes from the same source",
    "colour": "check that all classes have the same light and background",
    "size": "take all classes from the same source, or resize and save all files alike before training",
    "format": "save all files in the same format before training",
    "length": "give all classes texts of the same lengths",
    "characters": "check whether case, digits or punctuation come from how the texts were collected",
    "sender": "remove the header, and split by sender: a column of senders and --groups",
    "first words": "remove what all texts of a class begin with (headers, templates)",
    "last words": "remove what all texts of a class end with (footers, signatures)",
}


def examine(found: Examination) -> Iterator[Finding]:
    """Yield the findings on leakage, shortcuts and drift."""
    for (first, second), near in found.near.items():
        yield from _duplicates(found, first, second, near)
    if "train" not in found.parts or not found.has_rows:
        return
    for part in found.parts:
        if part != "train":
            yield from _groups(found, part)
            yield from _drift(found, part)
    if found.facts.task.single_label:
        yield from _shortcuts(found)


def _duplicates(found: Examination, first: str, second: str, near: Duplicates) -> Iterator[Finding]:
    known, held = found.parts[first].whole, found.parts[second].whole
    if not near.held:
        return
    count, low_high = len(near.held), wilson(len(near.held), len(held.inputs))
    same = f", {near.exact:,} of them identical" if near.exact else ""
    what = f"{count:,} of {len(held.inputs):,} {NAMES[second]} examples have a copy in the {NAMES[first]} data{same}"
    evidence = (
        f"{count / len(held.inputs):.1%} (95 % interval {low_high[0]:.1%} to {low_high[1]:.1%}) are exact or "
        f"near-duplicates: {_measure_of(held.inputs)}{_without(found, second, near.held)}"
    )
    items = [
        Item(second, i, f"like {NAMES[first]} {name_of(known.examples.inputs[j], j):.60}", score=0.0)
        for i, j in zip(near.held, near.train, strict=True)
    ]
    confidence = "certain" if near.exact else "likely"
    listed = f"list them: zoo report {found.facts.folder} --fixes fixes.csv"
    fix = f"{listed}; without them: {found.command('--fixes fixes.csv')}"
    yield Finding("leakage", what, evidence, confidence, fix, tuple(items))


def _measure_of(inputs: object) -> str:
    if isinstance(inputs, Images):
        return f"correlation of edges of at least {duplicates.NEAR_IMAGES:g}, mirrored and cropped as well"
    return (
        f"Jaccard similarity of {duplicates.SHINGLE}-word shingles of at least {duplicates.NEAR_TEXTS:g}, "
        f"or {duplicates.CONTAINED:.0%} of the shorter text in the longer one"
    )


def _without(found: Examination, part: str, leaked: Sequence[int]) -> str:
    """Say what the score is without the leaked examples, where they were all run."""
    scores = found.scores[part]
    if len(scores) != len(found.parts[part].whole.inputs) or len(leaked) == len(scores):
        return ""
    kept = np.delete(scores, list(leaked))
    name = found.facts.task.item_metric.replace("_", " ")
    return f"; {name} {scores.mean():.3f} with them, {kept.mean():.3f} without"


def _groups(found: Examination, part: str) -> Iterator[Finding]:
    """Test file names, cameras and subjects of mails; groups that the split kept together cannot leak."""
    train, held = found.examples["train"], found.examples[part]
    lazy = isinstance(train.inputs, Lazy) or isinstance(held.inputs, Lazy)
    if train.groups is not None or lazy or not found.facts.task.single_label:
        return
    features = [found.pooled[name].double().numpy() for name in ("train", part)]
    for name, shared in GROUPED.items():
        known = groups.DERIVED[name](_joined(train, held))
        sides = known[: len(train)], known[len(train) :]
        leak = grouped.find((features[0], sides[0]), (features[1], sides[1]), found.labels["train"])
        if leak is not None and leak.is_leak:
            yield _group_finding(found, part, (name, shared), leak)
            return


def _joined(first: Examples, second: Examples) -> Examples:
    files = None if first.files is None or second.files is None else [*first.files, *second.files]
    return Examples([*first.inputs, *second.inputs], [*first.labels, *second.labels], first.origin, None, files)


def _group_finding(found: Examination, part: str, named: tuple[str, str], leak: GroupLeak) -> Finding:
    count, tested = len(found.rows[part]), leak.tested
    what = (
        f"{len(leak.shared):,} of {count:,} {NAMES[part]} examples share their {named[1]} with training examples "
        "and are very like them: the score is optimistic"
    )
    evidence = (
        f"the nearest training example of {tested.value:.0%} of them is of their own group, by chance of "
        f"{tested.chance:.0%} (permutation within classes, p = {tested.p:.3f}; frozen features)"
    )
    items = tuple(
        found.item((part, i), f"nearest: {name_of(found.examples['train'].inputs[j], j):.60}")
        for i, j in zip(leak.shared.tolist()[:SHOWN], leak.nearest.tolist(), strict=False)
    )
    fix = f"split by it: {found.command(f'--groups {named[0]}')}"
    return Finding("grouped-leakage", what, evidence, "likely", fix, items)


def _drift(found: Examination, part: str) -> Iterator[Finding]:
    """Compare a part with the training data; a random share of the same data cannot drift."""
    if part == "valid" and found.is_random_split:
        return
    moved = found.drifts.get(part)
    if moved is not None and moved.is_drift:
        what = f"The {NAMES[part]} data differ from the training data: a classifier tells them apart"
        evidence = (
            f"p = {moved.p:.2g} (energy distance of frozen features, permutation test); area under the ROC curve "
        )
        evidence += (
            f"of the classifier {moved.auc:.3f} (95 % interval {moved.low:.3f} to {moved.high:.3f}), out of fold; "
            f"so many examples show one of {moved.detectable:.2f} with {drift.POWER:.0%} power"
        )
        items = tuple(found.item((part, i), "least like the training data") for i in moved.odd.tolist()[:SHOWN])
        fix = f"train on examples of both: add some of the {NAMES[part]} kind, then {found.command()}"
        yield Finding("drift", what, evidence, "certain" if moved.low >= 0.8 else "likely", fix, items)
    if found.facts.task.single_label:
        yield from _share_change(found, part)


def _share_change(found: Examination, part: str) -> Iterator[Finding]:
    change = drift.of_shares(found.labels["train"], found.labels[part], len(found.facts.task.labels))
    if not change.is_change:
        return
    name = found.label(change.most)
    shares = [float((found.labels[side] == change.most).mean()) for side in ("train", part)]
    what = f"The class shares of the {NAMES[part]} data differ from those of the training data, most for {name!r}"
    evidence = (
        f"{name!r} {shares[0]:.1%} against {shares[1]:.1%}; total variation distance {change.distance:.3f} "
        f"(chi-squared test, p = {change.p:.2g})"
    )
    fix = f"hold out a random share instead: {found.command('--test 0.2')}; or balance: --set class_balance=logits"
    yield Finding("class-shares", what, evidence, "certain", fix)


def _shortcuts(found: Examination) -> Iterator[Finding]:
    held = "valid" if "valid" in found.parts else "test"
    if held not in found.parts:
        return
    labels = found.labels["train"]
    answers = found.parts[held].values.argmax(1).numpy()
    model = shortcuts.balanced_accuracy(answers, found.parts[held].targets.numpy())
    for hint in shortcuts.find(_cues(found), labels, model):
        if hint.is_hint:
            yield _shortcut_finding(found, held, hint, model)


def _cues(found: Examination) -> list[Cue]:
    inputs, prepared = found.examples["train"].inputs, found.inputs["train"]
    if isinstance(prepared, Images):
        return cues.of_images(prepared, list(inputs))
    return cues.of_texts([item if isinstance(item, str) else " ".join(item) for item in inputs])


def _shortcut_finding(found: Examination, held: str, hint: Shortcut, model: float) -> Finding:
    name = found.label(hint.given)
    told = "the label" if hint.share >= shortcuts.LEAST_SHARE else f"the class {name!r}"
    what = f"A shortcut gives {told} away: {hint.cue} alone"
    evidence = (
        f"balanced accuracy {hint.tested.value:.3f} by {hint.cue} alone, {model:.3f} by the model, by chance "
        f"{hint.tested.chance:.3f} (p = {hint.tested.p:.3f}); area under the ROC curve for {name!r} {hint.auc:.3f}"
    )
    confidence = "possible"
    effect = interventions.measure(found, held, hint.cue)
    if effect is not None:
        evidence += (
            f"; with the {hint.cue} of an image of another class the accuracy is {effect.after:.3f} instead of "
            f"{effect.before:.3f} ({effect.count} {NAMES[held]} images, McNemar's p = {effect.p:.2g})"
        )
        confidence = "certain" if effect.is_used else "possible"
    elif hint.share >= 0.95 or hint.auc >= 0.995:
        confidence = "likely"
    return Finding("shortcut", what, evidence, confidence, f"{ADVICE[hint.cue]}; then {found.command()}")
