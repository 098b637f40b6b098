"""Write a plugin: a distribution that works at once, for its author to put a net of their own into."""

from __future__ import annotations

import keyword
import tempfile
from pathlib import Path
from string import Template

from zoo.catalogue import plugins
from zoo.errors import PluginError
from zoo.plugin import API

TEMPLATE = Path(__file__).parent / "template"
LONGEST = 40


def new(name: str, where: Path | None = None) -> Path:
    """Write the distribution of a plugin called `name` into a new folder (./<name>-zoo); returns it.

    Raises PluginError for a name that cannot be one, or is taken, and for a folder that is there; nothing is left then.
    """
    _check(name)
    target = Path(f"{name}-zoo") if where is None else where
    if target.exists():
        raise PluginError(f"{target} is there already", fix=f"zoo plugin new {name} --folder another-folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            part = Path(folder) / target.name
            _fill(part, name)
            part.rename(target)
    except OSError as error:
        fix = f"zoo plugin new {name} --folder another-folder"
        raise PluginError(f"{target} cannot be written: {error.strerror}", fix=fix) from error
    return target


def _fill(folder: Path, name: str) -> None:
    values = {"name": name, "Name": name.title().replace("_", ""), "api": str(API)}
    for source in TEMPLATE.rglob("*.txt"):
        path = folder / _named(source.relative_to(TEMPLATE), name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(source.read_text(encoding="utf-8")).substitute(values), encoding="utf-8")


def _check(name: str) -> None:
    """Raise PluginError unless the name can be that of a Python package and of an entry point, and is free."""
    if not (name.isascii() and name.isidentifier() and name == name.lower()) or keyword.iskeyword(name):
        wanted = "small letters, digits and _, beginning with a letter"
        raise PluginError(f"{name!r} cannot be the name of a plugin: it takes {wanted}", fix="zoo plugin new acme")
    if len(name) > LONGEST or name.startswith("_"):
        raise PluginError(f"{name!r} cannot be the name of a plugin", fix="zoo plugin new acme")
    if taken := plugins.installed().get(name):
        raise PluginError(f"{taken.label} is installed already", fix=f"zoo plugin new my_{name}")


def _named(path: Path, name: str) -> Path:
    """Return what a file of the template is called in the plugin."""
    text = path.as_posix().removesuffix(".txt").replace("NAME", name)
    return Path(".gitignore" if text == "gitignore" else text)
