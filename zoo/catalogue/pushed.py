"""Repositories that `zoo push` has written: a saved model in the folder zoo/, beside what other libraries open."""

from __future__ import annotations

from dataclasses import replace

from zoo.catalogue.rows import entry_from_row, read_json
from zoo.errors import CatalogueError
from zoo.plugin import Entry, Repository
from zoo.store.model_folders import PUSHED

MANIFEST = f"{PUSHED}zoo.json"


class PushedModel(Exception):
    """The repository that a plugin is about to resolve holds a saved model, which has its own row."""

    def __init__(self, found: Repository) -> None:
        self.found = found
        super().__init__()


def entry(name: str, source: str, found: Repository) -> Entry:
    """Return the row of a saved model in a repository: that of its backbone, with the files of the saved folder."""
    try:
        row = read_json(found.fetch(MANIFEST)[MANIFEST])["entry"]
        made = entry_from_row(name, {**row, "name": name, "aliases": [], "files": [], "source": source}, catalogue="")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, CatalogueError) as error:
        what = f"{source}: {MANIFEST} is damaged: {getattr(error, 'what', error)}"
        raise CatalogueError(what, fix="zoo push MODEL organisation/name   (writes it again)") from error
    return replace(made, files=tuple(file for path, file in found.files.items() if path.startswith(PUSHED)))
