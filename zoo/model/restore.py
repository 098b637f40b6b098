"""Restore what a saved folder holds: backbone, head, task, recipe and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from zoo import tasks
from zoo.catalogue import plugins, rows
from zoo.data.summary import DataSummary
from zoo.errors import ArtefactError
from zoo.finetune import defaults
from zoo.finetune.defaults import Hyperparameters
from zoo.finetune.features.stage_outputs import StageOutput
from zoo.finetune.heads import restored_head
from zoo.finetune.setup import check_task
from zoo.model import artefact
from zoo.plugin import Backbone, Entry
from zoo.tasks import Task
from zoo.weights import loader, safetensors_file


@dataclass(frozen=True, slots=True)
class Restored:
    """A fine-tuned backbone with its head, and the manifest that describes them."""

    entry: Entry
    backbone: Backbone
    files: Mapping[str, Path]
    head: nn.Module
    task: Task
    recipe: Hyperparameters
    summary: DataSummary
    manifest: Mapping[str, Any]
    folder: Path


def restore(folder: Path) -> Restored:
    """Load a saved folder, weights memory-mapped on the CPU.

    Raises ArtefactError for a folder that is damaged or no saved model, PluginError, WeightsError.
    """
    manifest = artefact.read(folder)
    with artefact.understanding(folder):
        entry = rows.entry_from_row(manifest["entry"]["name"], manifest["entry"], catalogue=str(folder))
        task, recipe = tasks.from_dict(manifest["task"]), defaults.restore(manifest["recipe"])
        summary = DataSummary.from_dict(manifest["data"])
        stages = [StageOutput(**stage) for stage in manifest.get("stages", [])]
    plugin = plugins.load(entry.plugin)
    path = artefact.weights(folder, manifest)
    files = artefact.files(folder, manifest)
    backbone = loader.load(plugin, entry, files | {artefact.WEIGHTS: path})
    check_task(task.name, entry)
    state, _ = safetensors_file.read_state(path)
    try:
        head = restored_head(backbone, task, state, stages)
    except ValueError as error:
        raise ArtefactError(
            f"{path}: the head does not fit its {len(task.labels)} labels and {backbone.dim} features: {error}",
            fix="restore the folder from a copy, or fine-tune again",
        ) from error
    return Restored(entry, backbone, files, head, task, recipe, summary, manifest, folder)
