"""What fine-tuning moved: the distance of the weights of each stage from the pretrained ones."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.evidence.report.explain.stages import stage_of
from zoo.plugin import Backbone


def weight_distances(tuned: Backbone, pretrained: Backbone) -> list[float | None]:
    """Return |tuned - pretrained| / |pretrained| of each stage, Euclidean norms over its parameters.

    0 for bit-identical ones, None for a stage whose pretrained parameters are all zero or not there.
    """
    before = dict(pretrained.module.named_parameters())
    changed, norms = ([0.0] * len(tuned.stages) for _ in range(2))
    with torch.no_grad():
        for name, after in tuned.module.named_parameters():
            if name in before and before[name].shape == after.shape:
                stage = stage_of(tuned, name) - 1
                changed[stage] += _square(after - before[name])
                norms[stage] += _square(before[name])
    return [(each / norm) ** 0.5 if norm else None for each, norm in zip(changed, norms, strict=True)]


def is_unchanged(tuned: Backbone, pretrained: Backbone) -> bool:
    """Return whether all parameters and buffers are bit-identical, so that the outputs are the same."""
    before, after = pretrained.module.state_dict(), tuned.module.state_dict()
    return before.keys() == after.keys() and all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def parameter_counts(backbone: Backbone) -> list[int]:
    """Return the number of parameters of each stage."""
    counts = [0] * len(backbone.stages)
    for name, parameter in backbone.module.named_parameters():
        counts[stage_of(backbone, name) - 1] += parameter.numel()
    return counts


def _square(tensor: Tensor) -> float:
    return float(tensor.double().square().sum())
