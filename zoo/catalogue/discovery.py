"""Discover installed plugins through entry points, without importing them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from zoo.catalogue import names
from zoo.store import regular_file

GROUP = "zoo.plugins"
OWNER, RESERVED = "backbone_zoo", ("native", "timm", "hf")
"""The distribution of the first-party plugins, whose names no other distribution may register."""
ENTRY_POINTS_BYTES, METADATA_BYTES = 64 << 10, 16 << 20
"""Maximum size of these files of a distribution in bytes."""


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


def fingerprint(plugin: Installed) -> str:
    """Return a hash of what an import depends on: Python, the names of all distributions, the plugin's files."""
    import hashlib
    from importlib.util import find_spec

    seen = hashlib.sha256(sys.version.encode())
    for folder in sys.path:
        seen.update("\n".join(sorted(info.name for info in _distributions(folder or "."))).encode(errors="replace"))
    spec = find_spec(plugin.target.partition(":")[0].partition(".")[0])
    paths = [str(spec.origin)] if spec else []
    for package in (spec.submodule_search_locations or ()) if spec else ():
        paths += [os.path.join(folder, name) for folder, _, files in os.walk(package) for name in files]
    for path in sorted(paths):
        if path.endswith((".py", ".so", ".pyd")) and os.path.isfile(path):
            stat = os.stat(path)
            seen.update(f"{path} {stat.st_mtime_ns} {stat.st_size}\n".encode(errors="replace"))
    return seen.hexdigest()


@lru_cache(maxsize=8)
def _installed(path: tuple[str, ...]) -> dict[str, Installed]:
    found: dict[str, Installed] = {}
    for key, plugin in _registered(path):
        checked = _refused(key, plugin) or _with_catalogue(plugin)
        other = found.get(checked.name)
        found[checked.name] = checked if other is None else _duplicate(other, checked)
    return dict(sorted(found.items()))


def _refused(key: str, plugin: Installed) -> Installed | None:
    """Return a plugin that may not have its name, or whose entry point cannot be used, with the problem."""
    fix = f"pip uninstall {plugin.distribution}   (or, as its author, correct the entry point)"
    if plugin.name.lower() in RESERVED and key != OWNER:
        problem = f"the name '{plugin.name}' is reserved for the plugin of backbone-zoo"
        return replace(plugin, name=f"{plugin.name} ({key})", problem=problem, fix=fix)
    if not names.PLUGIN.fullmatch(plugin.name) or len(plugin.name) > names.LONGEST:
        problem = "its name is not up to 255 ASCII letters, digits and . _ + -" + names.foreign_letter(plugin.name)
        return replace(plugin, problem=problem, fix=fix)
    module, colon, attribute = plugin.target.partition(":")
    if not all(map(str.isidentifier, module.split(".") + (attribute.split(".") if colon else []))):
        return replace(plugin, problem="its entry point is not of the form module:object", fix=fix)
    return None


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
    except Exception:  # noqa: BLE001  # a broken import hook, or a half-imported module without a spec
        spec = None
    if spec is None:
        fix = f"pip install --force-reinstall {plugin.distribution}"
        return replace(plugin, problem=f"its package '{package}' is not installed", fix=fix)
    for folder in spec.submodule_search_locations or ():
        for name in ("catalogue.toml", "catalogue.json"):
            if (path := Path(folder, name)).is_file():
                return replace(plugin, catalogue=path)
    return plugin


def _registered(path: tuple[str, ...]) -> Iterator[tuple[str, Installed]]:
    """Yield (normalised distribution name, plugin) on `path`; of two copies of a distribution the first wins.

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
                yield key, Installed(name, distribution, version, target)


def _distributions(folder: str) -> list[os.DirEntry[str]]:
    try:
        return [item for item in os.scandir(folder) if item.name.endswith((".dist-info", ".egg-info"))]
    except OSError:  # sys.path may contain archives and missing folders
        return []


def _entry_points(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (name, target) of group zoo.plugins in an entry_points.txt: INI lines of `name = target [extras]`."""
    try:
        text = regular_file.read_bytes(path, ENTRY_POINTS_BYTES).decode("utf-8")
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
            text = regular_file.read_bytes(Path(info.path, file), METADATA_BYTES).decode("utf-8", "replace")
        except OSError:
            continue
        fields.update(
            re.findall(r"^(Name|Version):\s*([\w.+!-]+)\s*$", text.partition("\n\n")[0], re.MULTILINE | re.ASCII)
        )
    return fields["Name"], fields["Version"]
