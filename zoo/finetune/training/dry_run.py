"""Dry run: the resolved recipe of a run with its predicted time and memory, from steps that teach nothing."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import torch

from zoo.console import duration
from zoo.finetune import recipe as recipes
from zoo.finetune.defaults import Hyperparameters
from zoo.finetune.freezing import requires_grad_restored
from zoo.finetune.job import Job
from zoo.finetune.training import execution, time_budget
from zoo.finetune.training.checkpoint import Checkpointer
from zoo.plugin import Backbone


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do, and what it would take on this machine.

    hp           the recipe, resolved
    step         seconds of an optimizer step, measured; 0 for a probe
    features     seconds to compute the features of a probe, by a measured forward pass; 0 without a probe
    evaluation   seconds of an evaluation: a forward pass is a third of a step
    memory       bytes at the peak: of the process, or allocated on the GPU; None where the system does not say
    """

    hp: Hyperparameters
    step: float
    features: float
    evaluation: float
    memory: int | None

    @property
    def seconds(self) -> float:
        """Predicted seconds of the training, at most max_time; early stopping may end it sooner."""
        steps = 0 if self.hp.strategy == "probe" else self.hp.steps * self.step + self.evals * self.evaluation
        return min(self.features + steps, self.hp.max_time or float("inf"))

    @property
    def evals(self) -> int:
        """Number of evaluations."""
        return min(self.hp.evals, self.hp.steps)

    def __str__(self) -> str:
        """Return time and memory, and what was measured."""
        parts = [f"features {duration(self.features)}"] if self.features else []
        if self.step:
            parts += [f"{self.hp.steps} steps of {self.step:.3g} s", f"{self.evals} evaluations"]
        memory = "" if self.memory is None else f", {self.memory / 1e9:.2g} GB of memory"
        return f"about {duration(self.seconds)}{memory}: {' + '.join(parts)}, by timing one batch; nothing was trained"

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        recipe = recipes.to_dict(self.hp)
        return {"seconds": round(self.seconds, 2), "memory": self.memory, "step": self.step, "recipe": recipe}


def plan(backbone: Backbone, job: Job) -> Plan:
    """Time a batch of a job and return its plan; parameters, buffers and random numbers are as before."""
    module, hp = backbone.module, job.hp
    device = next(module.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    step = features = 0.0
    with requires_grad_restored(module.parameters()):
        module.requires_grad_(True)
        with execution.applied(backbone, execution.choose(backbone, job, Checkpointer())):
            if job.has_probe:
                count = job.examples * hp.most_views + (len(job.valid) if job.valid else 0)
                features = _seconds_of_forward(backbone, job) * count
            if hp.strategy != "probe":
                step = time_budget.seconds_of_step(backbone, job)
    evaluation = (len(job.valid) if job.valid else 0) / hp.batch_size * step / 3
    states = sum(p.numel() * p.element_size() for p in module.parameters()) if step else 0
    peak = _peak(device)
    # beside weights and activations, which were measured: two moments of AdamW, and a copy of the best weights
    return Plan(hp, step, features, evaluation, None if peak is None else peak + 3 * states)


def _seconds_of_forward(backbone: Backbone, job: Job) -> float:
    """Return the seconds of a forward pass per example: the shorter of two, of one batch."""
    device = next(backbone.module.parameters()).device
    batch = job.train.batch(torch.arange(min(job.hp.batch_size, len(job.train)))).to(device)
    times = []
    with torch.inference_mode():
        for _ in range(2):
            start = time.perf_counter()
            backbone.module(batch.inputs)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return min(times) / batch.size


def _peak(device: torch.device) -> int | None:
    """Return the largest memory so far in bytes: allocated on a GPU, else resident in this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
