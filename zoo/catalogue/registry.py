"""Every known backbone: the catalogues of core, plugins and user merged, searched, and looked up by name."""

from __future__ import annotations

import gc
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from zoo.catalogue import plugins
from zoo.catalogue.rows import entry_from_row, read_catalogue
from zoo.errors import CatalogueError, NameNotFound, PluginError, ZooError
from zoo.plugin import Entry, File, Repository

KEPT = ("dim", "params", "license", "pretrained_on", "tasks", "metrics", "aliases")
"""What a row says of a backbone, whatever its files say."""


@dataclass(frozen=True, slots=True)
class _Merged:
    entries: Mapping[str, Entry]  # by name
    labels: Mapping[str, Entry]  # by name and by alias
    problems: Mapping[str, CatalogueError]  # by plugin


def rows() -> dict[str, Entry]:
    """Return every row by name: registry.toml's, the plugins', then the user's; CatalogueError if a file is broken."""
    return dict(_merged().entries)


def problems() -> dict[str, CatalogueError]:
    """Return, by plugin, why the catalogue of a plugin is left out; it harms nothing else."""
    return dict(_merged().problems)


def search(
    pattern: str | None = None,
    *,
    plugin: str | None = None,
    modality: str | None = None,
    task: str | None = None,
    max_params: int | None = None,
    license: str | None = None,
) -> list[Entry]:
    """Return the entries that fit everything given; `pattern` is a part of the name, or a glob, whatever the case."""
    return [
        entry
        for entry in rows().values()
        if (pattern is None or _fits(entry, pattern.lower()))
        and (plugin is None or entry.plugin == plugin)
        and (modality is None or entry.modality == modality)
        and (task is None or task in entry.tasks)
        and (max_params is None or (entry.params is not None and entry.params <= max_params))
        and (license is None or (entry.license or "").lower() == license.lower())
    ]


def find(name: str) -> Entry:
    """Return the entry called `name`: a full name, an alias or an unambiguous short name, each with @revision or not.

    Raises NameNotFound with the candidates of an ambiguous name, or with the names nearest to an unknown one.
    """
    base, at, revision = name.partition("@")
    merged = _merged(of=base.partition("/")[0])  # where a full name has to be, however many rows others list
    if not {name, base} & merged.labels.keys():
        merged = _merged()
    if name in merged.labels:
        return merged.labels[name]
    entry = merged.labels.get(base) or _one(base, _ends_with(base, merged))
    if entry is None and (found := _outside(name, merged)):
        return found
    entry = entry or _one(base, _before_dot(base, merged))
    if entry is None:
        raise _unknown(base, merged)
    return _at(entry, revision) if at else entry


def complete(entry: Entry) -> Entry:
    """Return an entry with its files: those of a Hub row that lists none are looked up by its plugin.

    What the row itself says of the backbone stays. Raises StoreError if the repository cannot be seen.
    """
    if entry.files or not (entry.source or "").startswith("hf://"):
        return entry
    found = _resolved(entry.plugin, entry.name, str(entry.source).removeprefix("hf://"))
    if found is None:
        return entry
    known = {key: value for key in KEPT if (value := getattr(entry, key)) not in (None, (), {})}
    return replace(found, name=entry.name, source=entry.source, catalogue=entry.catalogue, **known)


def pull(name: str) -> dict[str, Path]:
    """Fetch and verify the weights of a catalogue name; returns the local files by their path in the source."""
    from zoo import store

    return store.pull(complete(find(name)))


def _fits(entry: Entry, pattern: str) -> bool:
    from fnmatch import fnmatchcase

    labels = [label.lower() for label in (entry.name, *entry.aliases)]
    if not set(pattern) & set("*?["):
        return any(pattern in label for label in labels)
    return any(fnmatchcase(label, pattern) or fnmatchcase(label.partition("/")[2], pattern) for label in labels)


def _ends_with(short: str, merged: _Merged) -> list[Entry]:
    """Return the entries whose name without the plugin, or without the organisation too, is `short`."""
    return [entry for name, entry in merged.entries.items() if short and name.endswith("/" + short)]


