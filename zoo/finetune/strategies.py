"""Strategies: the phases of a run, from the job to the trained head."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace

from torch import Tensor, nn

from zoo.console import duration, say
from zoo.data.streaming.streamed_dataset import StreamedDataset
from zoo.errors import RecipeError
from zoo.finetune import callbacks, heads
from zoo.finetune.defaults import Hyperparameters
from zoo.finetune.features import frozen_features, large_probe, linear_probe, linear_solver
from zoo.finetune.features.frozen_prefix import frozen_prefix
from zoo.finetune.features.linear_probe import Fitted, ProbeData
from zoo.finetune.features.stage_outputs import StageOutput
from zoo.finetune.freezing import first_stages_frozen, requires_grad_restored
from zoo.finetune.heads import empty_linear, new_head
from zoo.finetune.inference import Measurement, measure
from zoo.finetune.job import Job
from zoo.finetune.network import Network
from zoo.finetune.runtime.determinism import deterministic
from zoo.finetune.training import best_weights, execution, lora, lr_finder, time_budget
from zoo.finetune.training.best_weights import BestWeights, Candidate, Metrics, headline
from zoo.finetune.training.calibration import Calibration
from zoo.finetune.training.checkpoint import Checkpointer
from zoo.finetune.training.execution import Execution
from zoo.finetune.training.loop import Phase, train
from zoo.finetune.training.lr_finder import LearningRates
from zoo.plugin import Backbone
from zoo.tasks import Task
from zoo.tasks.intervals import Interval

CONSTANT = "no features: no penalty does better than the mean"
"""What the report calls the head of linear_solver.CONSTANT."""
UNSURE = ", out of fold no better than class frequencies"
"""What it adds where the probabilities of a classifier are worth nothing, though its answers may be."""
GRADUAL_PHASES = 3
"""Phases of gradual unfreezing: the last third of the stages, two thirds, all (Howard and Ruder 2018, 1801.06146)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The trained head, the measurements, the metrics on the validation data ({} without any), and the settings.

    `outputs` (N, K) are those on the validation data; None without any, or where tokens are read. `intervals` are those
    of the metrics, `step` that of the weights that were kept; None without validation data.

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
    step: int | None = None


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
    device = next(backbone.module.parameters()).device
    with execution.applied(backbone, chosen), deterministic(device, job.hp.deterministic):
        probe = _probe(backbone, job, checkpoints) if job.has_probe else None
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
    if job.has_probe:
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
        with checkpoints.reading():
            read = [StageOutput(**stage) for stage in checkpoints.decisions["stages"]]
        return Probe(empty_linear(backbone.dim, len(task.labels), read).to(device), best)
    start = time.monotonic()
    stages, without = _stages(backbone, job)
    data, cached = frozen_features.rows(backbone, task, job.train, hp, stages, job.groups)
    solved, fitted = _solve(task, data, hp)
    head, how = fitted.head, _describe(fitted, without)
    if data.views > 1 and hp.views is None:
        how += ", two views of each" if solved.views > 1 else ", one view of each (a second did not help)"
    data = solved
    if job.head is not None and _given_head_wins(job, data, fitted):
        assert isinstance(job.head, nn.Linear)
        head, how = job.head.cpu(), "the pretrained head unchanged"
    checkpoints.decisions["stages"] = [asdict(stage) for stage in heads.stages_of(head)]
    row: Metrics = {"step": 0, "loss": _loss(task, head, data)}
    if job.valid is not None:
        held = frozen_features.outputs(backbone, head, task, job.valid, hp.precision, stages)
        found = Measurement(task.measure(held.values, held.targets), held)
        best.start = Candidate.of("probe", 0, task, found)
        best.kept = [replace(best.start)]
        row |= {f"valid_{name}": value for name, value in found.metrics.items()}
    origin = "from the feature cache" if cached else "computed once"
    spent = duration(time.monotonic() - start)
    say("probe", f"{headline(task, best.first)}{how}, {len(data):,} features {origin}  {spent}")
    checkpoints.finish("probe", [row])
    callbacks.evaluated(job.callbacks, row)
    return Probe(head.to(device), best)


def _solve(task: Task, data: ProbeData, hp: Hyperparameters) -> tuple[ProbeData, Fitted]:
    """Return the head, and the data that it is solved on: all views, or the first, as cross-validation says."""
    solve = linear_probe.choose if hp.head_stages is None else linear_probe.fit
    if large_probe.is_large(task, data):
        return data, large_probe.fit(task, data, hp.l2, hp.seed, solve)
    if hp.views is None:
        return linear_probe.choose_views(solve, task, data, hp.l2, hp.seed)
    return data, solve(task, data, hp.l2, hp.seed)


def _stages(backbone: Backbone, job: Job) -> tuple[tuple[StageOutput, ...], str]:
    """Return the stage outputs that the probe may read, those of a given head among them, and why there are none."""
    own = () if job.head is None else heads.stages_of(job.head)
    found, without = frozen_features.readable_stages(backbone, job.task, job.train, job.hp)
    if own and found[len(found) - len(own) :] != own:
        found, without = own, ""
    return found, without


def _describe(fitted: Fitted, without: str) -> str:
    """Say how the head of a probe was solved, and what it reads."""
    if fitted.l2 == linear_solver.CONSTANT:
        return CONSTANT
    count = len(heads.stages_of(fitted.head))
    read = f"pooled features and {count} stages" if count else "pooled features"
    unsure = "" if fitted.loss < fitted.constant or not fitted.folds else UNSURE
    return f"L2 {fitted.l2:g} on {read}" + (f" ({without})" if without else "") + unsure


def _given_head_wins(job: Job, data: ProbeData, fitted: Fitted) -> bool:
    """Return whether the given head, which never saw these examples, beats the out-of-fold loss of the new one."""
    assert job.head is not None
    head = job.head.cpu()
    return _loss(job.task, head, data.first_view()) < fitted.loss


def _loss(task: Task, head: nn.Module, data: ProbeData) -> float:
    """Return the mean loss of a head."""
    if large_probe.is_large(task, data):
        return large_probe.loss(task, head, data, len(heads.stages_of(head)))
    return linear_probe.loss(task, head, data.for_head(head))


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
    return replace(outcome, outputs=outputs, intervals=intervals, step=kept.step)


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
    """Freeze the first stages inside the block; their activations are cached, but of augmented images and streams."""
    hp = job.hp
    if hp.strategy == "lora" or (not hp.freeze_stages and hp.strategy != "gradual"):
        yield job
        return
    with first_stages_frozen(backbone, hp.freeze_stages):
        if not hp.freeze_stages or hp.augment != "none" or isinstance(job.train, StreamedDataset):
            yield job
            return
        if heads.stages_of(job.head) and hp.freeze_stages:
            say("prefix", "the frozen stages run each time: the head reads outputs of stages")
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
