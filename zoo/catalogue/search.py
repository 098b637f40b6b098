"""Search the registry: filter and sort entries."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from zoo.catalogue import recommended as recommendations
from zoo.catalogue import registry
from zoo.catalogue.discovery import installed
from zoo.errors import NameNotFound
from zoo.plugin import Entry

SORT_KEYS: dict[str, Callable[[Entry], float | None]] = {
    "accuracy": lambda entry: None if (top1 := entry.metrics.get("imagenet_top1")) is None else -top1,
    "gmacs": lambda entry: entry.metrics.get("gmacs"),
    "params": lambda entry: entry.params,
}
"""What `sort` compares beside the name, smallest first: ImageNet-1k top-1 (best first), GMACs an image, parameters."""
SORTS = (*SORT_KEYS, "name")
MODALITIES = ("image", "text")


def search(
    pattern: str | None = None,
    *,
    plugin: str | None = None,
    modality: str | None = None,
    task: str | None = None,
    max_params: int | None = None,
    license: str | None = None,
    recommended: bool = False,
    sort: str | None = None,
) -> list[Entry]:
    """Return the entries that match all filters; `pattern` is a substring of the name or a glob, case-insensitive.

    A pattern such as "@small-image" has the members of that list, `recommended` those of all lists, in their order.

    `sort` is accuracy, gmacs, params or name; None keeps the order of the catalogues. Entries whose number of
    parameters (with `max_params`) or sort key is unknown come last: see `is_known`. Raises NameNotFound for a plugin,
    modality, task, licence or sort key that nothing has.
    """
    entries: Iterable[Entry] = registry.rows().values()
    if pattern is not None and pattern.startswith("@"):
        entries, pattern = _members(pattern), None
    elif recommended:
        entries = _members("@recommended")
    _check("plugin", plugin, lambda: (*installed(), *(entry.plugin for entry in entries)))
    _check("modality", modality, lambda: MODALITIES)
    _check("task", task, lambda: (name for entry in entries for name in entry.tasks))
    _check("license", license and license.lower(), lambda: ((entry.license or "").lower() for entry in entries))
    _check("sort", sort, lambda: SORTS)
    found = [
        entry
        for entry in entries
        if (pattern is None or _matches(entry, pattern.lower()))
        and (plugin is None or entry.plugin == plugin)
        and (modality is None or entry.modality == modality)
        and (task is None or task in entry.tasks)
        and (max_params is None or entry.params is None or entry.params <= max_params)
        and (license is None or (entry.license or "").lower() == license.lower())
    ]
    if sort is None and max_params is None:
        return found
    known = [entry for entry in found if is_known(entry, max_params, sort)]
    unknown = [entry for entry in found if not is_known(entry, max_params, sort)]
    return [*_sorted(known, sort), *_sorted(unknown, sort and "name")]


def is_known(entry: Entry, max_params: int | None = None, sort: str | None = None) -> bool:
    """Return whether an entry has the values that a search with these arguments compares."""
    key = SORT_KEYS.get(sort or "")
    return (max_params is None or entry.params is not None) and (key is None or key(entry) is not None)


def _members(name: str) -> list[Entry]:
    """Return the entries of a list, but for those whose plugin is not installed."""
    rows = registry.rows()
    return [rows[each.name] for each in recommendations.find(name) if each.name in rows]


def _sorted(entries: list[Entry], sort: str | None) -> list[Entry]:
    key = SORT_KEYS.get(sort or "")
    if key:
        return sorted(entries, key=lambda entry: (key(entry), entry.name))
    return sorted(entries, key=lambda entry: entry.name) if sort else entries


def _check(what: str, value: str | None, known: Callable[[], Iterable[str]]) -> None:
    """Raise NameNotFound with the known values for a value that is not among them."""
    if value is None or value in (values := sorted(set(known()) - {""})):
        return
    from difflib import get_close_matches

    nearest = (get_close_matches(value, values, n=1, cutoff=0.3) or values)[0]
    raise NameNotFound(f"unknown {what} {value!r}; known: {', '.join(values)}", fix=f"zoo list --{what} {nearest}")


def _matches(entry: Entry, pattern: str) -> bool:
    from fnmatch import fnmatchcase

    labels = [label.lower() for label in (entry.name, *entry.aliases)]
    if not set(pattern) & set("*?["):
        return any(pattern in label for label in labels)
    return any(fnmatchcase(label, pattern) or fnmatchcase(label.partition("/")[2], pattern) for label in labels)
