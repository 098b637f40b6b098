"""Split examples into two parts, stratified by class where there are classes."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

from zoo.data.examples import Examples, Label
from zoo.errors import DataError


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
    return _stratified(examples, share, seed, name) if stratify else _random(examples, share, seed, name)


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
    """Split class by class, with at least one example of each class in both parts."""
    by_class: dict[Label, list[int]] = defaultdict(list)
    for index, label in enumerate(examples.labels):
        by_class[label].append(index)
    lonely = [str(label) for label, members in by_class.items() if len(members) < 2]
    if lonely:
        raise DataError(
            f"class {lonely[0]!r} has one example only, and {name} takes one of each class"
            + (f" ({len(lonely)} classes have this)" if len(lonely) > 1 else ""),
            fix=_fix(name),
        )
    chance = random.Random(seed)
    held: set[int] = set()
    for label in sorted(by_class, key=str):
        members = by_class[label]
        count = min(len(members) - 1, max(1, round(share * len(members))))
        held.update(chance.sample(members, count))
    return [i for i in range(len(examples)) if i not in held], sorted(held)


def _fix(name: str) -> str:
    return f"add examples, give data for {name} ({name}=…), or go without ({name}=0)"
