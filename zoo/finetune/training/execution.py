"""Execution: precision, memory format and attention of a run, by a rule or as the machine was calibrated; no clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from zoo.errors import RecipeError
from zoo.finetune.defaults import Hyperparameters
from zoo.finetune.job import Job
from zoo.finetune.network import set_memory_format
from zoo.finetune.runtime import distributed, machine, workers
from zoo.finetune.training import fsdp
from zoo.finetune.training.checkpoint import Checkpointer
from zoo.plugin import Backbone

SMALL = 1_000_000
"""Parameters below which bf16 costs more in conversions than it saves (docs/log.md)."""
LONG = 512
"""Tokens above which plain attention, which keeps all pairs of tokens, takes too much memory."""


@dataclass(frozen=True, slots=True)
class Execution:
    """How a network runs; `attention` is "fused" (the backbone's default) or "plain"."""

    precision: str = "fp32"
    channels_last: bool = True
    attention: str = "fused"

    def __str__(self) -> str:
        """Return what differs from the defaults."""
        parts = [self.precision, "channels last" if self.channels_last else ""]
        return ", ".join(filter(None, [*parts, "" if self.attention == "fused" else f"{self.attention} attention"]))


def choose(backbone: Backbone, job: Job, checkpoints: Checkpointer) -> Execution:
    """Return how to run a backbone: as the resumed run did, else by backbone, recipe and what the machine is good at.

    The same on every run on a machine, however busy it is. A precision in the recipe is kept; a probe runs in fp32.
    """
    if known := checkpoints.decisions.get("execution"):
        return Execution(**known)
    execution: Execution = distributed.broadcast(_by_rule(backbone, job.recipe.precision, job.hp))
    checkpoints.decisions["execution"] = dataclasses.asdict(execution)
    return execution


def _by_rule(backbone: Backbone, precision: str, hp: Hyperparameters) -> Execution:
    module = backbone.module
    device = next(module.parameters()).device
    preferred = machine.preferred(device, kind(module))
    if precision == "auto":
        small = sum(parameter.numel() for parameter in module.parameters()) < SMALL
        precision = "fp32" if small or hp.strategy == "probe" else preferred.precision
        if precision == "fp16" and fsdp.is_requested():
            precision = "fp32"
    if precision == "fp16" and (device.type == "cpu" or fsdp.is_requested()):
        where = "a CPU" if device.type == "cpu" else "FSDP, whose shards overflow apart"
        raise RecipeError(f'precision="fp16" is not for {where}', fix='precision="bf16", or "fp32"')
    plain = backbone.attention is not None and (hp.max_length or 0) <= LONG and precision in preferred.plain_attention
    return Execution(precision, _has_convolutions(module), "plain" if plain else "fused")


def kind(module: nn.Module) -> machine.Kind:
    """Return what dominates a network: "depthwise" or other "convolution", or "attention" (matrix products)."""
    convolutions = [part for part in module.modules() if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    if any(part.groups > 1 for part in convolutions):
        return "depthwise"
    return "convolution" if len(convolutions) > 1 else "attention"


def _has_convolutions(module: nn.Module) -> bool:
    return any(parameter.ndim == 4 for parameter in module.parameters())


@contextmanager
def applied(backbone: Backbone, execution: Execution) -> Iterator[None]:
    """Apply these settings inside the block; restore the attention on exit."""
    set_memory_format(backbone.module, channels_last=execution.channels_last)
    if backbone.attention is not None:
        backbone.attention(execution.attention)
    try:
        yield
    finally:
        if backbone.attention is not None:
            backbone.attention("fused")


def provenance(execution: Execution) -> dict[str, Any]:
    """Return what the bits of a run depend on beside the request: execution, processor, threads and PyTorch."""
    return dataclasses.asdict(execution) | machine.identity() | {"threads": workers.threads()}
