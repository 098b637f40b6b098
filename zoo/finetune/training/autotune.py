"""Autotune: precision, memory format, attention and compilation, chosen by timing a few steps once a machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from zoo.console import duration, say
from zoo.data.batch_options import BatchOptions
from zoo.data.datasets import Batch
from zoo.data.sampler import training_order
from zoo.data.seeding import generator
from zoo.finetune.freezing import train_mode
from zoo.finetune.heads import new_head
from zoo.finetune.job import Job
from zoo.finetune.network import Network, autocast, set_memory_format
from zoo.finetune.runtime import distributed
from zoo.finetune.runtime.torch_internals import uncompile
from zoo.finetune.training.checkpoint import Checkpointer
from zoo.plugin import Backbone
from zoo.store import home

EXAMPLES = 8
"""Examples of a timed step."""
WORTH = 15.0
"""Seconds of training from which timing pays back."""
LONG = 1_200.0
"""Seconds of training from which compilation, which takes up to a minute, is tried."""
GAIN = 0.95
"""An option is chosen if it takes at most this share of the time without it."""


@dataclass(frozen=True, slots=True)
class Execution:
    """How a network runs; `attention` is "fused" (the backbone's default) or "plain"."""

    precision: str = "fp32"
    channels_last: bool = True
    attention: str = "fused"
    compiled: bool = False

    def __str__(self) -> str:
        """Return what differs from the defaults."""
        parts = [self.precision, "channels last" if self.channels_last else ""]
        parts += [f"{self.attention} attention" if self.attention != "fused" else "", "compiled" * self.compiled]
        return ", ".join(filter(None, parts))


def choose(backbone: Backbone, job: Job, checkpoints: Checkpointer) -> Execution:
    """Return how to run a backbone: as the resumed run did, as measured on this machine before, or by timing now.

    A precision in the recipe is kept.
    """
    if known := checkpoints.decisions.get("execution"):
        return Execution(**known)
    cuda = next(backbone.module.parameters()).is_cuda
    precision = job.recipe.precision if job.recipe.precision != "auto" else "bf16" if cuda else "fp32"
    execution = Execution(precision, any(p.ndim == 4 for p in backbone.module.parameters()))
    if job.hp.autotune and job.hp.strategy != "probe":
        execution = distributed.broadcast(_known_or_timed(backbone, job, execution))
    checkpoints.decisions["execution"] = dataclasses.asdict(execution)
    return execution


def _known_or_timed(backbone: Backbone, job: Job, default: Execution) -> Execution:
    path = home() / "cache" / "autotune" / f"{_key(backbone, job, default)}.json"
    if (found := _read(path)) is not None:
        return found
    start = time.monotonic()
    timer = StepTimer(backbone, job)
    default_seconds = timer.seconds(default)
    steps = job.hp.steps * job.hp.batch_size / len(timer)
    longest = job.hp.max_time or math.inf
    if min(default_seconds * steps, longest) < WORTH:
        return default
    best, fastest = default, default_seconds
    for change in _options(backbone, job, default):
        tried = replace(best, **change)
        if (needed := timer.seconds(tried)) < GAIN * fastest:
            best, fastest = tried, needed
    if min(fastest * steps, longest) > LONG and not job.hp.freeze_stages and distributed.world_size() == 1:
        tried = replace(best, compiled=True)
        if (needed := timer.seconds(tried)) < GAIN * fastest:
            best, fastest = tried, needed
    spent = duration(time.monotonic() - start)
    say("autotune", f"{best}: {default_seconds / fastest:.1f} x as fast as {default}, timed once a machine  {spent}")
    _write(path, best)
    return best


def _options(backbone: Backbone, job: Job, default: Execution) -> Iterator[dict[str, Any]]:
    """Yield the changes to try, each on top of the fastest so far."""
    if job.recipe.precision == "auto":
        yield {"precision": "bf16" if default.precision == "fp32" else "fp32"}
    if backbone.attention is not None:
        yield {"attention": "plain"}
    if default.channels_last:
        yield {"channels_last": False}


class StepTimer:
    """Times forward and backward passes on a few training examples; nothing is learnt from them."""

    def __init__(self, backbone: Backbone, job: Job, examples: int = EXAMPLES) -> None:
        self.backbone, self.job = backbone, job
        self.device = next(backbone.module.parameters()).device
        head = new_head(backbone, job.task, seed=job.hp.seed, zero=False).to(self.device)
        self.network = Network(backbone.module, head, job.task.reads)
        data = job.train
        self.size = min(examples, len(data))
        indices = next(iter(training_order(len(data), self.size, 1, job.hp.seed, lengths=data.lengths)))[1]
        options = BatchOptions(job.hp.augment, generator(job.hp.seed, "timing"))
        self.batch = data.batch(indices, options).to(self.device)

    def __len__(self) -> int:
        return self.size

    def seconds(self, execution: Execution, repeats: int = 2) -> float:
        """Return the shortest of several steps without the optimizer, after a warm-up."""
        with applied(self.backbone, execution), torch.random.fork_rng():
            train_mode(self.network, freeze_stages=0, update_batchnorm=False, dropout=self.job.hp.dropout)
            times = [self._once(self.batch, execution.precision) for _ in range(repeats + 1)]
        self.network.eval()
        return min(times[1:])

    def _once(self, batch: Batch, precision: str) -> float:
        start = time.perf_counter()
        assert batch.targets is not None
        with autocast(self.device, precision):
            loss = self.job.task.loss(self.network(batch.inputs, batch.selected), batch.targets)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        torch.autograd.grad(loss, trained, allow_unused=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


@contextmanager
def applied(backbone: Backbone, execution: Execution) -> Iterator[None]:
    """Apply these settings inside the block; restore attention and compilation on exit."""
    set_memory_format(backbone.module, channels_last=execution.channels_last)
    if backbone.attention is not None:
        backbone.attention(execution.attention)
    if execution.compiled:
        backbone.module.compile(dynamic=None)
    try:
        yield
    finally:
        if execution.compiled:
            uncompile(backbone.module)
        if backbone.attention is not None:
            backbone.attention("fused")


def _key(backbone: Backbone, job: Job, default: Execution) -> str:
    """Return the hash of everything a choice depends on: machine, PyTorch version, network, and recipe."""
    machine = (platform.machine(), platform.processor(), _processor(), os.cpu_count(), torch.get_num_threads())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    hp = job.hp
    asked = (job.recipe.precision, hp.dropout, hp.max_length, hp.strategy, job.task.reads, default)
    parts = [(name, tuple(p.shape), p.requires_grad) for name, p in backbone.module.named_parameters()]
    return hashlib.sha256(repr((machine, device, torch.__version__, asked, parts)).encode()).hexdigest()[:32]


def _processor() -> str:
    """Return the model name of the processor on Linux, "" elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("model name")), "")


def _read(path: Path) -> Execution | None:
    """Return a stored choice; None if there is none, or of another version."""
    try:
        return Execution(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write(path: Path, execution: Execution) -> None:
    """Store a choice atomically; a read-only store only costs time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(dataclasses.asdict(execution)))
        part.replace(path)
    except OSError:
        return
