"""The optimiser: parameter groups, and the learning rate over the steps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import nn, optim

from zoo.finetune.network import Network
from zoo.finetune.recipe import Recipe


def optimizer(network: Network, recipe: Recipe) -> optim.Optimizer:
    """Make AdamW, or SGD with Nesterov momentum 0.9, over the parameters that train."""
    inside = list(network.backbone.parameters())
    known = set(map(id, inside))  # the head of a language model is a part of its backbone
    own = [parameter for parameter in network.head.parameters() if id(parameter) not in known]
    groups = _groups(inside, recipe.backbone_lr, recipe) + _groups(own, recipe.lr, recipe)
    if recipe.optimizer == "sgd":
        return optim.SGD(groups, momentum=0.9, nesterov=True)
    return optim.AdamW(groups)


def _groups(parameters: Iterable[nn.Parameter], lr: float | None, recipe: Recipe) -> list[dict[str, Any]]:
    """Split by whether weight decay applies: not to biases and norms, whose parameters have one axis."""
    trained = [p for p in parameters if p.requires_grad]
    decayed, plain = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    split = ((decayed, recipe.weight_decay), (plain, 0.0))
    return [{"params": params, "lr": lr, "weight_decay": decay} for params, decay in split if params]


def schedule(solver: optim.Optimizer, recipe: Recipe) -> optim.lr_scheduler.LambdaLR:
    """Rise linearly over the warm-up, then fall to zero along a half cosine."""
    steps = recipe.steps or 1
    rise = max(1, round(recipe.warmup * steps))

    def share(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return optim.lr_scheduler.LambdaLR(solver, share)
