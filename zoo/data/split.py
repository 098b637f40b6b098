"""Hold out a share of the examples for validation: class by class where there are classes."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

from zoo.data.examples import Examples, Label
from zoo.errors import DataError


def check(train: Examples, valid: Examples | None, task: str) -> None:
    """Raise DataError for what cannot be learnt: one class only, or labels that only the validation data has."""
    if task != "classify":
        return
    check_classes(train)
    if valid is not None:
        check_same_labels(train, valid)


def held_out(examples: Examples, share: float, task: str, seed: int) -> tuple[list[int], list[int]]:
    """Return the indices of (train, valid), about `share` (0 to 1) of the examples in valid."""
    return stratified(examples, share, seed) if task == "classify" else scattered(examples, share, seed)


def scattered(examples: Examples, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the indices of (train, valid) drawn at random; a label that only one example has stays in train.

    Raises DataError with fewer than two examples.
    """
    _check_share(share)
    if len(examples) < 2:
        raise DataError(
            f"{examples.origin} has {len(examples)} examples, and validation needs one more",
            fix="add examples, give validation data (valid=…), or go without validation (valid=0)",
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
            fix="add examples, give validation data (valid=…), or go without validation (valid=0)",
        )
    return [i for i in range(len(examples)) if i not in held], sorted(held)


def _several(label: Label) -> tuple[Label, ...]:
    """Return the labels of an example that has several; a number or nothing is no label to be missed in train."""
    return tuple(label) if isinstance(label, tuple | list) else ()


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise DataError(f"valid={share!r} is no share between 0 and 1", fix="valid=0.2, or valid=0 for no validation")


def check_classes(examples: Examples) -> None:
    """Raise DataError unless there are at least two classes."""
    labels = set(examples.labels)
    if len(labels) < 2:
        only = next(iter(labels))
        raise DataError(
            f"{examples.origin} has one class only, {only!r}; telling classes apart takes two",
            fix="add a folder (or examples) of a second class",
        )


def check_same_labels(train: Examples, valid: Examples) -> None:
    """Raise DataError if the validation examples have a label that the training examples lack."""
    known = set(train.labels)
    extra = sorted({str(label) for label in valid.labels if label not in known})
    if extra:
        names = ", ".join(extra[:5]) + (f" and {len(extra) - 5} more" if len(extra) > 5 else "")
        raise DataError(
            f"{valid.origin} has labels that {train.origin} does not have: {names}",
            fix="use the same class names in both, or remove those examples from the validation data",
        )


def stratified(examples: Examples, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the indices of (train, valid): about `share` (0 to 1) of each class in valid, at least one in each.

    Raises DataError when a class has one example only: it cannot be on both sides.
    """
    _check_share(share)
    by_class: dict[Label, list[int]] = defaultdict(list)
    for index, label in enumerate(examples.labels):
        by_class[label].append(index)
    lonely = [str(label) for label, members in by_class.items() if len(members) < 2]
    if lonely:
        raise DataError(
            f"class {lonely[0]!r} has one example only, and validation needs one of each class"
            + (f" ({len(lonely)} classes have this)" if len(lonely) > 1 else ""),
            fix="add examples, give validation data (valid=…), or go without validation (valid=0)",
        )
    chance = random.Random(seed)
    held: set[int] = set()
    for label in sorted(by_class, key=str):
        members = by_class[label]
        count = min(len(members) - 1, max(1, round(share * len(members))))
        held.update(chance.sample(members, count))
    return [i for i in range(len(examples)) if i not in held], sorted(held)
