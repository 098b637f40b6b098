"""Scaffold of a new plugin: a working distribution with an example model to replace."""

from __future__ import annotations

import keyword
import tempfile
from pathlib import Path
from string import Template

from zoo.catalogue.discovery import installed
from zoo.errors import PluginError
from zoo.plugin import API

TEMPLATE = Path(__file__).parent / "template"
OVERLAYS = {"image": None, "text": Path(__file__).parent / "template_text"}
"""Folders of the template files that another modality replaces."""
MAX_LENGTH = 40


def new(name: str, where: Path | None = None, modality: str = "image") -> Path:
    """Create the distribution of a plugin in a new folder (default ./<name>-zoo) and return its path.

    Raises PluginError if the name is invalid or taken, the modality neither image nor text, or if the folder exists; no
    files are left behind.
    """
    _check(name)
    if modality not in OVERLAYS:
        raise PluginError(f"{modality!r} is not image or text", fix=f"zoo plugin new {name} --modality text")
    target = Path(f"{name}-zoo") if where is None else where
    if target.exists():
        raise PluginError(f"{target} already exists", fix=f"zoo plugin new {name} --folder another-folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            part = Path(folder) / target.name
            _render(part, name, modality)
            part.rename(target)
    except OSError as error:
        fix = f"zoo plugin new {name} --folder another-folder"
        raise PluginError(f"{target} cannot be written: {error.strerror}", fix=fix) from error
    return target


def _render(folder: Path, name: str, modality: str) -> None:
    values = {"name": name, "Name": name.title().replace("_", ""), "api": str(API)}
    values |= (
        {"data": "pictures/", "inputs": "images"} if modality == "image" else {"data": "mails.csv", "inputs": "texts"}
    )
    for template in filter(None, (TEMPLATE, OVERLAYS[modality])):
        for source in template.rglob("*.txt"):
            path = folder / _target_path(source.relative_to(template), name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(source.read_text(encoding="utf-8")).substitute(values), encoding="utf-8")


def _check(name: str) -> None:
    """Raise PluginError unless the name is a valid package and entry point name and not installed."""
    if not (name.isascii() and name.isidentifier() and name == name.lower()) or keyword.iskeyword(name):
        wanted = "use lowercase letters, digits and _, starting with a letter"
        raise PluginError(f"{name!r} is not a valid plugin name: {wanted}", fix="zoo plugin new acme")
    if len(name) > MAX_LENGTH or name.startswith("_"):
        raise PluginError(f"{name!r} is not a valid plugin name: too long, or starts with _", fix="zoo plugin new acme")
    if taken := installed().get(name):
        raise PluginError(f"{taken.label} is already installed", fix=f"zoo plugin new my_{name}")


def _target_path(path: Path, name: str) -> Path:
    """Return the path in the plugin of a template file."""
    text = path.as_posix().removesuffix(".txt").replace("NAME", name)
    return Path(".gitignore" if text == "gitignore" else text)
