"""The conformance kit: `check_plugin("acme")` in a plugin's own tests tells whether core can rely on it.

`pytest --zoo-plugin acme` runs the same as one test for each row and rule, without a test file.
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
from zoo.errors import PluginError, ZooError
from zoo.plugin import Backbone, Entry, Plugin
from zoo.testing import isolation
from zoo.testing.rules import META_RULES, RUN_RULES, Broken, Case, no_network
from zoo.weights import loader

__all__ = ["META_RULES", "PROCESS_RULES", "RUN_RULES", "Check", "check_plugin", "checks"]
PROCESS_RULES = {"imported quietly and soon": isolation.imports, "works without other plugins": isolation.builds}


@dataclass(frozen=True, slots=True)
class Check:
    """One rule for one row (or for the plugin): `hold` raises a PluginError with both names and a fix."""

    where: str
    rule: str
    look: Callable[[], object]

    def hold(self) -> None:
        """Look; give whatever goes wrong the names of the plugin, the row and the rule."""
        with _naming(self.where, self.rule):
            self.look()


def check_plugin(plugin: str | Plugin, entries: Iterable[str | Entry] | None = None, *, run: bool = True) -> None:
    """Check every rule for every row of a plugin, and raise a PluginError that names plugin, row, rule and fix.

    plugin   the name it is installed under, or the object
    entries  only these rows (names or entries); an object that is not installed needs them
    run      False: check on the meta device only, which costs next to nothing for a large net
    """
    for check in checks(plugin, entries, run=run):
        check.hold()


def checks(plugin: str | Plugin, entries: Iterable[str | Entry] | None = None, *, run: bool = True) -> Iterator[Check]:
    """Yield what `check_plugin` checks, one rule of one row after the other."""
    loaded = plugins.load(plugin) if isinstance(plugin, str) else plugins.check(plugin, repr(plugin))
    chosen = _rows(plugin) if entries is None else [registry.find(e) if isinstance(e, str) else e for e in entries]
    if isinstance(plugin, str) and entries is None:
        for rule, holds in PROCESS_RULES.items():
            yield Check(f"plugin '{plugin}'", rule, partial(holds, plugins.installed()[plugin], chosen[0].name))
    for entry in chosen:
        row = _Row(loaded, entry)
        where = f"plugin '{entry.plugin}', {entry.name}"
        yield Check(where, "builds without network", partial(getattr, row, "empty"))
        yield from (Check(where, rule, partial(row.hold_empty, rule)) for rule in META_RULES)
        if run:
            yield Check(where, "takes its weights", partial(getattr, row, "filled"))
            yield from (Check(where, rule, partial(row.hold_filled, rule)) for rule in RUN_RULES)


class _Row:
    """A row, whose net is built when the first rule asks for it."""

    def __init__(self, plugin: Plugin, entry: Entry) -> None:
        self.plugin, self.entry = plugin, entry

    @cached_property
    def empty(self) -> Case:
        """The net on the meta device, with its files where they are on this machine."""
        plugin, entry = self.plugin, self.entry
        local = (entry.source or "").startswith(("file://", "package://")) or store.is_pulled(entry)
        files = store.pull(entry) if local else {}
        with no_network(), torch.device("meta"):
            empty: object = plugin.build(entry, files)
        if not isinstance(empty, Backbone) or not isinstance(empty.module, nn.Module):
            raise Broken(f"build returned {empty!r:.80}", "return a zoo.plugin.Backbone with a torch module")
        return Case(plugin, entry, files, empty)

    @cached_property
    def filled(self) -> Case:
        """The net with values: its own weights where they are on this machine, else random ones."""
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
        fix = "mend build, adapt or the net: the traceback shows where"
        raise PluginError(f"{where}, rule '{rule}': {type(error).__name__}: {error}", fix=fix) from error


def _rows(plugin: str | Plugin) -> list[Entry]:
    if not isinstance(plugin, str):
        raise PluginError(f"{plugin!r} was given without rows", fix="check_plugin(plugin, entries)")
    if problem := registry.problems().get(plugin):
        raise problem
    chosen = registry.search(plugin=plugin)
    if not chosen:
        raise PluginError(
            f"plugin '{plugin}' lists no rows", fix="ship catalogue.toml in the plugin's top-level package"
        )
    return chosen
