"""Recommended backbones: short lists by modality and size class, @small-image, in registry.toml with their reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from zoo.catalogue.rows import core_path, read_lists
from zoo.errors import CatalogueError, NameNotFound

KEYS = {"name", "reason", "source"}


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A recommended backbone: its list, the reason, and the page that the reason can be checked on."""

    list: str
    name: str
    reason: str
    source: str


def lists() -> Mapping[str, tuple[Recommendation, ...]]:
    """Return the recommendations of each list by its name, @small-image. Raises CatalogueError for an invalid one."""
    return _lists(core_path())


def find(name: str) -> tuple[Recommendation, ...]:
    """Return the members of a list, @small-image; @image has those of all sizes, @recommended all of them."""
    known = lists()
    wide = {f"@{key.rpartition('-')[2]}" for key in known} | {"@recommended"}
    if name not in known and name not in wide:
        what = f"there is no list {name!r} of recommended backbones; known: {', '.join([*sorted(wide), *known])}"
        raise NameNotFound(what, fix="zoo list --recommended")
    ends = "" if name == "@recommended" else f"-{name[1:]}"
    return known.get(name) or tuple(each for key, rows in known.items() if key.endswith(ends) for each in rows)


def reason(name: str) -> Recommendation | None:
    """Return the recommendation of a backbone; None if it is in no list."""
    return next((each for rows in lists().values() for each in rows if each.name == name), None)


@lru_cache(maxsize=1)
def _lists(path: Path) -> Mapping[str, tuple[Recommendation, ...]]:
    found: dict[str, tuple[Recommendation, ...]] = {}
    for name, rows in read_lists(path).items():
        for row in rows:
            if not isinstance(row, dict) or set(row) != KEYS or not all(isinstance(text, str) for text in row.values()):
                what = f'{path}: ["{name}"] members: {row!r:.200} is not a name with a reason and a source'
                raise CatalogueError(what, fix=f'{{ name = "plugin/name", reason = "…", source = "…" }} in {path}')
        found[name] = tuple(Recommendation(name, **row) for row in rows)
    return found
