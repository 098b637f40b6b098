"""Import plugins when they are used, and check that they implement the plugin API."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

from zoo import plugin as contract
from zoo.catalogue.discovery import RESERVED, Installed, fingerprint, installed
from zoo.errors import PluginError
from zoo.plugin import Plugin
from zoo.store.paths import home

METHODS = {
    "build": ("entry", "files"),
    "adapt": ("entry", "state", "files"),
    "resolve": ("name", "look"),
    "classifier": ("entry", "state", "files"),
}
_trials = False
"""Whether third-party plugins are imported in a subprocess first."""


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


@contextmanager
def trials() -> Iterator[None]:
    """Within the block, import third-party plugins in a subprocess first: one that crashes or exits is an error."""
    global _trials
    before, _trials = _trials, True
    try:
        yield
    finally:
        _trials = before


@cache
def _load(plugin: Installed) -> Plugin:
    if plugin.problem:
        raise PluginError(f"{plugin.label}: {plugin.problem}", fix=plugin.fix or "zoo plugins")
    if _trials and plugin.name not in RESERVED:
        _try(plugin)
    process = os.getpid()
    try:
        return check(_import(plugin), plugin.label)
    except (PluginError, KeyboardInterrupt):
        raise
    except BaseException as error:
        what = f"{plugin.label}: cannot be used: {_words(error)}"
        raise PluginError(what, fix=_import_fix(plugin, error)) from error
    finally:
        if os.getpid() != process:  # the plugin forked: one process goes on
            os._exit(0)


def _try(plugin: Installed) -> None:
    """Import a plugin in a subprocess, unless that worked before with the same files and distributions."""
    from zoo.catalogue import isolated_import  # imports tempfile and subprocess

    passed, state = home() / "plugins" / plugin.name, fingerprint(plugin)
    with suppress(OSError, UnicodeDecodeError):
        if passed.read_text(encoding="utf-8") == state:
            return
    api = isolated_import.apis([plugin.name], quiet=True)[plugin.name]
    if isinstance(api, PluginError):
        raise api
    with suppress(OSError):  # a read-only store: tried again
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.write_text(state, encoding="utf-8")


def _words(error: BaseException) -> str:
    """Return type and text of an error, whose own __str__ may fail."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001
        return type(error).__name__


def _import(plugin: Installed) -> object:
    from importlib import import_module

    module_name, _, attribute = plugin.target.partition(":")
    try:
        with _stdout_to_stderr():
            found: object = import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        what = f"{plugin.label}: cannot be imported: {_words(error)}"
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
