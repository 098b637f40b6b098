"""Strategies: the phases of a run, from the job to the trained head."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from zoo.console import duration, say
from zoo.data.datasets import AugmentedViews, Dataset, LabelledDataset
from zoo.errors import RecipeError
from zoo.finetune import callbacks
from zoo.finetune.defaults import Hyperparameters
from zoo.finetune.features import linear_probe
from zoo.finetune.features.feature_cache import cached_features
from zoo.finetune.features.frozen_prefix import frozen_prefix
from zoo.finetune.features.linear_probe import ProbeData
from zoo.finetune.freezing import first_stages_frozen, requires_grad_restored
from zoo.finetune.heads import empty_linear, new_head
from zoo.finetune.inference import Measurement, Outputs, measure
from zoo.finetune.job import Job
from zoo.finetune.network import Network
from zoo.finetune.training import best_weights, execution, lora, lr_finder, time_budget
from zoo.finetune.training.best_weights import BestWeights, Candidate, Metrics, headline
from zoo.finetune.training.calibration import Calibration
from zoo.finetune.training.checkpoint import Checkpointer
from zoo.finetune.training.execution import Execution
from zoo.finetune.training.loop import Phase, train
from zoo.finetune.training.lr_finder import LearningRates
from zoo.plugin import Backbone
from zoo.tasks.intervals import Interval

CONSTANT = "no features: no penalty does better than the mean, or the class frequencies"
"""What the report calls the head of linear_probe.CONSTANT."""
GRADUAL_PHASES = 3
"""Phases of gradual unfreezing: the last third of the stages, two thirds, all (Howard and Ruder 2018, 1801.06146)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The trained head, the measurements, the metrics on the validation data ({} without any), and the settings.

    `outputs` (N, K) are those on the validation data; None without any, or where tokens are read. `intervals` are those
    of the metrics.

    `hp` repeat the run, with what a time limit chose; `execution` is how the network ran.
    """

    head: nn.Module
    history: tuple[Metrics, ...]
    metrics: Metrics
    hp: Hyperparameters
    execution: Execution
    calibration: Calibration | None = None
    outputs: Tensor | None = None
    intervals: dict[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Probe:
    """The head of a linear probe, and its result on the validation data."""

    head: nn.Linear
    best: BestWeights


def run(backbone: Backbone, job: Job, checkpoints: Checkpointer | None = None) -> Outcome:
    """Run a job; unless its strategy is a probe, the backbone is trained in place.

    A run whose `checkpoints` hold one continues from there.
    """
    checkpoints = checkpoints or Checkpointer()
    start = time.monotonic()
    backbone.module.requires_grad_(job.hp.strategy != "probe")
    chosen = execution.choose(backbone, job, checkpoints)
    job = replace(job, hp=replace(job.hp, precision=chosen.precision))
    with execution.applied(backbone, chosen):
        probe = _probe(backbone, job, checkpoints) if job.hp.has_probe else None
        if probe is not None:
            job = replace(job, head=probe.head)
        if probe is not None and job.hp.strategy == "probe":
            first = probe.best.first
            found = Outcome(probe.head, tuple(checkpoints.history), first.metrics if first else {}, job.hp, chosen)
            return _measured(found, job, first)
        left = (job.hp.max_time or math.inf) - (time.monotonic() - start)
        job = time_budget.fit(backbone, job, left, checkpoints)
        return _tune(backbone, job, probe, checkpoints, left)


def find_lr(backbone: Backbone, job: Job) -> LearningRates:
    """Suggest a learning rate for a job; the backbone is as before on exit. RecipeError for strategy="probe"."""
    if job.hp.strategy == "probe":
        raise RecipeError('strategy="probe" has no learning rate: its head is solved', fix='strategy="full"')
    if job.hp.has_probe:
        job = replace(job, head=_probe(backbone, job, Checkpointer()).head)
    with requires_grad_restored(backbone.module.parameters()):
        backbone.module.requires_grad_(True)
        with _adapters(backbone, job.hp), _stages_frozen(backbone, job) as ready:
            return lr_finder.find(_network(backbone, ready), ready)


def _probe(backbone: Backbone, job: Job, checkpoints: Checkpointer) -> Probe:
    """Solve a head on features that are computed once; the backbone stays bit-identical."""
    task, hp = job.task, job.hp
    device = next(backbone.module.parameters()).device
    best = BestWeights(hp.soup)
    if checkpoints.is_finished("probe"):  # the checkpoint holds the head
        return Probe(empty_linear(backbone.dim, len(task.labels)).to(device), best)
    start = time.monotonic()
    data: Dataset = job.train
    if isinstance(data, LabelledDataset) and hp.views > 1:
        data = AugmentedViews(data, hp.views, hp.augment, hp.seed)
    features, cached = cached_features(backbone.module, data, reads=task.reads, precision=hp.precision)
    rows = _probe_data(features, data, job.groups)
    head, l2 = linear_probe.fit(task, rows, hp.l2, hp.seed)
    how = f"L2 {l2:g}" if l2 != linear_probe.CONSTANT else CONSTANT
    if job.head is not None and _pretrained_head_wins(job, rows, l2):
        assert isinstance(job.head, nn.Linear)
        head, how = job.head.cpu(), "the pretrained head unchanged"
    row: Metrics = {"step": 0, "loss": linear_probe.loss(task, head, rows)}
    if job.valid is not None:
        held, _ = cached_features(backbone.module, job.valid, reads=task.reads, precision=hp.precision)
        outputs = linear_probe.predict(task, head, held)
        found = Measurement(task.measure(outputs, held.targets), Outputs(outputs, held.targets))
        best.start = Candidate.of("probe", 0, task, found)
        best.kept = [replace(best.start)]
        row |= {f"valid_{name}": value for name, value in found.metrics.items()}
    origin = "from the feature cache" if cached else "computed once"
    spent = duration(time.monotonic() - start)
    say("probe", f"{headline(task, best.first)}{how}, {len(rows):,} features {origin}  {spent}")
    checkpoints.finish("probe", [row])
    callbacks.evaluated(job.callbacks, row)
    return Probe(head.to(device), best)


def _probe_data(features: Outputs, data: Dataset, groups: Tensor | None) -> ProbeData:
    """Return features as rows (M, D); tokens of one text, views of one example, and examples of a group are a group."""
    if isinstance(features.values, Tensor):
        views = data.count if isinstance(data, AugmentedViews) else 1
        if groups is None and views == 1:
            return ProbeData(features.values, data.targets)
        groups = torch.arange(len(data) // views) if groups is None else groups
        return ProbeData(features.values, data.targets, groups.repeat(views))
    counts = torch.tensor([len(part) for part in features.values])
    groups = torch.arange(len(counts)) if groups is None else groups
    return ProbeData(torch.cat(features.values), torch.cat(features.targets), groups.repeat_interleave(counts))


def _pretrained_head_wins(job: Job, rows: ProbeData, l2: float) -> bool:
    """Return whether the pretrained head, which never saw these examples, beats the out-of-fold loss of new heads."""
    assert job.head is not None
    solved = linear_probe.cross_validated_loss(job.task, rows, l2, job.hp.seed)
    return linear_probe.loss(job.task, job.head.cpu(), rows) < solved


def _tune(backbone: Backbone, job: Job, probe: Probe | None, checkpoints: Checkpointer, left: float) -> Outcome:
    """Train phase after phase, each from the best weights of the one before."""
    start = time.monotonic()
    network = _network(backbone, job)
    best = probe.best if probe else BestWeights(job.hp.soup)
    with _adapters(backbone, job.hp):
        if probe is None and not checkpoints.is_resumed:
            _measure_start(network, job, best, checkpoints)
        for name, hp in _phases(job.hp, len(backbone.stages)):
            if checkpoints.is_finished(name):
                continue
            before = int(checkpoints.history[-1]["step"]) if checkpoints.history else 0
            phase = Phase(name, before, left - (time.monotonic() - start))
            with _stages_frozen(backbone, replace(job, hp=hp)) as ready:
                progress = train(network, ready, checkpoints, phase, best)
            best = progress.best
            checkpoints.finish(name, progress.history)
            if progress.is_cut:
                job = _cut(job, before + progress.step)
                break
            if progress.is_stopped:
                job = replace(job, hp=replace(job.hp, stop_after=before + progress.step))
                break
        metrics, calibration = best_weights.select(network, job, best)
    say("tune", _summary(job, best, checkpoints, duration(time.monotonic() - start)))
    chosen = Execution(**checkpoints.decisions["execution"])
    found = Outcome(network.head, tuple(checkpoints.history), metrics, job.hp, chosen, calibration)
    return _measured(found, job, best.first)


def _measured(outcome: Outcome, job: Job, kept: Candidate | None) -> Outcome:
    """Add the outputs on the validation data and the intervals of the metrics, if there are any."""
    if kept is None or job.valid is None:
        return outcome
    outputs = kept.outputs
    intervals = kept.intervals if outputs is None else job.task.intervals(outputs, job.valid.targets)
    return replace(outcome, outputs=outputs, intervals=intervals)


def _cut(job: Job, step: int) -> Job:
    """Record the last step of a run that ran out of time, and say how to repeat it."""
    if step >= job.hp.steps:
        return job
    if job.hp.stop_after is None:
        say("max time", f"over at step {step}; the same run again: {time_budget.repeat(job.hp, step)}")
    return replace(job, hp=replace(job.hp, stop_after=step))


def _network(backbone: Backbone, job: Job) -> Network:
    """Return the backbone with the head of the job, or a new one."""
    head = job.head or new_head(backbone, job.task, seed=job.hp.seed, zero=job.hp.strategy != "scratch")
    device = next(backbone.module.parameters()).device
    return Network(backbone.module, head.to(device), job.task.reads, backbone.stages)


@contextmanager
def _adapters(backbone: Backbone, hp: Hyperparameters) -> Iterator[None]:
    """Train low-rank adapters inside the block, where the strategy says so."""
    lora_only = hp.strategy == "lora"
    with lora.adapters(backbone, hp.lora_rank, hp.seed) if lora_only else nullcontext():
        yield


def _measure_start(network: Network, job: Job, best: BestWeights, checkpoints: Checkpointer) -> None:
    """Measure a network that knows its task before training: a language model, or a pretrained head."""
    if job.valid is None or (job.head is None and job.task.labelled):
        return
    found = measure(network, job.task, job.valid, precision=job.hp.precision)
    best.kept = [Candidate.of("start", 0, job.task, found)]
    valid = {f"valid_{name}": value for name, value in found.metrics.items()}
    checkpoints.history.append({"step": 0, "loss": found.metrics["loss"]} | valid)


def _phases(hp: Hyperparameters, stages: int) -> list[tuple[str, Hyperparameters]]:
    """Return the phases with their own steps, evaluations and frozen stages."""
    if hp.strategy != "gradual":
        return [("tune", hp)]
    parts = min(GRADUAL_PHASES, stages, hp.steps)
    evals = max(1, hp.evals // parts)
    lengths = [hp.steps * (part + 1) // parts - hp.steps * part // parts for part in range(parts)]
    frozen = [stages - -(-stages * (part + 1) // parts) for part in range(parts)]
    return [
        (f"tune-{number}", replace(hp, steps=length, freeze_stages=count, evals=min(evals, length)))
        for number, (length, count) in enumerate(zip(lengths, frozen, strict=True), 1)
    ]


@contextmanager
def _stages_frozen(backbone: Backbone, job: Job) -> Iterator[Job]:
    """Freeze the first stages inside the block; without augmentation their activations are cached."""
    hp = job.hp
    if hp.strategy == "lora" or (not hp.freeze_stages and hp.strategy != "gradual"):
        yield job
        return
    with first_stages_frozen(backbone, hp.freeze_stages):
        if not hp.freeze_stages or hp.augment != "none":
            yield job
            return
        datasets = (job.train, job.valid)
        with frozen_prefix(backbone, datasets, hp.freeze_stages, precision=hp.precision) as replay:
            say("prefix", replay.description)
            cached_train, valid = replay.datasets
            assert cached_train is not None
            yield replace(job, train=cached_train, valid=valid)


def _summary(job: Job, best: BestWeights, checkpoints: Checkpointer, spent: str) -> str:
    """Describe the steps taken, the metric reached, and which weights were kept."""
    done = int(checkpoints.history[-1]["step"]) if checkpoints.history else 0
    early = "" if done >= job.hp.steps else f" (of {job.hp.steps}: {'cut' if job.hp.stop_after else 'stopped early'})"
    kept = f"best at {best.first.step}  " if best.first else ""
    if best.start is not None and best.first is not None and not best_weights.improves(job, best.start, best.first):
        consequence = "the probe is kept" if job.recipe.strategy == "auto" else 'strategy="probe" is as good'
        kept = f"no better than the probe beyond chance: {consequence}  "
    return f"step {done}{early}  {headline(job.task, best.first)}{kept}{job.hp.precision}  {spent}"
