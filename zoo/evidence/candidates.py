"""Candidates of a ranking: names, patterns and lists to catalogue entries, filters, and the static order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zoo import store
from zoo.catalogue import registry
from zoo.catalogue.search import search
from zoo.errors import NameNotFound
from zoo.plugin import Entry


@dataclass(frozen=True, slots=True)
class Limits:
    """What a backbone may have at most; None: anything.

    params   number of parameters
    license  its licence, such as "apache-2.0"
    bytes    size of its files
    ms       milliseconds for an item on this machine
    """

    params: int | None = None
    license: str | None = None
    bytes: int | None = None
    ms: float | None = None


def find(names: Sequence[str], modality: str | None) -> list[Entry]:
    """Return the entries of full or short names, globs ("timm/resnet*") and lists ("@small-image"), each once.

    Without names: all recommended backbones of the modality. Raises NameNotFound for a name or glob that fits nothing,
    and for names of images and texts at once.
    """
    found: dict[str, Entry] = {}
    for name in names or [f"@{modality}"]:
        for entry in _entries(name):
            found.setdefault(entry.name, entry)
    if modality:
        found = {name: entry for name, entry in found.items() if entry.modality == modality}
    kinds = sorted({entry.modality for entry in found.values()})
    if len(kinds) > 1:
        what = f"the names are of {' and of '.join(kinds)} backbones, and data is of one kind"
        raise NameNotFound(what, fix=f"zoo list --modality {kinds[0]}")
    return list(found.values())


def _entries(name: str) -> list[Entry]:
    if not set(name) & set("@*?[") or name.rfind("@") > 0:  # name@revision is a name
        return [registry.find(name)]
    if entries := search(name):
        return entries
    raise NameNotFound(f"no backbone matches {name!r}", fix="zoo list")


def excluded(entry: Entry, limits: Limits) -> str:
    """Return why the catalogue's facts rule an entry out, "" if they do not; what is unknown rules out."""
    if limits.license is not None and (entry.license or "unknown").lower() != limits.license.lower():
        return f"its licence is {entry.license or 'unknown'}"
    for value, most, unit in (
        (entry.params, limits.params, "parameters"),
        (download_bytes(entry), limits.bytes, "bytes"),
    ):
        if most is not None and value is None:
            return f"its {unit} are not known before it is pulled"
        if most is not None and value is not None and value > most:
            return f"{value:,} {unit}, more than {most:,}"
    return ""


def download_bytes(entry: Entry) -> int | None:
    """Return the size of an entry's files: as pulled, as listed, else of its parameters in float32; None if unknown."""
    if entry.source is None:
        return 0
    sizes = [file.bytes for file in entry.files]
    if here := store.pulled([entry]).get(entry.name):
        return here
    if sizes and None not in sizes:
        return sum(size or 0 for size in sizes)
    return None if entry.params is None else 4 * entry.params


def static_order(entries: Iterable[Entry]) -> list[Entry]:
    """Return entries in the order that is best without looking at the data.

    By ImageNet-1k top-1, those without one by their number of parameters, or a quarter of their bytes: on the usual
    benchmark such a fixed list beats most transferability scores (arXiv 2510.06448). Ties go to larger inputs. Random
    weights come last.
    """
    return sorted(entries, key=_static_key)


def _static_key(entry: Entry) -> tuple[bool, bool, float, int, int, str]:
    top1, size = entry.metrics.get("imagenet_top1"), getattr(entry.input, "size", 0)
    params = entry.params or (download_bytes(entry) or 0) // 4
    return (entry.source is None, top1 is None, -(top1 or 0.0), -params, -size, entry.name)
