"""Changes to a valid document: the values that may take the place of any part of it, and each single replacement."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

LEAVES: list[Any] = [
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**63, 2**64, 10**200, 10**400, 0.5, float("nan"), float("inf")),
    *("", "a", "../a", "/etc/passwd", "c:\\x", "\ud800", "\u202e", "\x00", "x" * 5000, "native", "hf", "image", "text"),
    *("classify", "tag", "regress", "multilabel", "causal-lm", "masked-lm", "hf://a/b", "file://../x", "https://h"),
    *([], {}, [[]], [None], {"": None}, ["a", "a"], ["a", "b"], {"a": 1}, "F32", "U8", [0, 4], [2, 2]),
]


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every node of a document except the root."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*path, key)
        yield from nodes(inner, (*path, key))


def single(document: Any, within: str) -> Iterator[tuple[str, Any]]:
    """Yield what was changed and the document with one node of a section removed or replaced by one of LEAVES."""
    for *above, key in (path for path in nodes(document) if path[0] == within):
        for number, leaf in enumerate([None, *LEAVES]):
            found = copy.deepcopy(document)
            parent = found
            for step in above:
                parent = parent[step]
            if number:
                parent[key] = copy.deepcopy(leaf)
            else:
                del parent[key]
            yield f"{[*above, key]}: {repr(leaf)[:40] if number else 'removed'}", found
