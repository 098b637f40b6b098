"""Registry of backbones: merge the core, plugin and user catalogues, look up names."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from zoo.catalogue import names, plugins, pushed, recommended
from zoo.catalogue.discovery import installed
from zoo.catalogue.rows import Row, core_path, entry_from_row, read_catalogue, read_json, row_from_entry
from zoo.errors import CatalogueError, NameNotFound, PluginError, ZooError
from zoo.plugin import Entry, File, Repository
from zoo.weights.guard import guarded

T = TypeVar("T")
ROW_OVERRIDES = ("dim", "params", "license", "pretrained_on", "tasks", "metrics", "aliases")
"""Fields of a catalogue row that take precedence over those its plugin resolves."""
RECEIPT = ("name", "plugin", "source", "files")
"""Fields of a resolved row that are not kept in its receipt: they are known from the receipt itself."""
SHOWN = 5
"""Candidates that are shown for an ambiguous name."""


@dataclass(frozen=True, slots=True)
class _Merged:
    entries: Mapping[str, Entry]  # by name
    labels: Mapping[str, Entry]  # by name and by alias
    problems: Mapping[str, CatalogueError]  # of plugin catalogues, by plugin
    user_problems: Mapping[str, CatalogueError]  # of user catalogues, by path


def rows() -> dict[str, Entry]:
    """Return the rows of all valid catalogues by name: core, plugin, then user catalogues."""
    return dict(_merged().entries)


def problems() -> dict[str, CatalogueError]:
    """Return the errors of invalid catalogues, by plugin or by path of a zoo.toml; others are not affected."""
    merged = _merged()
    return {**merged.problems, **merged.user_problems}


def find(name: str) -> Entry:
    """Return the entry of a full name, an alias or an unambiguous short name, optionally with @revision.

    Raises NameNotFound with the candidates for an ambiguous name, or with the closest names for an unknown one, and
    CatalogueError if a zoo.toml is invalid: the name may be in it.
    """
    base, at, revision = name.partition("@")
    if len(name) > 2 * names.LONGEST:
        raise NameNotFound(f"'{name:.40}…' is longer than any name", fix="zoo list")
    merged = _merged(of=base.partition("/")[0])  # fast path: a full name is in the catalogue of its plugin
    if not {name, base} & merged.labels.keys():
        merged = _merged()
    for problem in merged.user_problems.values():
        raise problem
    if name in merged.labels:
        return merged.labels[name]
    entry = merged.labels.get(base) or _single(base, _by_suffix(base, merged))
    if entry is None and (found := _resolve_uncatalogued(name, merged)):
        return found
    entry = entry or _single(base, _by_name_without_tag(base, merged))
    if entry is None:
        raise _not_found(base, merged)
    return _at_revision(entry, revision) if at else entry


def complete(entry: Entry) -> Entry:
    """Return an entry with its files: for a Hub row that lists none, its plugin resolves them.

    Fields set in the row take precedence. Raises StoreError if the repository cannot be listed.
    """
    if entry.files or not (entry.source or "").startswith("hf://"):
        return entry
    found = _resolve(entry.plugin, entry.name, str(entry.source).removeprefix("hf://"))
    if found is None:
        return entry
    overrides = {key: value for key in ROW_OVERRIDES if (value := getattr(entry, key)) not in (None, (), {})}
    return replace(found, name=entry.name, source=entry.source, catalogue=entry.catalogue, **overrides)


def pull(name: str) -> dict[str, Path]:
    """Download and verify the files of a backbone; returns the local files by their path in the source."""
    from zoo import store

    return store.pull(complete(find(name)))


def _by_suffix(short: str, merged: _Merged) -> list[Entry]:
    """Return the entries whose name without the plugin, or without plugin and organisation, is `short`."""
    return [entry for name, entry in merged.entries.items() if short and name.endswith("/" + short)]


def _by_name_without_tag(short: str, merged: _Merged) -> list[Entry]:
    """Return the entries whose name up to the first dot is `short`: resnet18 for native/resnet18.tv_in1k."""
    stems = ((name.partition(".")[0], entry) for name, entry in merged.entries.items())
    return [entry for stem, entry in stems if short and ("/" + stem).endswith("/" + short)]


def _single(name: str, candidates: list[Entry]) -> Entry | None:
    """Return the only candidate, None without one. NameNotFound for several, listed by what is known, best first."""
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    ordered = sorted(candidates, key=_preference)
    listed, more = ", ".join(map(_with_facts, ordered[:SHOWN])), len(ordered) > SHOWN
    fix = f"use a full name: zoo info {ordered[0].name}"
    if more:
        listed, fix = f"{listed}; {len(ordered)} in all", f"{fix}   (all: zoo list {name} --sort accuracy)"
    raise NameNotFound(f"'{name}' is ambiguous: {listed}", fix=fix)


def _preference(entry: Entry) -> tuple[bool, bool, float, int, str]:
    """Return the sort key of candidates: recommended ones first, then the default tags, by accuracy, size."""
    top1 = entry.metrics.get("imagenet_top1", 0.0)
    return (recommended.reason(entry.name) is None, not entry.aliases, -top1, entry.params or 1 << 62, entry.name)


def _with_facts(entry: Entry) -> str:
    """Return a name with its accuracy, number of parameters and licence, as far as they are known."""
    top1, params = entry.metrics.get("imagenet_top1"), entry.params
    facts = [
        "" if recommended.reason(entry.name) is None else "recommended",
        "" if top1 is None else f"{top1:.1f} %",
        "" if params is None else f"{params / 1e6:.3g}M",
        entry.license or "",
    ]
    known = ", ".join(filter(None, facts))
    return f"{entry.name} ({known})" if known else entry.name


def _resolve_uncatalogued(name: str, merged: _Merged) -> Entry | None:
    """Let the plugin of a full name resolve a name that is not in its catalogue."""
    prefix, _, rest = name.partition("/")
    if prefix in merged.problems:
        problem = merged.problems[prefix]
        what = f"'{name}' cannot be looked up: the catalogue of plugin '{prefix}' is invalid: {problem.what}"
        raise NameNotFound(what, fix=problem.fix) from problem
    if not rest or not rest.isascii() or prefix not in installed():
        return None
    return _resolve(prefix, name, rest)


def _resolve(plugin: str, name: str, rest: str) -> Entry | None:
    """Resolve `rest`, "org/repo" with or without @revision, to an entry called `name`: by its receipt, else its plugin.

    A receipt has the row only for the version of the plugin that resolved it.
    """
    from zoo import store

    provider = installed().get(plugin)
    resolver = f"{provider.distribution} {provider.version}" if provider and not provider.problem else ""
    if resolver and (kept := _kept(plugin, name, f"hf://{rest}", resolver)):
        return kept
    bare, at, revision = rest.partition("@")
    commit = None

    def look(source: str) -> Repository:
        nonlocal commit
        found = store.look(name, f"{source}@{revision}" if at else source)
        commit = found.commit
        if pushed.MANIFEST in found.files:
            raise pushed.PushedModel(found)
        return found

    try:
        loaded = plugins.load(plugin)
        with guarded(f"plugin '{plugin}': resolve({bare!r})"):
            found: object = loaded.resolve(bare, look)
    except pushed.PushedModel as saved:
        found = pushed.entry(name, f"hf://{bare}", saved.found)
    except (ZooError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit would end the process without a word
        label = installed()[plugin].label
        what = f"{label}: resolve({bare!r}) raised {type(error).__name__}: {error}"
        raise PluginError(what, fix=f"zoo list {plugin}/   (lists the names of its catalogue)") from error
    if found is None:
        return None
    if not isinstance(found, Entry):
        what = f"{installed()[plugin].label}: resolve({bare!r}) returns {type(found).__name__}, not an Entry or None"
        raise PluginError(what, fix=f"zoo list {plugin}/   (lists the names of its catalogue)")
    if at:
        found = replace(found, name=name, source=f"{(found.source or '').partition('@')[0]}@{revision}")
    row = {key: value for key, value in row_from_entry(found).items() if key not in RECEIPT}
    return replace(found, resolved={"resolved_by": resolver, "commit": commit, **row})


def _kept(plugin: str, name: str, source: str, resolver: str) -> Entry | None:
    """Return the entry in the receipt of a name, if `resolver` resolved it from `source` and its row is valid."""
    from zoo.store import kept_rows

    receipt = kept_rows.find(name, source, resolver)
    if receipt is None or receipt.row is None:
        return None
    row = {key: value for key, value in receipt.row.items() if key not in kept_rows.ORIGIN}
    try:
        entry = entry_from_row(name, {**row, "plugin": plugin, "source": source}, catalogue="")
    except CatalogueError:  # damaged: the plugin resolves it again
        return None
    return replace(entry, files=receipt.files, resolved=receipt.row)


def _at_revision(entry: Entry, revision: str) -> Entry:
    """Return the entry at another revision, without file hashes, sizes and metrics: they no longer apply."""
    if not (entry.source or "").startswith("hf://"):
        what = (
            f"'{entry.name}@{revision}': only hf:// sources have revisions, this source is {entry.source or 'not set'}"
        )
        raise NameNotFound(what, fix=f"zoo info {entry.name}")
    if not re.fullmatch(r"\w[\w./-]*", revision) or ".." in revision:
        what = f"'{entry.name}@{revision}': {revision!r} is not a valid branch, tag or commit"
        raise NameNotFound(what, fix=f"zoo info {entry.name}@main")
    return replace(
        entry,
        name=f"{entry.name}@{revision}",
        source=f"{(entry.source or '').partition('@')[0]}@{revision}",
        files=tuple(File(file.path) for file in entry.files),
        metrics={},
        aliases=(),
    )


def _not_found(name: str, merged: _Merged) -> NameNotFound:
    from difflib import get_close_matches

    full = {key: entry.name for label, entry in merged.labels.items() for key in _spellings(label)}
    close = [full[key] for key in get_close_matches(name.lower(), full, n=8, cutoff=0.6)]
    containing = [entry.name for entry in merged.entries.values() if name and name.lower() in entry.name.lower()]
    nearest = list(dict.fromkeys(close + containing))[:5]
    pattern = re.match(r"[a-z]*", name.rpartition("/")[2].lower())
    stem = pattern[0] if pattern and any(pattern[0] in entry.lower() for entry in merged.entries) else ""
    what = f"unknown backbone '{name}'{names.foreign_letter(name)}; nearest: {', '.join(nearest) or 'none'}"
    saved = "zoo runs   (lists saved models)" if name.startswith("runs/") else ""
    return NameNotFound(what, fix=saved or f"zoo list {stem}".strip())


def _spellings(label: str) -> Iterator[str]:
    """Yield a label in lower case: in full, without plugin, and its last part; each with and without its tag."""
    label = label.lower()
    for part in (label.rpartition("/")[2], label.partition("/")[2] or label, label):
        yield from (part.partition(".")[0], part)


def _merged(of: str | None = None) -> _Merged:
    """Merge all catalogues, or only those that may list names `of` one plugin.

    A user catalogue is read again if it has changed, and the saved models in it on every call.
    """
    labels = dict(_core_labels(core_path()))
    problems: dict[str, CatalogueError] = {}
    user_problems: dict[str, CatalogueError] = {}
    for plugin in installed().values():
        if plugin.catalogue and of in (None, plugin.name):
            try:
                _add(labels, _result(_plugin_labels(plugin.name, plugin.catalogue)))
            except CatalogueError as error:
                problems[plugin.name] = error
    for path in _user_paths():
        try:
            _add(labels, _by_label(_user_rows(path)))
        except CatalogueError as error:
            user_problems[str(path)] = error
    return _Merged({entry.name: entry for entry in labels.values()}, labels, problems, user_problems)


def _add(labels: dict[str, Entry], catalogue: Mapping[str, Entry]) -> None:
    """Add a catalogue to the labels, all or nothing. Raises CatalogueError if one of its labels is among them."""
    for label in labels.keys() & catalogue.keys():
        raise _defined_twice(label, labels[label], catalogue[label])
    labels.update(catalogue)


def _by_label(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Return entries by name and alias. Raises CatalogueError if two share one."""
    labels: dict[str, Entry] = {}
    for entry in entries:
        for label in (entry.name, *entry.aliases):
            if label in labels:
                raise _defined_twice(label, labels[label], entry)
            labels[label] = entry
    return labels