def _before_dot(short: str, merged: _Merged) -> list[Entry]:
    """Return the entries called `short` but for the tag after the first dot: resnet18 for native/resnet18.tv_in1k."""
    stems = ((name.partition(".")[0], entry) for name, entry in merged.entries.items())
    return [entry for stem, entry in stems if short and ("/" + stem).endswith("/" + short)]


def _one(name: str, candidates: list[Entry]) -> Entry | None:
    if len(candidates) > 1:
        names = [entry.name for entry in candidates]
        listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        raise NameNotFound(f"'{name}' fits several backbones: {listed}", fix=f"use a full name: zoo info {names[0]}")
    return candidates[0] if candidates else None


def _outside(name: str, merged: _Merged) -> Entry | None:
    """Ask the plugin of a full name for a row outside its catalogue."""
    prefix, _, rest = name.partition("/")
    if prefix in merged.problems:
        problem = merged.problems[prefix]
        what = f"'{name}' cannot be looked up: the catalogue of plugin '{prefix}' is left out: {problem.what}"
        raise NameNotFound(what, fix=problem.fix) from problem
    if not rest or prefix not in plugins.installed():
        return None
    return _resolved(prefix, name, rest)


def _resolved(plugin: str, name: str, rest: str) -> Entry | None:
    """Have a plugin look for `rest`, "org/repo" with or without @revision; the entry goes by `name`."""
    from zoo import store

    bare, at, revision = rest.partition("@")

    def look(source: str) -> Repository:
        return store.look(name, f"{source}@{revision}" if at else source)

    try:
        found = plugins.load(plugin).resolve(bare, look)
    except ZooError:
        raise
    except Exception as error:
        label = plugins.installed()[plugin].label
        what = f"{label}: resolve({bare!r}) raised {type(error).__name__}: {error}"
        raise PluginError(what, fix=f"zoo list {plugin}/   (lists the names of its catalogue)") from error
    if found is None or not at:
        return found
    return replace(found, name=name, source=f"{(found.source or '').partition('@')[0]}@{revision}")


def _at(entry: Entry, revision: str) -> Entry:
    """Return the entry at another revision; what was known of its files' bytes and its metrics no longer holds."""
    if not (entry.source or "").startswith("hf://"):
        what = (
            f"'{entry.name}@{revision}': only hf:// sources have revisions, this one is {entry.source or 'not given'}"
        )
        raise NameNotFound(what, fix=f"zoo info {entry.name}")
    if not re.fullmatch(r"\w[\w./-]*", revision) or ".." in revision:
        what = f"'{entry.name}@{revision}': {revision!r} is no branch, tag or commit"
        raise NameNotFound(what, fix=f"zoo info {entry.name}@main")
    return replace(
        entry,
        name=f"{entry.name}@{revision}",
        source=f"{(entry.source or '').partition('@')[0]}@{revision}",
        files=tuple(File(file.path) for file in entry.files),
        metrics={},
        aliases=(),
    )


def _unknown(name: str, merged: _Merged) -> NameNotFound:
    from difflib import get_close_matches

    full = {key: entry.name for label, entry in merged.labels.items() for key in _spellings(label)}
    close = [full[key] for key in get_close_matches(name.lower(), full, n=8, cutoff=0.6)]
    containing = [entry.name for entry in merged.entries.values() if name and name.lower() in entry.name.lower()]
    nearest = list(dict.fromkeys(close + containing))[:5]
    pattern = re.match(r"[a-z]*", name.rpartition("/")[2].lower())
    stem = pattern[0] if pattern and any(pattern[0] in entry.lower() for entry in merged.entries) else ""
    what = f"no backbone is called '{name}'; nearest: {', '.join(nearest) or 'none'}"
    return NameNotFound(what, fix=f"zoo list {stem}".strip())


def _spellings(label: str) -> Iterator[str]:
    """Yield a label in lower case: whole, without its plugin, its last part alone; each with and without its tag."""
    label = label.lower()
    for part in (label.rpartition("/")[2], label.partition("/")[2] or label, label):
        yield from (part.partition(".")[0], part)


