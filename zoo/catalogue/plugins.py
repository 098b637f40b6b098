"""Discover installed plugins through entry points and import them lazily."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

from zoo import plugin as contract
from zoo.errors import PluginError
from zoo.plugin import Plugin

GROUP = "zoo.plugins"
METHODS = {
    "build": ("entry", "files"),
    "adapt": ("entry", "state", "files"),
    "resolve": ("name", "look"),
    "classifier": ("entry", "state", "files"),
}


@dataclass(frozen=True, slots=True)
class Installed:
    """A registered plugin; `problem` is why it cannot be used, None if it can, and `fix` what to do about it."""

    name: str
    distribution: str
    version: str
    target: str
    catalogue: Path | None = None
    problem: str | None = None
    fix: str | None = None

    @property
    def label(self) -> str:
        """The plugin, its distribution and its target, as shown in error messages."""
        return f"plugin '{self.name}' ({self.distribution} {self.version}, {self.target})"


def installed() -> dict[str, Installed]:
    """Return the registered plugins by name, in alphabetical order, without importing them."""
    return dict(_installed(tuple(sys.path)))


def load(name: str) -> Plugin:
    """Import a plugin and check that it implements the plugin API. Raises PluginError if it cannot be used."""
    plugins = installed()
    if name not in plugins:
        raise PluginError(
            f"no plugin '{name}' is installed; installed: {', '.join(plugins) or 'none'}",
            fix="zoo plugins   (lists them; pip install the distribution that provides the missing one)",
        )
    return _load(plugins[name])


def check(plugin: object, label: str) -> Plugin:
    """Return `plugin` if it implements the API of zoo.plugin, else raise PluginError; `label` names it there."""
    if isinstance(plugin, type):
        raise PluginError(
            f"{label}: is a class, not an instance", fix=f"register an instance: plugin = {plugin.__name__}()"
        )
    _check_api(plugin, label)
    for method, arguments in METHODS.items():
        _check_method(plugin, method, arguments, label)
    return plugin  # type: ignore[return-value]  # checked above by its attributes


def _check_api(plugin: object, label: str) -> None:
    api = getattr(plugin, "api", None)
    if not isinstance(api, int) or isinstance(api, bool) or api < 1:
        raise PluginError(
            f"{label}: api is {api!r}, not the version of the plugin API it was written for",
            fix=f"add to the plugin class: api = {contract.API}",
        )
    if api > contract.API:
        raise PluginError(
            f"{label}: is written for plugin API {api}, this zoo has plugin API {contract.API}",
            fix="pip install --upgrade backbone-zoo",
        )
    if edits := [edit for version, edit in sorted(contract.CHANGES.items()) if version > api]:
        raise PluginError(
            f"{label}: is written for plugin API {api}, this zoo has plugin API {contract.API}",
            fix=f"upgrade the plugin, or as its author: {'; '.join(edits)}; then set api = {contract.API}",
        )


def _check_method(plugin: object, method: str, arguments: tuple[str, ...], label: str) -> None:
    import inspect

    call = f"{method}({', '.join(arguments)})"
    function = getattr(plugin, method, None)
    # Plugin.build has no body: a subclass that does not override it has no `build`.
    if not callable(function) or getattr(function, "__func__", None) is Plugin.build:
        edit = f"define {call}" if method == "build" else f"inherit from zoo.plugin.Plugin, or define {call}"
        raise PluginError(f"{label}: has no method {call}", fix=edit)
    try:
        inspect.signature(function).bind(*arguments)
    except ValueError:  # some callables written in C have no signature
        return
    except TypeError as error:
        signature = inspect.signature(function)
        raise PluginError(f"{label}: {method}{signature} cannot be called as {call}", fix=f"define {call}") from error


@cache
def _load(plugin: Installed) -> Plugin:
    if plugin.problem:
        raise PluginError(f"{plugin.label}: {plugin.problem}", fix=plugin.fix or "zoo plugins")
    return check(_import(plugin), plugin.label)


def _import(plugin: Installed) -> object:
    from importlib import import_module

    module_name, _, attribute = plugin.target.partition(":")
    try:
        with _stdout_to_stderr():
            found: object = import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        what = f"{plugin.label}: cannot be imported: {type(error).__name__}: {error}"
        raise PluginError(what, fix=_import_fix(plugin, error)) from error
    try:
        for part in filter(None, attribute.split(".")):
            found = getattr(found, part)
    except AttributeError as error:
        raise PluginError(
            f"{plugin.label}: {error}",
            fix=f"define {attribute} in {module_name}, or correct the entry point in its pyproject.toml",
        ) from error
    return found


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Redirect stdout to stderr within the block, for C code too: it must not end up in a --json document."""
    from contextlib import redirect_stdout

    with redirect_stdout(sys.stderr):
        try:
            sys.__stdout__.flush()  # type: ignore[union-attr]  # None (AttributeError): nothing to redirect
            before = os.dup(1)
        except (OSError, AttributeError, ValueError):
            yield
            return
        try:
            os.dup2(2, 1)
            yield
        finally:
            os.dup2(before, 1)
            os.close(before)


