"""Fine-tune a Model: from a request to its new head, weights and metrics."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from zoo import tasks
from zoo.catalogue import plugins, rows
from zoo.console import say
from zoo.data.summary import DataSummary
from zoo.errors import ArtefactError, PluginError, RecipeError
from zoo.finetune import callbacks, messages, setup, strategies
from zoo.finetune.defaults import Hyperparameters
from zoo.finetune.heads import pretrained_head, stages_of
from zoo.finetune.job import Job
from zoo.finetune.runtime import distributed
from zoo.finetune.runtime.workers import one_thread_each
from zoo.finetune.setup import Request
from zoo.finetune.strategies import Outcome
from zoo.finetune.training import dry_run, recording
from zoo.finetune.training.checkpoint import Checkpointer, check_same_request, checkpointer
from zoo.finetune.training.execution import provenance
from zoo.finetune.training.lr_finder import LearningRates
from zoo.model import artefact, folds
from zoo.model.measurement import Measurement
from zoo.model.restore import Restored, restore
from zoo.plugin import Backbone, Classifier, Entry
from zoo.store import out_folder
from zoo.tasks import Task
from zoo.weights import loader


class Trainable(Protocol):
    """What fine-tuning reads and writes of a Model."""

    entry: Entry
    backbone: Backbone
    files: dict[str, Path]
    pretrained: bool
    weights_id: str
    head: nn.Module | None
    task: Task | None
    recipe: Hyperparameters | None
    history: list[dict[str, float]]
    metrics: dict[str, float]
    tested: dict[str, float]
    summary: DataSummary | None
    training: dict[str, Any]
    folder: Path | None

    @property
    def device(self) -> torch.device:
        """Device of the backbone."""
        ...

    def measure(self, data: object) -> Measurement:
        """Measure on labelled data."""
        ...

    def save(self, folder: Path) -> Path:
        """Save to a new folder."""
        ...


def finetune(model: Trainable, request: Request, out: Path | None, *, resume: bool) -> None:
    """Carry out a request, save to `out`, and report on the way."""
    if out is not None:
        out_folder.check_free(out)
    with distributed.process_group(model.device), one_thread_each():
        start = time.monotonic()
        checkpoints = checkpointer(out, request.recipe.save_every, resume=resume)
        data = setup.read_data(request, model.entry, streams=True)
        with _claimed(model, out):
            identity = _identity(model, request, data)
            checkpoints.begin(identity)
            scores: dict[str, Any] = {}
            if request.folds:
                scores["folds"] = folds.cross_validate(
                    model, request, data, lambda asked, part: _run(model, asked, part, Checkpointer())
                )
            _run(model, request, data, checkpoints)
            model.weights_id = digest([model.weights_id, identity])
            recorded = {"request": identity, "split": _split(request)}
            recorded |= {"fixes": data.fixed.to_dict()} if data.fixed else {}
            model.training |= {"seconds": round(time.monotonic() - start, 2)} | recorded | scores
            if out is not None and distributed.rank() == 0:
                model.save(out)
            checkpoints.remove()
            distributed.barrier()


def check_report(request: Request, out: Path | None) -> None:
    """Raise RecipeError where no report can be written after a run: without a folder, and on a stream."""
    if out is None:
        fix = 'out="runs/model"; or afterwards: model.report("report.html")'
        raise RecipeError("report=True writes to the folder of the model, and there is none", fix=fix)
    if request.is_stream:
        what = "report=True reads the training data again as a whole, and this is a stream"
        raise RecipeError(what, fix='afterwards, on data of its own: model.report("report.html", "test/")')


def _split(request: Request) -> dict[str, Any]:
    """Return what reads the same data again, and divides it in the same way; None for data in memory."""
    sources = {"data": request.data, "valid": request.valid, "test": request.test}
    named = {name: str(each) if isinstance(each, os.PathLike) else each for name, each in sources.items()}
    if request.is_stream:
        named["data"] = None
    known = {name: each if isinstance(each, str | int | float) else None for name, each in named.items()}
    return known | {"task": request.task, "folds": request.folds}


@contextmanager
def _claimed(model: Trainable, out: Path | None) -> Iterator[None]:
    """Lock the working folder of `out` by the first process of the run, and copy the files to save into it."""
    if out is None or distributed.rank() > 0:
        yield
        return
    with out_folder.claim(out) as working:
        try:
            artefact.copy_files(working, model.files)
        except OSError as error:
            what = f"the files of {model.entry.name} cannot be copied to {working}: {error}"
            raise ArtefactError(
                what, fix="free some disk space, or choose another folder: --out ~/runs/model"
            ) from error
        yield


def _run(model: Trainable, request: Request, data: setup.Data, checkpoints: Checkpointer) -> None:
    """Train and measure."""
    job = _make_job(model, request, data)
    _check_can_be_saved(model, job)
    parameters = sum(parameter.numel() for parameter in model.backbone.module.parameters())
    say("backbone", messages.backbone(model.entry, parameters, tuned=model.head is not None))
    _say_strategy(request, job)
    if job.hp.strategy == "scratch":
        _reinitialise(model, job.hp.seed)
    facts = {"backbone": model.entry.name, "data": job.summary.origin, "examples": job.examples, "hp": asdict(job.hp)}
    recorders = callbacks.check(recording.recorders(request.track, checkpoints.folder, facts))
    job = replace(job, callbacks=(*job.callbacks, *recorders))
    with callbacks.told_of_end(job.callbacks, lambda: _all_metrics(model)):
        outcome = strategies.run(model.backbone, job, checkpoints)
        _adopt(model, outcome, job)
        _report(model, data, job, outcome)


def _all_metrics(model: Trainable) -> dict[str, float]:
    valid = {f"valid_{name}": value for name, value in model.metrics.items()}
    return valid | {f"test_{name}": value for name, value in model.tested.items()}


def _report(model: Trainable, data: setup.Data, job: Job, outcome: Outcome) -> None:
    """Print the results on the validation data; measure and print those on the test data."""
    intervals = model.training["intervals"] = {"valid": outcome.intervals, "test": {}}
    if job.valid is not None:
        shown, tested = messages.metrics(model.metrics, intervals["valid"]), data.test is not None
        say(
            "result",
            shown + messages.reference(model.metrics, job.task, job.valid_labels, model.history, tested=tested),
        )
        if job.task.name == "regress" and outcome.outputs is not None and len(job.task.labels) > 1:
            say("", messages.of_each_number(job.task.per_class(outcome.outputs, job.valid.targets)))
        unbalanced = job.hp.class_balance == "none"  # otherwise rare classes count more than the score says
        if unbalanced and job.task.is_no_better_than_baseline(model.metrics, job.valid_labels):
            say("warning", messages.no_better_than_baseline(job.task, job.valid_labels, job.hp.strategy))
    if data.test is not None:
        measured = model.measure(data.test)
        model.tested, intervals["test"] = measured.metrics, measured.intervals
        shown = messages.metrics(model.tested, intervals["test"])
        say("test", shown + messages.tested(len(data.test), job.summary.test_duplicates or 0))


def _say_strategy(request: Request, job: Job) -> None:
    known = job.head is not None
    say("strategy", messages.strategy(job, pretrained_head=known))
    for number, line in enumerate(messages.recipe(job.hp, job.examples)):
        say("" if number else "recipe", line)


def plan(model: Trainable, request: Request) -> dry_run.Plan:
    """Report what a request would do and take, without training; the model is unchanged afterwards."""
    before = model.entry, model.backbone
    try:
        job = _make_job(model, request, setup.read_data(request, model.entry, streams=True))
        _check_can_be_saved(model, job)
        _say_strategy(request, job)
        with one_thread_each():
            found = dry_run.plan(model.backbone, job)
        say("plan", str(found))
        return found
    finally:
        model.entry, model.backbone = before


def _check_can_be_saved(model: Trainable, job: Job) -> None:
    """Raise ArtefactError, before the training, if the manifest could not be read back."""
    parts = {"entry": rows.row_from_entry(model.entry), "task": job.task.to_dict(), "data": job.summary.to_dict()}
    try:
        tasks.from_dict(artefact.as_read(parts)["task"])
    except (ValueError, RecursionError) as error:
        what = f"the fine-tuned model could not be loaded: {error}"
        raise ArtefactError(what, fix="rename the labels (or class folders) and columns of the data") from error


def find_lr(model: Trainable, request: Request) -> LearningRates:
    """Suggest a learning rate for a request; the model is unchanged afterwards."""
    before = model.entry, model.backbone
    if request.recipe.strategy == "auto":
        request = replace(request, recipe=replace(request.recipe, strategy="full" if model.pretrained else "scratch"))
    try:
        job = _make_job(model, request, setup.read_data(request, model.entry, streams=True))
        if job.hp.strategy == "scratch":
            _reinitialise(model, job.hp.seed)
        with one_thread_each():
            found = strategies.find_lr(model.backbone, job)
        say("find lr", f"lr={found.lr:g}   (steepest fall of the loss)")
        return found
    finally:
        model.entry, model.backbone = before


def finished(model: Trainable, request: Request, folder: Path) -> Restored:
    """Return what this very request has saved in `folder`; RecipeError if it holds the result of another."""
    identity = _identity(model, request, setup.read_data(request, model.entry, streams=True))
    saved = restore(folder)
    anew = f"save to another folder: --out {folder}-2 (out=…)"
    check_same_request(saved.manifest["training"]["request"], json.loads(json.dumps(identity)), folder, anew)
    if out_folder.is_unfinished(folder):  # a kill between saving and removing has left a checkpoint
        with out_folder.claim(folder, free=False):
            Checkpointer(out_folder.working(folder)).remove()
    say("resume", f"{folder} is finished")
    return saved


def load_lm_head(model: Trainable, task: str) -> None:
    """Load the backbone again with its language-modelling head, where the task needs one and it has none yet."""
    if not setup.keeps_lm_head(task) or model.backbone.lm_head is not None:
        return
    if model.head is not None:
        raise RecipeError(
            f"this model was fine-tuned to {model.task and model.task.name}: its language-modelling head is gone",
            fix=f'zoo.load("{model.entry.name}").finetune(data, task="{task}")',
        )
    options = {**model.entry.options, "lm_head": True}
    entry = replace(model.entry, options=options, dim=model.backbone.dim, params=None)
    plugin, device = plugins.load(entry.plugin), model.device
    build: Callable[..., Backbone] = loader.load if model.pretrained else _initialise
    model.entry, model.backbone = entry, build(plugin, entry, model.files)
    if model.backbone.lm_head is None:
        what = f"plugin '{entry.plugin}': {entry.name} lists {task} and builds no lm_head"
        raise PluginError(what, fix="report it to the plugin's author; other tasks are not affected")
    model.backbone.module.to(device).eval()


def digest(value: object) -> str:
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _identity(model: Trainable, request: Request, data: setup.Data) -> dict[str, Any]:
    """Return what a resumed run has to have in common with this one."""
    row = rows.row_from_entry(model.entry)
    network = {key: row.get(key) for key in ("plugin", "modality", "input", "options")}
    facts = {"weights": model.weights_id, "network": digest(network)}
    return setup.identity(request, data, model.entry.name) | facts


def _make_job(model: Trainable, request: Request, data: setup.Data) -> Job:
    load_lm_head(model, data.task)
    return setup.make_job(request, data, model.backbone, lambda task: _known(model, task), pretrained=model.pretrained)


def _adopt(model: Trainable, outcome: Outcome, job: Job) -> None:
    """Give the model what a run has learnt."""
    model.head, model.task, model.recipe, model.summary = outcome.head, job.task, outcome.hp, job.summary
    model.history, model.metrics, model.tested = list(outcome.history), outcome.metrics, {}
    model.training = {
        "calibration": outcome.calibration and asdict(outcome.calibration),
        "execution": provenance(outcome.execution),
        "step": outcome.step,
    }
    model.folder = None
    model.pretrained = True  # what the next fine-tuning starts from


def _known(model: Trainable, task: Task) -> nn.Linear | None:
    """Return a head that knows the labels of a task: from the model's own head, else from that of the pre-training."""
    if isinstance(model.head, nn.Linear) and model.task is not None and model.task.single_label:
        names = tuple((str(label),) for label in model.task.labels)
        own = Classifier(names, model.head.weight.detach(), model.head.bias.detach())
        return pretrained_head(task, own, stages_of(model.head))
    plugin = plugins.load(model.entry.plugin)
    return pretrained_head(task, loader.classifier(plugin, model.entry, model.files, model.backbone.dim))


def _reinitialise(model: Trainable, seed: int) -> None:
    """Replace the backbone by one with random weights."""
    device = model.device
    model.backbone = loader.initialise(plugins.load(model.entry.plugin), model.entry, model.files, seed)
    model.backbone.module.to(device)


def _initialise(plugin: Any, entry: Entry, files: Mapping[str, Path]) -> Backbone:
    return loader.initialise(plugin, entry, files, seed=0)
