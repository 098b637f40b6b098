"""Split examples into two parts, stratified by class where there are classes."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.data.examples import Examples, Label
from zoo.errors import DataError

CHOICES = 20
"""Random choices of groups of which the best is taken."""


def check_classes(train: Examples, valid: Examples | None) -> None:
    """Raise DataError for a single class, or labels that only the validation data has."""
    labels = set(train.labels)
    if len(labels) < 2:
        only = next(iter(labels))
        raise DataError(
            f"{train.origin} has one class only, {only!r}; classification needs two",
            fix="add a folder (or examples) of a second class",
        )
    if valid is not None:
        _check_same_labels(train, valid)


def held_out(
    examples: Examples, share: float, *, stratify: bool, seed: int, name: str = "valid"
) -> tuple[list[int], list[int]]:
    """Return the indices of the two parts, with about `share` (0 to 1) of the examples in the second.

    Errors call the share by `name`. Raises DataError for an invalid share and for too few examples.
    """
    if not 0 < share < 1:
        raise DataError(f"{name}={share!r} is not a share between 0 and 1", fix=f"{name}=0.2, or {name}=0 for none")
    if examples.groups is not None:
        return _by_groups(examples, share, seed, name, classes=stratify)
    return _stratified(examples, share, seed, name) if stratify else _random(examples, share, seed, name)


def folds(examples: Examples, count: int, *, stratify: bool, seed: int) -> list[list[int]]:
    """Return the indices of `count` folds of about equal size, stratified by class; groups are not divided.

    An example whose class has no other is in none of them: it is always trained on. Raises DataError for too few
    examples or groups.
    """
    single = set(single_examples(examples)) if stratify else set()
    units: dict[Any, list[int]] = defaultdict(list)
    for index, label in enumerate(examples.labels):
        if str(label) not in single:
            units[index if examples.groups is None else examples.groups[index]].append(index)
    if len(units) < count:
        what = "groups" if examples.groups is not None else "examples of classes with more than one"
        raise DataError(
            f"{examples.origin} has {len(units)} {what}, and {count} folds take at least {count}",
            fix=f"folds={max(2, len(units))} (--folds), or add examples",
        )
    order = random.Random(seed).sample(sorted(units, key=str), len(units))
    if stratify and examples.groups is None:
        order.sort(key=lambda unit: str(examples.labels[unit]))  # stable: classes in turn, each in random order
    found: list[list[int]] = [[] for _ in range(count)]
    if examples.groups is not None:
        order.sort(key=lambda unit: -len(units[unit]))
    for unit in order:
        min(found, key=len).extend(units[unit])
    return [sorted(fold) for fold in found]


def single_examples(examples: Examples) -> list[str]:
    """Return the classes that have one example only, as text."""
    return [str(label) for label, count in Counter(examples.labels).items() if count == 1]


def _by_groups(examples: Examples, share: float, seed: int, name: str, *, classes: bool) -> tuple[list[int], list[int]]:
    """Hold out whole groups: of some random choices, the one that holds out most nearly `share` of each class.

    Each class keeps an example in the first part.
    """
    assert examples.groups is not None
    members: dict[Any, list[int]] = defaultdict(list)
    for index, group in enumerate(examples.groups):
        members[group].append(index)
    if len(members) < 2:
        what = f"all examples of {examples.origin} are in one group, {next(iter(members))!r}: none can be held out"
        raise DataError(what, fix=_fix(name))
    labels = {group: Counter(_classes(examples, indices, single=classes)) for group, indices in members.items()}
    total = Counter(_classes(examples, range(len(examples)), single=classes))
    chance = random.Random(seed)
    held_groups: list[Any] = []
    best = float("inf")
    for _ in range(CHOICES):
        chosen, held_labels = _choose_groups(members, labels, total, share * len(examples), chance)
        size = sum(len(members[group]) for group in chosen)
        distance = abs(size / len(examples) - share) + _distance(held_labels, total, share)
        if chosen and distance < best:
            held_groups, best = chosen, distance
    if not held_groups or len(held_groups) == len(members):
        what = f"each group of {examples.origin} has a label that no other one has, or most of the examples"
        raise DataError(f"{what}: none can be held out", fix=_fix(name))
    held = {index for group in held_groups for index in members[group]}
    return [i for i in range(len(examples)) if i not in held], sorted(held)


def _random(examples: Examples, share: float, seed: int, name: str) -> tuple[list[int], list[int]]:
    """Split at random; an example with a label that no other has stays in the first part."""
    if len(examples) < 2:
        raise DataError(
            f"{examples.origin} has {len(examples)} examples; {name} takes at least one of two",
            fix=_fix(name),
        )
    order = random.Random(seed).sample(range(len(examples)), len(examples))
    count = min(len(examples) - 1, max(1, round(share * len(examples))))
    left = Counter(label for several in map(_several, examples.labels) for label in set(several))
    held: set[int] = set()
    for index in order:
        labels = set(_several(examples.labels[index]))
        if len(held) < count and all(left[label] > 1 for label in labels):
            held.add(index)
            left.subtract(labels)
    if not held:
        raise DataError(
            f"each example of {examples.origin} has a label that no other one has: none can be held out",
            fix=_fix(name),
        )
    return [i for i in range(len(examples)) if i not in held], sorted(held)


def _several(label: Label) -> tuple[Label, ...]:
    """Return the labels of a multilabel example, () for any other."""
    return tuple(label) if isinstance(label, tuple | list) else ()


def _check_same_labels(train: Examples, valid: Examples) -> None:
    """Raise DataError if the validation examples have a label that the training examples lack."""
    known = set(train.labels)
    extra = sorted({str(label) for label in valid.labels if label not in known})
    if extra:
        names = ", ".join(extra[:5]) + (f" and {len(extra) - 5} more" if len(extra) > 5 else "")
        raise DataError(
            f"{valid.origin} has labels that {train.origin} does not have: {names}",
            fix="use the same class names in both, or remove those examples from the validation data",
        )


def _stratified(examples: Examples, share: float, seed: int, name: str) -> tuple[list[int], list[int]]:
    """Split class by class, with at least one example of each class in both parts; a single one stays in the first."""
    by_class: dict[Label, list[int]] = defaultdict(list)
    for index, label in enumerate(examples.labels):
        by_class[label].append(index)
    if all(len(members) < 2 for members in by_class.values()):
        what = f"each class of {examples.origin} has one example only: none can be held out for {name}"
        raise DataError(what, fix=_fix(name))
    chance = random.Random(seed)
    held: set[int] = set()
    for label in sorted(by_class, key=str):
        members = by_class[label]
        if len(members) < 2:
            continue
        count = min(len(members) - 1, max(1, round(share * len(members))))
        held.update(chance.sample(members, count))
    return [i for i in range(len(examples)) if i not in held], sorted(held)


def _fix(name: str) -> str:
    return f"add examples, give data for {name} ({name}=…), or go without ({name}=0)"


def _classes(examples: Examples, indices: Sequence[int], *, single: bool) -> list[Label]:
    """Return the class of each of some examples, if each has a `single` one, else all their labels."""
    labels = [examples.labels[index] for index in indices]
    return labels if single else [one for label in labels for one in set(_several(label))]


def _choose_groups(
    members: Mapping[Any, Sequence[int]],
    labels: Mapping[Any, Counter[Label]],
    total: Counter[Label],
    wanted: float,
    chance: random.Random,
) -> tuple[list[Any], Counter[Label]]:
    """Return groups in random order up to the number of examples wanted, and their labels; each label keeps one."""
    held: Counter[Label] = Counter()
    chosen: list[Any] = []
    count = 0
    for group in chance.sample(sorted(members), len(members)):
        nearer = abs(count + len(members[group]) - wanted) < abs(count - wanted) or not chosen
        if nearer and all(total[label] - held[label] > number for label, number in labels[group].items()):
            chosen.append(group)
            count += len(members[group])
            held.update(labels[group])
    return chosen, held


def _distance(held: Counter[Label], total: Counter[Label], share: float) -> float:
    """Return how far the held-out share of a label is from the one wanted, averaged over the labels."""
    return sum(abs(held[label] / count - share) for label, count in total.items()) / max(1, len(total))
