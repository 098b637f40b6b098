"""Load a model by its catalogue name or from a saved folder."""

from __future__ import annotations

import os
from pathlib import Path

from zoo import store
from zoo.catalogue import plugins, pushed, registry
from zoo.model import artefact
from zoo.model.device import resolve_device
from zoo.model.model import Model
from zoo.model.restore import restore
from zoo.plugin import Entry
from zoo.store import model_folders
from zoo.weights import loader


def load(name: str | os.PathLike[str], device: str = "auto") -> Model:
    """Load a backbone by its catalogue name, or a saved model by its folder or by the repository it was pushed to.

    name    as `zoo list` shows it, hf/org/name (or hf://org/name), or a folder
    device  "auto" (a GPU if there is one: cuda, xpu or mps), "cpu", "cuda", "cuda:1", …

    Raises NameNotFound, StoreError, WeightsError, PluginError or ArtefactError.
    """
    target = resolve_device(device)
    if isinstance(name, str) and name.startswith("hf://"):
        name = f"hf/{name.removeprefix('hf://')}"
    folder = _saved_folder(name)
    if not folder:
        return load_entry(registry.complete(registry.find(str(name))), device)
    model = Model.restored(restore(folder))
    model.module.eval()
    return model.to(target)


def load_entry(entry: Entry, device: str = "auto") -> Model:
    """Load the backbone of a complete catalogue entry. Raises StoreError, WeightsError or PluginError."""
    target = resolve_device(device)
    model = _of_entry(entry)
    model.module.eval()
    return model.to(target)


def _saved_folder(name: str | os.PathLike[str]) -> Path | None:
    """Return the folder of a saved model: a Path, a text that starts with ./ ../ / ~, or any folder that holds one."""
    path = Path(os.path.expanduser(name))
    explicit = not isinstance(name, str) or name.startswith((".", "/", "~"))
    return path if explicit or artefact.is_saved(path) else None


def _of_entry(entry: Entry) -> Model:
    plugin = plugins.load(entry.plugin)
    files = store.load(entry)
    if pushed.MANIFEST in files:
        return Model.restored(restore(model_folders.folder(files)))
    if entry.source is None:
        return Model(entry, loader.initialise(plugin, entry, files, seed=0), files, {"backbone": entry.name})
    provenance = {"backbone": entry.name, **(store.receipt(entry.name) or {})}
    return Model(entry, loader.load(plugin, entry, files), files, provenance)