def _merged(of: str | None = None) -> _Merged:
    """Merge the catalogues, or those that may list names `of` a plugin.

    Files that may change under us (the user's) are read each time, the others once.
    """
    entries: dict[str, Entry] = {}
    labels: dict[str, Entry] = {}
    left_out: dict[str, CatalogueError] = {}
    found = [_core_rows(_core_path())]
    for plugin in plugins.installed().values():
        if plugin.catalogue is None or of not in (None, plugin.name):
            continue
        try:
            found.append(_plugin_rows(plugin.name, plugin.catalogue))
        except CatalogueError as error:
            left_out[plugin.name] = error
    found.extend(map(_user_rows, _user_paths()))
    for catalogue in found:
        for entry in catalogue:
            entries[entry.name] = entry
            _claim(labels, entry)
    return _Merged(entries, labels, left_out)


def _claim(labels: dict[str, Entry], entry: Entry) -> None:
    for label in (entry.name, *entry.aliases):
        if label in labels:
            first, second = labels[label].catalogue, entry.catalogue
            what = f"'{label}' names two backbones: one in {first}, one in {second}"
            raise CatalogueError(what, fix=f"rename one of the two, in {second}")
        labels[label] = entry


@lru_cache(maxsize=1)
def _core_rows(path: Path) -> tuple[Entry, ...]:
    return tuple(entry_from_row(name, row, catalogue=path) for name, row in read_catalogue(path).items())


@lru_cache(maxsize=64)
def _plugin_rows(plugin: str, path: Path) -> tuple[Entry, ...]:
    with _uncollected():
        entries = tuple(entry_from_row(name, row, catalogue=path) for name, row in read_catalogue(path).items())
    for entry in entries:
        stray = [label for label in (entry.name, *entry.aliases) if not label.startswith(f"{plugin}/")]
        if stray or entry.plugin != plugin:
            what = f"{path}: plugin '{plugin}' may not list '{(stray or [entry.name])[0]}' of plugin '{entry.plugin}'"
            raise CatalogueError(what, fix=f"start its names and aliases with {plugin}/ in {path}")
    labels: dict[str, Entry] = {}
    for entry in entries:
        _claim(labels, entry)  # an alias given twice is the plugin's own fault, and costs its own rows alone
    return entries


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage in the block: a catalogue has none, and looking takes half of the time of a large one."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _user_rows(path: Path) -> tuple[Entry, ...]:
    table = read_catalogue(path).items()
    return tuple(
        _saved_entry(name, row, path) if "saved" in row else entry_from_row(name, row, catalogue=path)
        for name, row in table
    )


def _core_path() -> Path:
    """Return registry.toml: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    shipped = package / "registry.toml"
    return shipped if shipped.is_file() else package.parent / "registry.toml"


def _user_paths() -> Iterable[Path]:
    """Return the zoo.toml of the user's config folder and of the working folder, those that exist, each once."""
    environ = os.environ
    config = environ.get("ZOO_CONFIG_HOME") or os.path.join(environ.get("XDG_CONFIG_HOME") or "~/.config", "zoo")
    paths = (os.path.join(os.path.expanduser(config), "zoo.toml"), "zoo.toml")
    return dict.fromkeys(Path(path).resolve() for path in paths if os.path.isfile(path))


def _saved_entry(name: str, row: Mapping[str, Any], catalogue: Path) -> Entry:
    """Return the entry of a saved model's folder under a new name: its own net, with the weights of that folder."""
    where = f'{catalogue}: ["{name}"] saved = {row["saved"]!r}'
    if not isinstance(row["saved"], str) or not set(row) <= {"saved", "aliases"}:
        raise CatalogueError(f"{where}: has to be a folder, alone or with aliases", fix=f"edit {catalogue}")
    document = catalogue.parent / os.path.expanduser(row["saved"]) / "zoo.json"
    try:
        saved = json.loads(document.read_text(encoding="utf-8"))
        files = [{"path": path, **facts} for path, facts in saved["files"].items()]
        renamed = {**saved["entry"], "name": name, "source": document.parent.resolve().as_uri(), "files": files}
        renamed["aliases"] = row.get("aliases", [])
    except FileNotFoundError as error:
        raise CatalogueError(f"{where}: there is no {document}", fix=f"delete the row in {catalogue}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{where}: {document} is damaged: {type(error).__name__}: {error}"
        raise CatalogueError(what, fix=f"save the model again, or delete the row in {catalogue}") from error
    return replace(entry_from_row(name, renamed, catalogue=document), catalogue=str(catalogue))
