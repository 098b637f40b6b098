"""The optimiser: parameter groups by stage, and the learning rate over the steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn, optim

from zoo.finetune.network import Network
from zoo.finetune.recipe import Recipe

Stages = Sequence[Sequence[str]]


def optimizer(network: Network, recipe: Recipe, stages: Stages = ()) -> optim.Optimizer:
    """Make AdamW, or SGD with Nesterov momentum 0.9, over the parameters that train.

    The last stage has the rate recipe.backbone_lr, each one before it recipe.layer_decay times that of the next.
    """
    layers = by_stage(network.backbone, stages)
    known = {id(parameter) for layer in layers for parameter in layer}
    own = [p for p in network.head.parameters() if id(p) not in known]  # a language model's head is the backbone's
    decay, rate = recipe.layer_decay or 1.0, recipe.backbone_lr or 0.0
    groups = [
        group
        for number, layer in enumerate(layers)
        for group in _groups(layer, rate * decay ** (len(layers) - 1 - number), recipe)
    ]
    groups = _joined(groups) + _groups(own, recipe.lr, recipe)
    if recipe.optimizer == "sgd":
        return optim.SGD(groups, momentum=0.9, nesterov=True)
    return optim.AdamW(groups, fused=True)


def by_stage(module: nn.Module, stages: Stages) -> list[list[nn.Parameter]]:
    """Return a module's parameters stage by stage; those of no stage, as adapters may be, go with the last."""
    place = {name: number for number, stage in enumerate(stages) for name in stage}
    layers: list[list[nn.Parameter]] = [[] for _ in stages or [()]]
    for name, parameter in module.named_parameters():
        parts = name.split(".")
        prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        layers[next((place[prefix] for prefix in prefixes if prefix in place), -1)].append(parameter)
    return layers


def _groups(parameters: Iterable[nn.Parameter], lr: float | None, recipe: Recipe) -> list[dict[str, Any]]:
    """Split by whether weight decay applies: not to biases and norms, whose parameters have one axis."""
    trained = [p for p in parameters if p.requires_grad]
    decayed, plain = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
    split = ((decayed, recipe.weight_decay), (plain, 0.0))
    return [{"params": params, "lr": lr, "peak": lr, "weight_decay": decay} for params, decay in split if params]


def _joined(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put groups of equal settings together: a fused step is taken once a group."""
    found: dict[tuple[float, float], dict[str, Any]] = {}
    for group in groups:
        same = found.setdefault((group["lr"], group["weight_decay"]), {**group, "params": []})
        same["params"] += group["params"]
    return list(found.values())


def share(step: int, recipe: Recipe) -> float:
    """Return the share of the peak rates at a step: a linear rise, then a half cosine or a line down to 0."""
    steps = recipe.steps or 1
    rise = max(1, round(recipe.warmup * steps))
    if step < rise:
        return (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)
    return 1 - done if recipe.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def set_rates(solver: optim.Optimizer, recipe: Recipe, step: int) -> None:
    """Set the learning rate of every group for a step."""
    now = share(step, recipe)
    for group in solver.param_groups:
        group["lr"] = group["peak"] * now
