"""Strategies: which phases a run has, and what it says and returns."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from zoo.console import duration, say
from zoo.data.sets import Set
from zoo.finetune import lora, network, probe
from zoo.finetune.job import Job
from zoo.finetune.loop import Row, train
from zoo.finetune.network import Network, measure
from zoo.plugin import Backbone
from zoo.tasks import LANGUAGE, Task


@dataclass(frozen=True, slots=True)
class Outcome:
    """The trained head, one row per measurement, and the metrics on the validation data ({} without any)."""

    head: nn.Module
    history: tuple[Row, ...]
    metrics: Row


def run(backbone: Backbone, job: Job) -> Outcome:
    """Do a job on a backbone; unless it is probed, the backbone is trained in place."""
    if job.recipe.strategy == "probe":
        return _probe(backbone, job)
    if job.recipe.strategy == "lp-ft":
        return _probe_then_tune(backbone, job)
    return _tune(backbone, job)


def _probe_then_tune(backbone: Backbone, job: Job) -> Outcome:
    """Train all layers from the probe's head (Kumar et al. 2022, arXiv 2202.10054); keep the probe if it is best."""
    probed = _probe(backbone, job)
    assert isinstance(probed.head, nn.Linear)
    tuned = _tune(backbone, replace(job, warm=probed.head))
    return replace(tuned, history=(*probed.history, *tuned.history[1 if job.valid else 0 :]))


def _probe(backbone: Backbone, job: Job) -> Outcome:
    """Solve a head on features that are computed once; the backbone is left bit-identical."""
    start = time.monotonic()
    task, recipe, module = job.task, job.recipe, backbone.module
    device = next(module.parameters()).device
    rows = _rows(network.features(module, job.train, reads=task.reads, precision=recipe.precision), job.train)
    head, l2 = probe.fit(task, rows, recipe.l2, recipe.seed)
    how = f"L2 {l2:g}"
    if job.warm is not None and _warm_wins(job, rows, l2):
        head, how = job.warm.cpu(), "the pretrained head as it is"
    loss = probe.loss(task, head, rows)
    head.to(device)
    net = Network(module, head, task.reads).eval()
    metrics = measure(net, task, job.valid, recipe.precision) if job.valid else {}
    row: Row = {"step": 0, "loss": loss}
    row |= {f"valid_{name}": value for name, value in metrics.items()}
    seconds = duration(time.monotonic() - start)
    say("probe", f"{_score(task, metrics)}{how}, {len(rows):,} features once  {seconds}")
    return Outcome(head, (row,), metrics)


def _rows(found: network.Rows, data: Set) -> probe.Rows:
    """Return features as rows (M, D); those of tokens remember their text."""
    if isinstance(found.values, Tensor):
        return probe.Rows(found.values, data.targets)
    counts = torch.tensor([len(part) for part in found.values])
    texts = torch.arange(len(counts)).repeat_interleave(counts)
    return probe.Rows(torch.cat(found.values), torch.cat(found.targets), texts)


def _warm_wins(job: Job, rows: probe.Rows, l2: float) -> bool:
    """Tell whether a head that never saw these examples has a lower loss on them than cross-validated ones."""
    assert job.warm is not None
    solved = probe.held_out_loss(job.task, rows, l2, job.recipe.seed)
    return probe.loss(job.task, job.warm.cpu(), rows) < solved


def _tune(backbone: Backbone, job: Job) -> Outcome:
    start = time.monotonic()
    recipe, module = job.recipe, backbone.module
    head = _first_head(backbone, job)
    net = Network(module, head.to(next(module.parameters()).device), job.task.reads)
    adapters = lora.adapted(backbone, recipe.lora_rank, recipe.seed) if recipe.strategy == "lora" else nullcontext()
    with adapters:
        history, best = train(net, job, measure_first=job.warm is not None or job.task.name in LANGUAGE)
    done = int(history[-1]["step"])
    kept = f"best at {best.step}  " if job.valid else ""
    early = "" if done == recipe.steps else f" (of {recipe.steps}: no better since)"
    seconds = duration(time.monotonic() - start)
    say("tune", f"step {done}{early}  {_score(job.task, best.metrics)}{kept}{recipe.precision}  {seconds}")
    return Outcome(net.head, tuple(history), best.metrics)


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


def _score(task: Task, metrics: Row) -> str:
    return f"{task.best} {metrics[task.best]:.3f}  " if metrics else ""
