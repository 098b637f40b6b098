"""How a network runs fastest here: precision, memory format, attention, compilation, chosen by timing a few steps."""

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
from torch import nn

from zoo.console import duration, say
from zoo.data.datasets import Batch
from zoo.data.sampler import training_order
from zoo.finetune import distributed
from zoo.finetune.job import Job
from zoo.finetune.network import Network, autocast, lay_out, set_mode, to_device
from zoo.finetune.recipe import seconds
from zoo.finetune.training.checkpoint import Keeper
from zoo.plugin import Backbone
from zoo.store import home
from zoo.tasks import LANGUAGE

FEW = 8
"""Examples of a timed step."""
WORTH = 15.0
"""Seconds that training has to take for timings to pay back."""
LONG = 1_200.0
"""Seconds from which compiling, which takes up to a minute (docs/log.md), is tried."""
GAIN = 0.95
"""A choice is made if it takes at most this share of the time without it."""


@dataclass(frozen=True, slots=True)
class Speed:
    """How to run a network: `attention` is "fused" (the backbone's own default) or "plain"."""

    precision: str = "fp32"
    channels_last: bool = True
    attention: str = "fused"
    compiled: bool = False

    def __str__(self) -> str:
        """Name what differs from the plainest way."""
        parts = [self.precision, "channels last" if self.channels_last else ""]
        parts += [f"{self.attention} attention" if self.attention != "fused" else "", "compiled" * self.compiled]
        return ", ".join(filter(None, parts))


def tuned(backbone: Backbone, job: Job, keeper: Keeper) -> Speed:
    """Return how to run a backbone: as a run that goes on did, as it was found out on this machine, or by timing now.

    What the recipe says of precision stays. Timing changes nothing but a file in the store.
    """
    if known := keeper.notes.get("speed"):
        return Speed(**known)
    recipe = job.recipe
    cuda = next(backbone.module.parameters()).is_cuda
    precision = recipe.precision if recipe.precision != "auto" else "bf16" if cuda else "fp32"
    speed = Speed(precision, any(p.ndim == 4 for p in backbone.module.parameters()))
    if recipe.autotune and recipe.strategy != "probe":
        speed = distributed.agreed(_known_or_timed(backbone, job, speed))
    keeper.notes["speed"] = dataclasses.asdict(speed)
    return speed


def _known_or_timed(backbone: Backbone, job: Job, speed: Speed) -> Speed:
    path = home() / "cache" / "speed" / f"{_key(backbone, job, speed)}.json"
    if (found := _kept(path)) is not None:
        return found
    start = time.monotonic()
    trial = Trial(backbone, job)
    plain = trial.seconds(speed)
    steps = (job.recipe.steps or 0) * job.recipe.batch_size / len(trial)
    most = seconds(job.recipe.budget) or math.inf
    if min(plain * steps, most) < WORTH:
        return speed
    best, fastest = speed, plain
    for change in _changes(backbone, job, speed):
        now = replace(best, **change)
        if (needed := trial.seconds(now)) < GAIN * fastest:
            best, fastest = now, needed
    if min(fastest * steps, most) > LONG and not job.recipe.freeze and distributed.world() == 1:
        now = replace(best, compiled=True)
        if (needed := trial.seconds(now)) < GAIN * fastest:
            best, fastest = now, needed
    spent = duration(time.monotonic() - start)
    say("speed", f"{best}: {plain / fastest:.1f} x the speed of {speed}, timed once on this machine  {spent}")
    _keep(path, best)
    return best


def _changes(backbone: Backbone, job: Job, speed: Speed) -> Iterator[dict[str, Any]]:
    """Yield what is tried, one after the other, on top of what was faster before."""
    if job.recipe.precision == "auto":
        yield {"precision": "bf16" if speed.precision == "fp32" else "fp32"}
    if backbone.attention is not None:
        yield {"attention": "plain"}
    if speed.channels_last:
        yield {"channels_last": False}


class Trial:
    """Times forward and backward passes on a few training examples; nothing is learnt from them."""

    def __init__(self, backbone: Backbone, job: Job, count: int = FEW) -> None:
        self.backbone, self.job = backbone, job
        module = backbone.module
        self.device = next(module.parameters()).device
        with torch.random.fork_rng():
            head = backbone.lm_head if job.task.name in LANGUAGE else job.task.head(backbone.dim).to(self.device)
        assert head is not None
        self.network = Network(module, head, job.task.reads)
        data = job.train
        size = min(count, len(data))
        indices = next(iter(training_order(len(data), size, 1, job.recipe.seed, lengths=data.lengths)))[1]
        chance = torch.Generator().manual_seed(0)
        self.batch = to_device(data.batch(indices, job.recipe.augment, chance), self.device)
        self.size = size

    def __len__(self) -> int:
        return self.size

    def seconds(self, speed: Speed, times: int = 2) -> float:
        """Return the shortest of several training steps without the optimiser's part, after one to warm up."""
        with fitting(self.backbone, speed), torch.random.fork_rng():
            set_mode(self.network, (), hold_norms=True, dropout=self.job.recipe.dropout == "on")
            found = [self._once(self.batch, speed.precision) for _ in range(times + 1)]
        self.network.eval()
        return min(found[1:])

    def _once(self, batch: Batch, precision: str) -> float:
        start = time.perf_counter()
        assert batch.targets is not None
        with autocast(self.device, precision):
            loss = self.job.task.loss(self.network(batch.inputs, batch.where), batch.targets)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        torch.autograd.grad(loss, trained, allow_unused=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


@contextmanager
def fitting(backbone: Backbone, speed: Speed) -> Iterator[None]:
    """Run the backbone in this way inside the block, as it comes afterwards."""
    module: nn.Module = backbone.module
    lay_out(module, channels_last=speed.channels_last)
    if backbone.attention is not None:
        backbone.attention(speed.attention)
    if speed.compiled:
        module.compile(dynamic=None)
    try:
        yield
    finally:
        if speed.compiled:
            module._compiled_call_impl = None  # what nn.Module.compile sets; there is no public way back
        if backbone.attention is not None:
            backbone.attention("fused")


def _key(backbone: Backbone, job: Job, speed: Speed) -> str:
    """Return the hash of what a choice depends on: machine, PyTorch, the net's parts, and what is asked of it."""
    machine = (platform.machine(), platform.processor(), _processor(), os.cpu_count(), torch.get_num_threads())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    recipe = job.recipe
    asked = (recipe.precision, recipe.dropout, recipe.max_length, recipe.strategy, job.task.reads, speed)
    parts = [(name, tuple(p.shape), p.requires_grad) for name, p in backbone.module.named_parameters()]
    return hashlib.sha256(repr((machine, device, torch.__version__, asked, parts)).encode()).hexdigest()[:32]


def _processor() -> str:
    """Return the name of the processor where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("model name")), "")


def _kept(path: Path) -> Speed | None:
    """Read a choice; None if there is none, or not one that this version knows."""
    try:
        return Speed(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _keep(path: Path, speed: Speed) -> None:
    """Write a choice for the next run, whole or not at all; a store that cannot be written to costs only time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(dataclasses.asdict(speed)))
        part.replace(path)
    except OSError:
        return