def _import_fix(plugin: Installed, error: BaseException) -> str:
    missing = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and missing not in (
        "",
        plugin.target.partition(":")[0].partition(".")[0],
    ):
        return f"pip install {missing}"
    return f"pip install --force-reinstall {plugin.distribution}   (or: pip uninstall {plugin.distribution})"


@lru_cache(maxsize=8)
def _installed(path: tuple[str, ...]) -> dict[str, Installed]:
    found: dict[str, Installed] = {}
    for plugin in _registered(path):
        other = found.get(plugin.name)
        found[plugin.name] = _with_catalogue(plugin) if other is None else _duplicate(other, plugin)
    return dict(sorted(found.items()))


def _duplicate(first: Installed, second: Installed) -> Installed:
    both = f"{first.distribution} {first.version} and {second.distribution} {second.version}"
    problem = f"is registered by two distributions: {both}"
    fix = f"pip uninstall {first.distribution}   (or: pip uninstall {second.distribution})"
    return replace(first, catalogue=None, problem=problem, fix=fix)


def _with_catalogue(plugin: Installed) -> Installed:
    """Set the catalogue path: find_spec locates the plugin's top-level package without importing it."""
    from importlib.util import find_spec

    package = plugin.target.partition(":")[0].partition(".")[0]
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):  # a broken import hook, or a half-imported module without a spec
        spec = None
    if spec is None:
        fix = f"pip install --force-reinstall {plugin.distribution}"
        return replace(plugin, problem=f"its package '{package}' is not installed", fix=fix)
    for folder in spec.submodule_search_locations or ():
        for name in ("catalogue.toml", "catalogue.json"):
            if (path := Path(folder, name)).is_file():
                return replace(plugin, catalogue=path)
    return plugin


def _registered(path: tuple[str, ...]) -> Iterator[Installed]:
    """Yield the plugins that the distributions on `path` register; of two copies of a distribution the first wins.

    importlib.metadata.entry_points() returns the same but takes 18 ms, mostly to import email and zipfile: a fifth of
    the time budget of `zoo list`. Opening the entry_points.txt of 100 distributions takes 1 ms.
    """
    seen = set()
    for folder in path:
        for info in _distributions(folder or "."):
            key = re.sub(r"[-_.]+", "_", info.name.rpartition(".")[0].partition("-")[0]).lower()
            if key in seen:
                continue
            seen.add(key)
            for name, target in _entry_points(Path(info.path, "entry_points.txt")):
                distribution, version = _identity(info)
                yield Installed(name, distribution, version, target)


def _distributions(folder: str) -> list[os.DirEntry[str]]:
    try:
        return [item for item in os.scandir(folder) if item.name.endswith((".dist-info", ".egg-info"))]
    except OSError:  # sys.path may contain archives and missing folders
        return []


def _entry_points(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, target) of group zoo.plugins in an entry_points.txt: INI lines of `name = target [extras]`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    if GROUP not in text:
        return
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            section = line.strip("[] ")
        elif section == GROUP and "=" in line and not line.startswith(("#", ";")):
            name, _, target = line.partition("=")
            yield name.strip(), target.partition("[")[0].replace(" ", "")


def _identity(info: os.DirEntry[str]) -> tuple[str, str]:
    """Return the name and version of a distribution from its metadata, else from its folder name."""
    name, _, version = info.name.rpartition(".")[0].partition("-")
    fields = {"Name": name, "Version": version}
    for file in ("METADATA", "PKG-INFO"):
        try:
            header = Path(info.path, file).read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        except OSError:
            continue
        fields.update(re.findall(r"^(Name|Version):\s*(\S+)", header, re.MULTILINE))
    return fields["Name"], fields["Version"]
