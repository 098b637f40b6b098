"""From a catalogue name or a saved folder to a Model."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from zoo import artefact, discovery, plan, registry, statefile, store, tasks, weights
from zoo.errors import ArtefactError, ZooError
from zoo.finetune import recipe as recipes
from zoo.model import Model
from zoo.plugin import Backbone, Entry
from zoo.tasks import LANGUAGE, Task


def load(name: str | os.PathLike[str], device: str = "auto") -> Model:
    """Load a backbone by its catalogue name, or a saved model by its folder.

    device  "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", …

    Raises NameNotFound, StoreError, WeightsError, PluginError or ArtefactError.
    """
    place = _device(device)
    folder = _saved_folder(name)
    model = _load_saved(folder) if folder else _load_entry(registry.complete(registry.find(str(name))))
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
    plugin = discovery.load(entry.plugin)
    files = store.pull(entry)
    if entry.source is None:
        return Model(entry, weights.initialise(plugin, entry, files, seed=0), files, {"backbone": entry.name})
    provenance = {"backbone": entry.name, **(store.receipt(entry.name) or {})}
    return Model(entry, weights.load(plugin, entry, files), files, provenance)


def _load_saved(folder: Path) -> Model:
    manifest = artefact.read(folder)
    with artefact.understanding(folder):
        entry = registry.entry_from_row(manifest["entry"]["name"], manifest["entry"], catalogue=str(folder))
        task, recipe = tasks.from_dict(manifest["task"]), recipes.make(manifest["recipe"])
    plugin = discovery.load(entry.plugin)
    path = artefact.weights(folder, manifest)
    files = artefact.files(folder, manifest)
    backbone = weights.load(plugin, entry, files | {artefact.WEIGHTS: path})
    plan.check(task.name, entry)
    model = Model(entry, backbone, files, manifest["provenance"])
    model.pretrained = True
    model.task, model.recipe = task, recipe
    model.head = _load_head(model.task, backbone, path)
    model.metrics, model.tested = manifest["metrics"], manifest["tested"]
    model.data, model.history = manifest["data"], manifest["history"]
    return model


def _load_head(task: Task, backbone: Backbone, path: Path) -> nn.Module:
    if task.name in LANGUAGE:
        assert backbone.lm_head is not None
        return backbone.lm_head
    with torch.device("meta"):
        head = task.head(backbone.dim)
    state, _ = statefile.read_state(path)
    mine = {name.removeprefix("head."): tensor for name, tensor in state.items() if name.startswith("head.")}
    try:
        head.load_state_dict(mine, strict=True, assign=True)
    except RuntimeError as error:
        raise ArtefactError(
            f"{path}: the head does not fit its {len(task.labels)} labels and {backbone.dim} features",
            fix="restore the folder from a copy, or fine-tune again",
        ) from error
    return head


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
