"""The doctor of the model: overfitting, memorised examples, classes too small, too few examples to tell."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from zoo.console import counted
from zoo.evidence import statistics
from zoo.evidence.report.doctor import overfitting
from zoo.evidence.report.doctor.examination import Examination
from zoo.evidence.report.findings import Finding, Item
from zoo.tasks.task import LOWER_IS_BETTER

LEAST_GAP = 0.05
"""Least gap, at the lower end of its interval, that is reported: of shares; of errors as a share of the error."""
DETECTABLE = 0.05
"""Largest difference that validation data may fail to show without being reported as too small."""
SHOWN = 50
"""Items of a finding, at most."""
NAMES = {"train": "training", "valid": "validation", "test": "test"}


def examine(found: Examination) -> Iterator[Finding]:
    """Yield the findings on overfitting and on what the held-out examples can show."""
    held = "valid" if "valid" in found.parts else "test"
    if held not in found.parts:
        return
    if "train" in found.parts:
        yield from _overfitting(found, held)
        if found.facts.task.single_label:
            yield from _small_classes(found, held)
    yield from _few_examples(found, held)


def _overfitting(found: Examination, held: str) -> Iterator[Finding]:
    metric = found.facts.task.item_metric
    lower = metric in LOWER_IS_BETTER
    train, other = found.scores["train"], found.scores[held]
    gap = overfitting.gap(-train, -other) if lower else overfitting.gap(train, other)
    if gap.low < (LEAST_GAP * abs(gap.held) if lower else LEAST_GAP):
        return
    name = metric.replace("_", " ")
    scores = f"{name} {abs(gap.train):.3f} against {abs(gap.held):.3f}"
    what = f"The model fits the training data better than new data: {scores}"
    evidence = (
        f"gap {gap.value:.3f} (95 % interval {gap.low:.3f} to {gap.high:.3f}, {len(train):,} training and "
        f"{len(other):,} {NAMES[held]} examples)"
    )
    items = _memorised(found)
    if items is not None:
        share = f"{len(items)} of {len(found.rows['train']):,}"
        evidence += f"; {share} training examples are right only if they are trained on (out of fold they are wrong)"
    yield Finding("overfitting", what, evidence, "certain", _remedy(found, held), tuple(items or ())[:SHOWN])


def _memorised(found: Examination) -> list[Item] | None:
    """Return the memorised training examples, least likely first; None for other tasks than classification."""
    if not found.facts.task.single_label or found.out_of_fold is None:
        return None
    frozen, labels = found.out_of_fold["train"], found.labels["train"]
    values = frozen.values.double().numpy()
    trained = found.scores["train"][found.rows["train"].numpy()] > 0.5
    wrong = (values.argmax(1) != labels) & frozen.held.numpy()
    places = overfitting.memorised(trained, ~wrong)
    given = values[np.arange(len(labels)), labels]
    order = places[np.argsort(given[places], kind="stable")]
    answers = [found.label(int(values[place].argmax())) for place in order]
    return [
        found.item(("train", place), f"out of fold: {answer}", score=float(given[place]))
        for place, answer in zip(order.tolist(), answers, strict=True)
    ]


def _remedy(found: Examination, held: str) -> str:
    """Return a command that overfits less: the probe where it is as good, else stronger regularisation."""
    facts = found.facts
    metric = f"valid_{facts.task.main_metric}"
    probe = next((row[metric] for row in facts.history if row.get("step") == 0 and metric in row), None)
    if facts.recipe.strategy == "probe" and facts.recipe.l2 is None:
        again = found.command("--strategy probe")
        return f"more examples help most, as the penalty was chosen by cross-validation: add some, then {again}"
    if facts.recipe.strategy == "probe":
        return f"more examples help most; or a cross-validated penalty: {found.command('--strategy probe')}"
    if probe is not None and probe >= facts.metrics.get(facts.task.main_metric, np.inf):
        return f"the frozen probe is as good ({probe:.3f}) and overfits less: {found.command('--strategy probe')}"
    if facts.entry.modality == "image" and facts.recipe.augment != "randaugment":
        return f"more examples help most; or augment: {found.command('--set augment=randaugment')}"
    return f"more examples help most; or train fewer layers: {found.command('--strategy probe')}"


def _few_examples(found: Examination, held: str) -> Iterator[Finding]:
    """Say how large a difference between two models has to be to be seen on the held-out examples."""
    task, scores = found.facts.task, found.scores[held]
    if task.item_metric in LOWER_IS_BETTER or found.out_of_fold is None:
        return
    other = task.item_scores(_as_outputs(found, held), found.targets[held]).numpy()
    difference = statistics.mean_difference(scores[found.rows[held].numpy()], other, is_share=True)
    smallest = statistics.smallest_detectable(difference)
    if smallest <= DETECTABLE:
        return
    name, count = task.item_metric.replace("_", " "), len(other)
    what = f"{count:,} {NAMES[held]} examples are too few to see differences in {name} below {smallest:.3f}"
    evidence = (
        "the smallest difference between this model and a linear head on frozen features that a paired test detects "
        f"with 80 % power is {smallest:.3f}"
    )
    fix = f"measure on all examples: {found.command('--folds 5')}"
    yield Finding("few-validation-examples", what, evidence, "certain", fix)


def _as_outputs(found: Examination, part: str) -> object:
    """Return out-of-fold predictions as outputs of the head."""
    assert found.out_of_fold is not None
    values = found.out_of_fold[part].values.clamp(1e-6, 1 - 1e-6)
    return values.logit() if found.facts.task.name == "multilabel" else values.log()


def _small_classes(found: Examination, held: str) -> Iterator[Finding]:
    part = found.parts[held]
    hits = found.scores[held] > 0.5
    train = found.facts.task.targets(found.parts["train"].whole.examples.labels).numpy()
    classes = len(found.facts.task.labels)
    for small in overfitting.small_classes(train, part.targets.numpy(), hits, classes):
        low, high = small.recall
        name = found.label(small.label)
        count = counted(small.train, "training example")
        what = f"The class {name!r} has {count} (the median class has {small.median:g})"
        evidence = f"recall {small.hits} of {small.held} {NAMES[held]} examples (95 % interval {low:.2f} to {high:.2f})"
        if small.held:
            evidence += f"; p = {small.p:.3f} that it is as good as that of the other classes"
        fix = f"add examples of it; until then, count its errors more: {found.command('--set class_balance=weights')}"
        yield Finding("small-class", what, evidence, "certain" if small.p <= overfitting.MAX_P else "likely", fix)
