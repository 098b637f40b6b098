"""Write a plugin: a distribution that works at once, for its author to put a net of their own into."""

from __future__ import annotations

import keyword
import os
import shutil
import tempfile
from pathlib import Path
from string import Template

from zoo import discovery
from zoo.errors import PluginError
from zoo.plugin import API

TEMPLATE = Path(__file__).parent / "template"
LONGEST = 40


def new(name: str, folder: Path | None = None) -> Path:
    """Write the distribution of a plugin called `name` into a new folder (./<name>-zoo); returns it.

    Raises PluginError for a name that cannot be one, or is taken, and for a folder that is there; nothing is left then.
    """
    _check(name)
    target = Path(f"{name}-zoo") if folder is None else folder
    if target.exists():
        raise PluginError(f"{target} is there already", fix=f"zoo plugin new {name} --folder another-folder")
    values = {"name": name, "Name": name.title().replace("_", ""), "api": str(API)}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        fix = f"zoo plugin new {name} --folder another-folder"
        raise PluginError(f"{target} cannot be written: {error.strerror}", fix=fix) from error
    try:
        for source in sorted(path for path in TEMPLATE.rglob("*.txt")):
            path = part / _named(source.relative_to(TEMPLATE), name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(Template(source.read_text(encoding="utf-8")).substitute(values), encoding="utf-8")
        part.chmod(0o777 & ~_umask())
        os.rename(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _check(name: str) -> None:
    """Raise PluginError unless the name can be that of a Python package and of an entry point, and is free."""
    if not (name.isascii() and name.isidentifier() and name == name.lower()) or keyword.iskeyword(name):
        wanted = "small letters, digits and _, beginning with a letter"
        raise PluginError(f"{name!r} cannot be the name of a plugin: it takes {wanted}", fix="zoo plugin new acme")
    if len(name) > LONGEST or name.startswith("_"):
        raise PluginError(f"{name!r} cannot be the name of a plugin", fix="zoo plugin new acme")
    if taken := discovery.installed().get(name):
        raise PluginError(f"{taken.label} is installed already", fix=f"zoo plugin new my_{name}")


def _named(path: Path, name: str) -> Path:
    """Return what a file of the template is called in the plugin."""
    text = path.as_posix().removesuffix(".txt").replace("NAME", name)
    return Path(".gitignore" if text == "gitignore" else text)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
