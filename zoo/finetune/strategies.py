"""Strategies: which phases a run has, and what it says and returns."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from zoo.console import duration, say
from zoo.data.datasets import Labelled, Set, Views
from zoo.finetune import distributed, lora
from zoo.finetune import recipe as recipes
from zoo.finetune.features import linear_probe
from zoo.finetune.features.feature_cache import features_of
from zoo.finetune.features.frozen_prefix import replayed
from zoo.finetune.job import Job
from zoo.finetune.network import Network, Rows, measured_rows
from zoo.finetune.recipe import Recipe
from zoo.finetune.training import optimizer
from zoo.finetune.training.autotune import Speed, Trial, fitting, tuned
from zoo.finetune.training.best_weights import Best, Row, measured, scored
from zoo.finetune.training.calibration import Calibration
from zoo.finetune.training.checkpoint import Keeper
from zoo.finetune.training.finish import finish
from zoo.finetune.training.loop import Phase, train
from zoo.finetune.training.lr_finder import Rates, find
from zoo.plugin import Backbone
from zoo.tasks import LANGUAGE

SLACK = 0.9
"""The share of a time budget that is planned for: steps vary in length."""
PHASES = 3
"""Steps of the gradual strategy: the last third of the stages, two thirds, all (Howard and Ruder 2018, 1801.06146)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The trained head, one row per measurement, the metrics on the validation data ({} without any), and how."""

    head: nn.Module
    history: tuple[Row, ...]
    metrics: Row
    recipe: Recipe
    calibration: Calibration | None = None


def run(backbone: Backbone, job: Job, keeper: Keeper | None = None) -> Outcome:
    """Do a job on a backbone; unless it is probed, the backbone is trained in place.

    With a `keeper` that found a checkpoint, the run goes on from there.
    """
    keeper = keeper or Keeper()
    limit = recipes.seconds(job.recipe.budget) or math.inf
    start = time.monotonic()
    speed = tuned(backbone, job, keeper)
    job = replace(job, recipe=replace(job.recipe, precision=speed.precision))
    with fitting(backbone, speed):
        probed = _probe(backbone, job, keeper) if job.recipe.strategy in ("probe", "lp-ft", "gradual") else None
        if probed is not None:
            job = replace(job, warm=probed.head)
        if probed is not None and job.recipe.strategy == "probe":
            metrics = probed.best.first.metrics if probed.best.first else {}
            return Outcome(probed.head, tuple(keeper.past), metrics, job.recipe)
        left = limit - (time.monotonic() - start)
        return _tune(backbone, _fit_in(backbone, job, speed, left, keeper), probed, keeper, left)


@dataclass(frozen=True, slots=True)
class Probed:
    """The head of a probe, and what it reaches on the validation data."""

    head: nn.Linear
    best: Best


def _probe(backbone: Backbone, job: Job, keeper: Keeper) -> Probed:
    """Solve a head on features that are computed once; the backbone is left bit-identical."""
    task, recipe = job.task, job.recipe
    device = next(backbone.module.parameters()).device
    best = Best(recipe.soup or 1)
    if keeper.beyond("probe"):  # the checkpoint holds what became of its head
        return Probed(nn.utils.skip_init(nn.Linear, backbone.dim, len(task.labels), device=device), best)
    start = time.monotonic()
    views = recipe.views or 1
    data = (
        Views(job.train, views, recipe.augment, recipe.seed)
        if isinstance(job.train, Labelled) and views > 1
        else job.train
    )
    found, known = features_of(backbone.module, data, reads=task.reads, precision=recipe.precision)
    rows = _rows(found, data, views)
    head, l2 = linear_probe.fit(task, rows, recipe.l2, recipe.seed)
    how = f"L2 {l2:g}"
    if job.warm is not None and _warm_wins(job, rows, l2):
        head, how = job.warm.cpu(), "the pretrained head as it is"
    row: Row = {"step": 0, "loss": linear_probe.loss(task, head, rows)}
    if job.valid is not None:
        held, _ = features_of(backbone.module, job.valid, reads=task.reads, precision=recipe.precision)
        outputs = linear_probe.outputs(task, head, held)
        metrics = task.measure(outputs, held.targets)
        best.start = measured("probe", 0, task, metrics, outputs)
        best.kept = [replace(best.start)]
        row |= {f"valid_{name}": value for name, value in metrics.items()}
    times = "known from an earlier run" if known else "computed once"
    spent = duration(time.monotonic() - start)
    say("probe", f"{scored(task, best.first)}{how}, {len(rows):,} features {times}  {spent}")
    keeper.leave("probe", [row])
    return Probed(head.to(device), best)


def _rows(found: Rows, data: Set, views: int) -> linear_probe.Rows:
    """Return features as rows (M, D); those of tokens remember their text, and views their example."""
    if isinstance(found.values, Tensor):
        groups = torch.arange(len(found.values)) % (len(data) // views) if views > 1 else None
        return linear_probe.Rows(found.values, data.targets, groups)
    counts = torch.tensor([len(part) for part in found.values])
    texts = torch.arange(len(counts)).repeat_interleave(counts)
    return linear_probe.Rows(torch.cat(found.values), torch.cat(found.targets), texts)


def _warm_wins(job: Job, rows: linear_probe.Rows, l2: float) -> bool:
    """Tell whether a head that never saw these examples has a lower loss on them than cross-validated ones."""
    assert job.warm is not None
    solved = linear_probe.held_out_loss(job.task, rows, l2, job.recipe.seed)
    return linear_probe.loss(job.task, job.warm.cpu(), rows) < solved


def find_lr(backbone: Backbone, job: Job) -> Rates:
    """Find a learning rate for a job; the backbone is as before afterwards."""
    backbone.module.requires_grad_(True)
    head = _first_head(backbone, job)
    net = Network(backbone.module, head.to(next(backbone.module.parameters()).device), job.task.reads)
    return find(net, job)


def _fit_in(backbone: Backbone, job: Job, speed: Speed, left: float, keeper: Keeper) -> Job:
    """Take as many steps as a time budget of `left` seconds allows, measurements included."""
    known: dict[str, int] = keeper.notes.get("length", {})
    recipe = job.recipe
    steps, evals = known.get("steps", recipe.steps or 1), known.get("evals", recipe.evals or 1)
    if math.isfinite(left) and not known:
        trial = Trial(backbone, job, recipe.batch_size)
        step = trial.seconds(speed) * recipe.batch_size / len(trial)
        measured = (len(job.valid) if job.valid else 0) / recipe.batch_size * step / 3  # forward alone
        while evals > 1 and evals * measured > left / 3:
            evals -= 1
        steps = min(steps, max(1, int((SLACK * left - evals * measured) / step)))
        steps, evals = distributed.agreed((steps, evals))
        say("budget", f"{steps} steps fit into {duration(left)}")
    keeper.notes["length"] = {"steps": steps, "evals": min(evals, steps)}
    return replace(job, recipe=replace(recipe, steps=steps, evals=min(evals, steps)))


def _phases(job: Job) -> list[tuple[str, Recipe]]:
    """Return the parts of the training, each with a recipe of its own: how many stages are frozen, and for how long."""
    recipe = job.recipe
    if recipe.strategy != "gradual":
        return [("tune", recipe)]
    count, steps = len(job.stages), recipe.steps or 1
    parts = min(PHASES, count, steps)
    evals = max(1, (recipe.evals or 1) // parts)
    lengths = [steps * (part + 1) // parts - steps * part // parts for part in range(parts)]
    frozen = [count - -(-count * (part + 1) // parts) for part in range(parts)]
    settings = zip(lengths, frozen, strict=True)
    return [
        (f"tune-{number}", replace(recipe, steps=length, freeze=freeze, evals=min(evals, length)))
        for number, (length, freeze) in enumerate(settings, 1)
    ]


def _tune(backbone: Backbone, job: Job, probed: Probed | None, keeper: Keeper, left: float) -> Outcome:
    """Train, phase after phase, each from the best weights of the one before."""
    start = time.monotonic()
    recipe, module = job.recipe, backbone.module
    head = _first_head(backbone, job)
    net = Network(module, head.to(next(module.parameters()).device), job.task.reads)
    best = probed.best if probed else Best(recipe.soup or 1)
    adapters = lora.adapted(backbone, recipe.lora_rank, recipe.seed) if recipe.strategy == "lora" else nullcontext()
    with adapters:
        if probed is None and not keeper.found.facts:
            _measure_first(net, job, best, keeper)
        for name, how in _phases(job):
            if keeper.beyond(name):
                continue
            before = int(keeper.past[-1]["step"]) if keeper.past else 0
            phase = Phase(name, before, left - (time.monotonic() - start))
            with _frozen(backbone, replace(job, recipe=how)) as ready:
                found = train(net, ready, keeper, phase, best)
            best = found.best
            keeper.leave(name, found.history)
        metrics, calibration = finish(net, job, best)
    say("tune", _said(job, best, keeper, duration(time.monotonic() - start)))
    return Outcome(net.head, tuple(keeper.past), metrics, recipe, calibration)


def _measure_first(net: Network, job: Job, best: Best, keeper: Keeper) -> None:
    """Measure a network that may know its task already: it goes on with its pre-training, or has a warm head."""
    if job.valid is None or (job.warm is None and job.task.name not in LANGUAGE):
        return
    rows = measured_rows(net, job.task, job.valid, job.recipe.precision)
    metrics = job.task.measure(rows.values, rows.targets)
    best.kept = [measured("start", 0, job.task, metrics, rows.values)]
    keeper.past.append({"step": 0, "loss": metrics["loss"]} | {f"valid_{k}": v for k, v in metrics.items()})


@contextmanager
def _frozen(backbone: Backbone, job: Job) -> Iterator[Job]:
    """Let the stages train that the recipe says; where they see the same inputs each time, the others run once."""
    recipe = job.recipe
    if recipe.strategy == "lora" or (not recipe.freeze and recipe.strategy != "gradual"):
        yield job
        return
    for number, layer in enumerate(optimizer.by_stage(backbone.module, backbone.stages)):
        for parameter in layer:
            parameter.requires_grad_(number >= recipe.freeze)
    if not recipe.freeze or recipe.augment != "none":
        yield job
        return
    sets = (job.train, job.valid)
    with replayed(backbone, sets, recipe.freeze, precision=recipe.precision) as replay:
        say("prefix", replay.said)
        train_set, valid = replay.sets
        assert train_set is not None
        yield replace(job, train=train_set, valid=valid)


def _said(job: Job, best: Best, keeper: Keeper, spent: str) -> str:
    """Say how far training went, what was reached, and which weights were kept."""
    recipe = job.recipe
    done = int(keeper.past[-1]["step"]) if keeper.past else 0
    early = "" if done >= (recipe.steps or 0) else f" (of {recipe.steps}: no better since)"
    kept = f"best at {best.first.step}  " if best.first else ""
    if job.cautious and best.start is not None and best.first is best.start:
        kept = "no better than the probe beyond chance, which is kept  "
    return f"step {done}{early}  {scored(job.task, best.first)}{kept}{recipe.precision}  {spent}"


def _first_head(backbone: Backbone, job: Job) -> nn.Module:
    """Return the head that training starts from: the backbone's own for language, else a warm or a new one.

    A new one is zeros on pretrained features (BiT, arXiv 1912.11370, section 3.3) and random from scratch. Digits, 5 a
    class: zeros 0.953 and random 0.948 fine-tuned, but 0.70 and 0.83 from scratch (docs/log.md).
    """
    if job.task.name in LANGUAGE:
        assert backbone.lm_head is not None
        return backbone.lm_head
    if job.warm is not None:
        return job.warm
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.recipe.seed)
        head = job.task.head(backbone.dim)
    if job.recipe.strategy != "scratch":
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
    return head
