"""Optimizer: parameter groups by stage, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import nn, optim

from zoo.finetune.defaults import Hyperparameters
from zoo.finetune.freezing import parameters_by_stage
from zoo.finetune.network import Network

RANGE_TEST = (1e-7, 1.0)
"""Learning rates of the head at the first and last step of schedule "range-test" (Smith 2017, arXiv 1506.01186)."""


def build(network: Network, hp: Hyperparameters) -> optim.Optimizer:
    """Return AdamW, or SGD with Nesterov momentum 0.9, over the parameters that train.

    The last stage has learning rate hp.backbone_lr, each earlier one hp.layer_decay times that of the next.
    """
    stages = parameters_by_stage(network.backbone, network.stages)
    in_backbone = {id(parameter) for stage in stages for parameter in stage}
    head = [p for p in network.head.parameters() if id(p) not in in_backbone]  # an lm_head is part of the backbone
    groups = [
        group
        for number, stage in enumerate(stages)
        for group in _groups(stage, hp.backbone_lr * hp.layer_decay ** (len(stages) - 1 - number), hp.weight_decay)
    ]
    groups = _merged(groups) + _groups(head, hp.lr, hp.weight_decay)
    if hp.optimizer == "sgd":
        return optim.SGD(groups, momentum=0.9, nesterov=True)
    return optim.AdamW(groups, fused=True)


def _groups(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Return groups with and without weight decay: biases and norms, with one axis, have none."""
    trained = [p for p in parameters if p.requires_grad]
    decayed, plain = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    pairs = ((decayed, weight_decay), (plain, 0.0))
    return [{"params": params, "lr": lr, "peak": lr, "weight_decay": decay} for params, decay in pairs if params]


def _merged(groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge groups with equal settings: a fused step is one kernel for each group."""
    merged: dict[tuple[float, float], dict[str, Any]] = {}
    for group in groups:
        same = merged.setdefault((group["lr"], group["weight_decay"]), {**group, "params": []})
        same["params"] += group["params"]
    return list(merged.values())


def warmup_steps(hp: Hyperparameters) -> int:
    """Return the number of steps before the learning rate is at its peak."""
    return max(1, round(hp.warmup_ratio * hp.steps))


def lr_factor(step: int, hp: Hyperparameters) -> float:
    """Return the learning rate at a step as a share of its peak: linear warm-up, then cosine or linear decay to 0."""
    if hp.schedule == "range-test":
        low, high = RANGE_TEST
        return float(low * (high / low) ** (step / max(1, hp.steps - 1)) / hp.lr)
    warmup = warmup_steps(hp)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, hp.steps - warmup)
    return 1 - done if hp.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def set_learning_rates(optimizer: optim.Optimizer, hp: Hyperparameters, step: int) -> None:
    """Set the learning rate of every group for a step."""
    factor = lr_factor(step, hp)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
