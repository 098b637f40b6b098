"""Time budget: the steps and evaluations of a run that fit into max_time, by timing a step."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import torch

from zoo.console import duration, say
from zoo.data.batch_options import BatchOptions
from zoo.data.sampler import training_order
from zoo.data.seeding import generator
from zoo.finetune.defaults import Hyperparameters
from zoo.finetune.freezing import train_mode
from zoo.finetune.heads import new_head
from zoo.finetune.job import Job
from zoo.finetune.network import Network
from zoo.finetune.runtime import distributed
from zoo.finetune.training import gradients
from zoo.finetune.training.checkpoint import Checkpointer
from zoo.plugin import Backbone

PLANNED = 0.9
"""Share of max_time that steps are planned for: they vary in length."""
REPEATS = 2


def fit(backbone: Backbone, job: Job, left: float, checkpoints: Checkpointer) -> Job:
    """Reduce steps and evaluations to what fits into `left` seconds; a resumed run keeps its own."""
    known: dict[str, int] = checkpoints.decisions.get("length", {})
    hp = job.hp
    steps, evals = known.get("steps", hp.steps), known.get("evals", hp.evals)
    if math.isfinite(left) and not known:
        step = seconds_of_step(backbone, job)
        evaluation = (len(job.valid) if job.valid else 0) / hp.batch_size * step / 3  # forward alone
        while evals > 1 and evals * evaluation > left / 3:
            evals -= 1
        steps = min(steps, max(1, int((PLANNED * left - evals * evaluation) / step)))
        steps, evals = distributed.broadcast((steps, min(evals, steps)))
        say(
            "max time",
            f"{steps} steps fit into {duration(left)}; the same run again: {again(steps=steps, evals=evals)}",
        )
    evals = min(evals, steps)
    checkpoints.decisions["length"] = {"steps": steps, "evals": evals}
    return replace(job, hp=replace(hp, steps=steps, evals=evals))


def again(**fields: Any) -> str:
    """Return the options that set some fields of the recipe."""
    return " ".join(f"--set {name}={value}" for name, value in fields.items())


def repeat(hp: Hyperparameters, stopped_at: int) -> str:
    """Return the options that repeat a run which ran out of time at a step."""
    return again(steps=hp.steps, evals=hp.evals, stop_after=stopped_at)


def seconds_of_step(backbone: Backbone, job: Job) -> float:
    """Return the shortest of several steps without the optimizer, after a warm-up; nothing is learnt from them."""
    device = next(backbone.module.parameters()).device
    head = new_head(backbone, job.task, seed=job.hp.seed, zero=False).to(device)
    network = Network(backbone.module, head, job.task.reads)
    data, hp = job.train, job.hp
    size = min(hp.batch_size, len(data))
    indices = next(iter(training_order(len(data), size, 1, hp.seed, lengths=data.lengths)))[1]
    options = BatchOptions(hp.augment, generator(hp.seed, "timing"))
    times = []
    with torch.random.fork_rng():
        for _ in range(REPEATS + 1):
            start = time.perf_counter()
            train_mode(network, freeze_stages=0, update_batchnorm=False, dropout=hp.dropout)
            batch = data.batch(indices, options).to(device)
            gradients.backward(network, job, gradients.micro_batches(batch, gradients.micro_batch_size(network, hp)))
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
            network.zero_grad()
    network.eval()
    return min(times[1:]) * hp.batch_size / size
