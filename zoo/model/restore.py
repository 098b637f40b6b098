"""Restore what a saved folder holds: backbone, head, task, recipe and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo import tasks
from zoo.catalogue import plugins, rows
from zoo.errors import ArtefactError
from zoo.finetune import recipe as recipes
from zoo.finetune import setup
from zoo.finetune.recipe import Recipe
from zoo.model import artefact
from zoo.plugin import Backbone, Entry
from zoo.tasks import LANGUAGE, Task
from zoo.weights import loader, safetensors_file


@dataclass(frozen=True, slots=True)
class Restored:
    """A fine-tuned backbone with its head, and the manifest that describes them."""

    entry: Entry
    backbone: Backbone
    files: Mapping[str, Path]
    head: nn.Module
    task: Task
    recipe: Recipe
    manifest: Mapping[str, Any]


def restore(folder: Path) -> Restored:
    """Load a saved folder, weights memory-mapped on the CPU.

    Raises ArtefactError for a folder that is damaged or no saved model, PluginError, WeightsError.
    """
    manifest = artefact.read(folder)
    with artefact.understanding(folder):
        entry = rows.entry_from_row(manifest["entry"]["name"], manifest["entry"], catalogue=str(folder))
        task, recipe = tasks.from_dict(manifest["task"]), recipes.make(manifest["recipe"])
    plugin = plugins.load(entry.plugin)
    path = artefact.weights(folder, manifest)
    files = artefact.files(folder, manifest)
    backbone = loader.load(plugin, entry, files | {artefact.WEIGHTS: path})
    setup.check(task.name, entry)
    return Restored(entry, backbone, files, _load_head(task, backbone, path), task, recipe, manifest)


def _load_head(task: Task, backbone: Backbone, path: Path) -> nn.Module:
    if task.name in LANGUAGE:
        assert backbone.lm_head is not None
        return backbone.lm_head
    with torch.device("meta"):
        head = task.head(backbone.dim)
    state, _ = safetensors_file.read_state(path)
    mine = {name.removeprefix("head."): tensor for name, tensor in state.items() if name.startswith("head.")}
    try:
        head.load_state_dict(mine, strict=True, assign=True)
    except RuntimeError as error:
        raise ArtefactError(
            f"{path}: the head does not fit its {len(task.labels)} labels and {backbone.dim} features",
            fix="restore the folder from a copy, or fine-tune again",
        ) from error
    return head