def _defined_twice(label: str, first: Entry, second: Entry) -> CatalogueError:
    what = f"'{label}' is defined twice: in {first.catalogue} and in {second.catalogue}"
    return CatalogueError(what, fix=f"rename one of the two in {second.catalogue}")


@lru_cache(maxsize=1)
def _core_labels(path: Path) -> Mapping[str, Entry]:
    return _by_label(entry_from_row(name, row, catalogue=path) for name, row in read_catalogue(path).items())


def _result(outcome: T | CatalogueError) -> T:
    """Return or raise the outcome of a cached function."""
    if isinstance(outcome, CatalogueError):
        raise outcome.with_traceback(None)
    return outcome


@lru_cache(maxsize=64)
def _plugin_labels(plugin: str, path: Path) -> Mapping[str, Entry] | CatalogueError:
    """Return the labels of a plugin's catalogue, or the error, so that it is read once."""
    try:
        return _checked_labels(plugin, path)
    except CatalogueError as error:
        return error


def _checked_labels(plugin: str, path: Path) -> Mapping[str, Entry]:
    with gc_disabled():
        entries = [entry_from_row(name, row, catalogue=path) for name, row in read_catalogue(path).items()]
    for entry in entries:
        stray = [label for label in (entry.name, *entry.aliases) if not label.startswith(f"{plugin}/")]
        if stray or entry.plugin != plugin:
            what = f"{path}: plugin '{plugin}' may not list '{(stray or [entry.name])[0]}' of plugin '{entry.plugin}'"
            raise CatalogueError(what, fix=f"start its names and aliases with {plugin}/ in {path}")
    return _by_label(entries)


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Disable cyclic GC while a catalogue is parsed or printed: there are no cycles, and GC takes half the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _user_rows(path: Path) -> tuple[Entry, ...]:
    stat = os.stat(path)
    table = _result(_user_table(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)).items()
    return tuple(
        _saved_entry(name, row, path) if "saved" in row else entry_from_row(name, row, catalogue=path)
        for name, row in table
    )


