"""Conformance kit: `check_plugin("acme")` checks that a plugin follows the contract of zoo.plugin.

`pytest --zoo-plugin acme` runs the same checks as one test per row and rule, without a test file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import nn

from zoo import store
from zoo.catalogue import plugins, registry
from zoo.catalogue.discovery import installed
from zoo.catalogue.search import search
from zoo.errors import PluginError, ZooError
from zoo.plugin import Backbone, Entry, Plugin
from zoo.testing import isolation
from zoo.testing.rules import META_RULES, RUN_RULES, Broken, Case, no_network
from zoo.weights import loader

__all__ = ["META_RULES", "PROCESS_RULES", "RUN_RULES", "Check", "check_plugin", "checks"]
PROCESS_RULES = {"imports quietly and quickly": isolation.imports, "works without other plugins": isolation.builds}


@dataclass(frozen=True, slots=True)
class Check:
    """One rule for one row or for the plugin; `hold` raises PluginError naming plugin, row, rule and fix."""

    where: str
    rule: str
    look: Callable[[], object]

    def hold(self) -> None:
        """Run the check; any error becomes a PluginError naming plugin, row and rule."""
        with _naming(self.where, self.rule):
            self.look()


def check_plugin(plugin: str | Plugin, entries: Iterable[str | Entry] | None = None, *, run: bool = True) -> None:
    """Check every rule for every row of a plugin; raises PluginError naming plugin, row, rule and fix.

    plugin   name of an installed plugin, or a plugin object
    entries  rows to check (names or entries), default all; required for an object that is not installed
    run      False: check on the meta device only, which needs no memory for large models
    """
    for check in checks(plugin, entries, run=run):
        check.hold()


def checks(plugin: str | Plugin, entries: Iterable[str | Entry] | None = None, *, run: bool = True) -> Iterator[Check]:
    """Yield the checks of `check_plugin`, row by row and rule by rule."""
    loaded = plugins.load(plugin) if isinstance(plugin, str) else plugins.check(plugin, repr(plugin))
    chosen = _rows(plugin) if entries is None else [registry.find(e) if isinstance(e, str) else e for e in entries]
    if isinstance(plugin, str) and entries is None:
        for rule, holds in PROCESS_RULES.items():
            yield Check(f"plugin '{plugin}'", rule, partial(holds, installed()[plugin], chosen[0].name))
    for entry in chosen:
        row = _Row(loaded, entry)
        where = f"plugin '{entry.plugin}', {entry.name}"
        yield Check(where, "builds without network", partial(getattr, row, "empty"))
        yield from (Check(where, rule, partial(row.hold_empty, rule)) for rule in META_RULES)
        if run:
            yield Check(where, "loads its weights", partial(getattr, row, "filled"))
            yield from (Check(where, rule, partial(row.hold_filled, rule)) for rule in RUN_RULES)


class _Row:
    """A row whose backbone is built on first use."""

    def __init__(self, plugin: Plugin, entry: Entry) -> None:
        self.plugin, self.entry = plugin, entry

    @cached_property
    def empty(self) -> Case:
        """The backbone on the meta device, with its files if they are stored locally."""
        plugin, entry = self.plugin, self.entry
        local = (entry.source or "").startswith(("file://", "package://")) or store.is_pulled(entry)
        files = store.load(entry) if local else {}
        with no_network(), torch.device("meta"):
            empty: object = plugin.build(entry, files)
        if not isinstance(empty, Backbone) or not isinstance(empty.module, nn.Module):
            raise Broken(f"build returned {empty!r:.80}", "return a zoo.plugin.Backbone with a torch module")
        return Case(plugin, entry, files, empty)

    @cached_property
    def filled(self) -> Case:
        """The backbone with its weights if they are stored locally, else with random weights."""
        plugin, entry, files = self.plugin, self.entry, self.empty.files
        with no_network():
            real = loader.load(plugin, entry, files) if files else loader.initialise(plugin, entry, files, seed=0)
        return replace(self.empty, real=real)

    def hold_empty(self, rule: str) -> None:
        META_RULES[rule](self.empty)

    def hold_filled(self, rule: str) -> None:
        RUN_RULES[rule](self.filled)


@contextmanager
def _naming(where: str, rule: str) -> Iterator[None]:
    try:
        yield
    except (Broken, ZooError) as error:
        raise PluginError(f"{where}, rule '{rule}': {error.what}", fix=error.fix) from error
    except Exception as error:
        fix = "fix build, adapt or forward: see the traceback"
        raise PluginError(f"{where}, rule '{rule}': {type(error).__name__}: {error}", fix=fix) from error


def _rows(plugin: str | Plugin) -> list[Entry]:
    if not isinstance(plugin, str):
        raise PluginError(
            f"{plugin!r} needs rows: only installed plugins have a catalogue", fix="check_plugin(plugin, entries)"
        )
    if problem := registry.problems().get(plugin):
        raise problem
    chosen = search(plugin=plugin)
    if not chosen:
        raise PluginError(
            f"plugin '{plugin}' has no catalogue rows", fix="ship catalogue.toml in the plugin's top-level package"
        )
    return chosen
