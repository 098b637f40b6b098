"""Match the user's labels with the names of the classes that a backbone was pretrained on."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from zoo.data.examples import Label


def match(labels: Sequence[Label], names: Sequence[Sequence[str]]) -> list[int] | None:
    """Return the pretrained class of every label, or None if one of them is unknown or fits two classes ("crane").

    Case does not count, and "_", "-" and space are the same; whole numbers match nothing.
    """
    classes: dict[str, set[int]] = defaultdict(set)
    for index, synonyms in enumerate(names):
        for name in synonyms:
            classes[_plain(name)].add(index)
    found = [classes.get(_plain(label), set()) if isinstance(label, str) else set() for label in labels]
    if any(len(candidates) != 1 for candidates in found):
        return None
    rows = [next(iter(candidates)) for candidates in found]
    return rows if len(set(rows)) == len(rows) else None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()
