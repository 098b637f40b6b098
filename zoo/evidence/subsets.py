"""Subsets of data for a ranking: what kind of data it is, nested subsets of its examples, and their sizes."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

from zoo.data.examples import Columns, Examples
from zoo.data.reading import read
from zoo.errors import DataError

MOST = 2_000
"""Examples that the last round takes: more of them narrow the intervals little and cost as many forward passes."""
FEWEST, PER_CLASS = 64, 5
"""Examples that the first round takes at least, in all and for each class."""
STEP = 4
"""How many times the examples of a round the next one takes."""


def modality(data: object, columns: Columns) -> str:
    """Return "image" or "text": what the inputs of the data are. Raises DataError for what is neither."""
    try:
        first = read(data, modality="image", columns=columns)[0].inputs[0]
    except DataError:
        read(data, modality="text", columns=columns)
        return "text"
    return "text" if isinstance(first, str) or (isinstance(first, Path) and not first.is_file()) else "image"


def nested_order(examples: Examples, *, classes: bool, seed: int) -> list[int]:
    """Return an order of at most 2,000 of the examples in which the first n are a sample of all.

    With `classes`, each class is spread evenly over the order; examples of one group follow each other.
    """
    chance = random.Random(seed)
    units: dict[Any, list[int]] = defaultdict(list)
    for index in range(len(examples)):
        units[index if examples.groups is None else examples.groups[index]].append(index)
    order = chance.sample(sorted(units, key=str), len(units))
    if classes and examples.groups is None:
        by_class: dict[str, list[int]] = defaultdict(list)
        for index in order:
            by_class[str(examples.labels[index])].append(index)
        places = {
            index: (number + chance.random()) / len(members)
            for _, members in sorted(by_class.items())
            for number, index in enumerate(members)
        }
        order.sort(key=places.__getitem__)
    return [index for unit in order for index in units[unit]][:MOST]


def sizes(examples: Examples) -> list[int]:
    """Return how many examples each round takes: the last one all, each before it a quarter.

    Each round computes the features of its examples anew, the last one those of all of them together, which a later
    `finetune` on the same data finds in the feature cache: with quarters that is a third more, with halves it would be
    as much again.
    """
    classes = len({str(label) for label in examples.labels}) if isinstance(examples.labels[0], str | int) else 0
    found = [len(examples)]
    while found[0] // STEP >= max(FEWEST, PER_CLASS * classes):
        found.insert(0, found[0] // STEP)
    return found
