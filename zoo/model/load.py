"""From a catalogue name or a saved folder to a Model."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from zoo import store
from zoo.catalogue import plugins, registry
from zoo.errors import ZooError
from zoo.model import artefact
from zoo.model.model import Model
from zoo.model.restore import restore
from zoo.plugin import Entry
from zoo.weights import loader


def load(name: str | os.PathLike[str], device: str = "auto") -> Model:
    """Load a backbone by its catalogue name, or a saved model by its folder.

    device  "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", …

    Raises NameNotFound, StoreError, WeightsError, PluginError or ArtefactError.
    """
    place = _device(device)
    folder = _saved_folder(name)
    model = Model.restored(restore(folder)) if folder else _load_entry(registry.complete(registry.find(str(name))))
    model.backbone.module.to(place).eval()
    if model.head is not None:
        model.head.to(place).eval()
    return model


def _saved_folder(name: str | os.PathLike[str]) -> Path | None:
    """Tell a path from a name: a Path, what starts like one (./ ../ / ~), or a folder that holds a saved model."""
    path = Path(name).expanduser()
    explicit = not isinstance(name, str) or name.startswith((".", "/", "~"))
    return path if explicit or artefact.is_saved(path) else None


def _load_entry(entry: Entry) -> Model:
    plugin = plugins.load(entry.plugin)
    files = store.pull(entry)
    if entry.source is None:
        return Model(entry, loader.initialise(plugin, entry, files, seed=0), files, {"backbone": entry.name})
    provenance = {"backbone": entry.name, **(store.receipt(entry.name) or {})}
    return Model(entry, loader.load(plugin, entry, files), files, provenance)


def _device(name: str) -> torch.device:
    if name == "auto":
        place = os.environ.get("LOCAL_RANK", "0")  # one GPU for each process that was launched on this machine
        return torch.device(f"cuda:{place}" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ZooError(
            f"device={name!r} cannot be used: {str(error).splitlines()[0]}", fix='device="auto", or "cpu"'
        ) from error
    return device
