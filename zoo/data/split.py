"""Hold out a share of the examples for validation, class by class."""

from __future__ import annotations

import random
from collections import defaultdict

from zoo.data.examples import Examples, Label
from zoo.errors import DataError


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
    if not 0 < share < 1:
        raise DataError(f"valid={share!r} is no share between 0 and 1", fix="valid=0.2, or valid=0 for no validation")
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
