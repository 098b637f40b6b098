"""Freezing: which parameters of a backbone train, and which of its modules are in training mode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from zoo.finetune.network import Network
from zoo.plugin import Backbone

Stages = Sequence[Sequence[str]]
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def has_batchnorm(module: nn.Module) -> bool:
    """Return whether a module contains BatchNorm layers."""
    return any(isinstance(part, BATCH_NORMS) for part in module.modules())


def parameters_by_stage(module: nn.Module, stages: Stages) -> list[list[nn.Parameter]]:
    """Return a module's parameters stage by stage; those of no stage, such as adapters, belong to the last."""
    stage_of = {name: number for number, stage in enumerate(stages) for name in stage}
    groups: list[list[nn.Parameter]] = [[] for _ in stages or [()]]
    for name, parameter in module.named_parameters():
        parts = name.split(".")
        prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        groups[next((stage_of[prefix] for prefix in prefixes if prefix in stage_of), -1)].append(parameter)
    return groups


@contextmanager
def requires_grad_restored(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Restore the requires_grad of each parameter on exit."""
    before = [(parameter, parameter.requires_grad) for parameter in parameters]
    try:
        yield
    finally:
        for parameter, trained in before:
            parameter.requires_grad_(trained)


@contextmanager
def first_stages_frozen(backbone: Backbone, count: int) -> Iterator[None]:
    """Let all stages but the first `count` train inside the block; restore every requires_grad on exit."""
    with requires_grad_restored(backbone.module.parameters()):
        for number, group in enumerate(parameters_by_stage(backbone.module, backbone.stages)):
            for parameter in group:
                parameter.requires_grad_(number >= count)
        yield


def train_mode(network: Network, *, freeze_stages: int, update_batchnorm: bool, dropout: bool) -> None:
    """Switch a network to training mode, except for what stays fixed.

    Without dropout everything but updating BatchNorms stays in eval mode, which also disables functional dropout and
    stochastic depth. Frozen stages are always in eval mode: their running statistics stay bit-identical.
    """
    frozen = {name for stage in network.stages[:freeze_stages] for name in stage}
    network.train(dropout)
    for module in network.modules():
        if isinstance(module, BATCH_NORMS):
            module.train(update_batchnorm)
    for name, module in network.backbone.named_modules():
        if name in frozen:
            module.eval()


@contextmanager
def eval_mode(module: nn.Module, *, gradients: bool = False) -> Iterator[None]:
    """Switch to eval mode, without gradients unless asked; restore the mode of every submodule on exit."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.enable_grad() if gradients else torch.inference_mode():
            yield
    finally:
        for part, training in modes:
            part.training = training