@lru_cache(maxsize=4)
def _user_table(path: Path, changed: int, size: int, inode: int) -> dict[str, Row] | CatalogueError:
    """Return the rows of a zoo.toml, or the error, so that one version of it is read once."""
    try:
        return read_catalogue(path)
    except CatalogueError as error:
        return error


def _user_paths() -> Iterable[Path]:
    """Return the existing zoo.toml files of the user's config folder and the working directory, without duplicates."""
    environ = os.environ
    config = environ.get("ZOO_CONFIG_HOME") or os.path.join(environ.get("XDG_CONFIG_HOME") or "~/.config", "zoo")
    paths = (os.path.join(os.path.expanduser(config), "zoo.toml"), "zoo.toml")
    return dict.fromkeys(Path(path).resolve() for path in paths if os.path.isfile(path))


def _saved_entry(name: str, row: Mapping[str, Any], catalogue: Path) -> Entry:
    """Return the entry of a saved model folder under a new name: its architecture, with the weights of that folder."""
    where = f'{catalogue}: ["{name}"] saved = {row["saved"]!r}'
    if not isinstance(row["saved"], str) or not set(row) <= {"saved", "aliases"}:
        raise CatalogueError(
            f"{where}: must be a folder, and only aliases may be given besides", fix=f"edit {catalogue}"
        )
    document = catalogue.parent / os.path.expanduser(row["saved"]) / "zoo.json"
    try:
        saved = read_json(document)
        files = [{"path": path, **facts} for path, facts in saved["files"].items()]
        renamed = {**saved["entry"], "name": name, "source": document.parent.resolve().as_uri(), "files": files}
        renamed["aliases"] = row.get("aliases", [])
    except FileNotFoundError as error:
        raise CatalogueError(f"{where}: {document} does not exist", fix=f"delete the row in {catalogue}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"{where}: {document} is damaged: {type(error).__name__}: {getattr(error, 'strerror', error)}"
        raise CatalogueError(what, fix=f"save the model again, or delete the row in {catalogue}") from error
    return replace(entry_from_row(name, renamed, catalogue=document), catalogue=str(catalogue))
