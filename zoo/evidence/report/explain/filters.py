"""The filters of the first convolution as small pictures."""

from __future__ import annotations

import torch
from torch import nn

from zoo.evidence.report.explain.explanation import Filters
from zoo.plugin import Backbone, ImageInput

MOST = 64
"""Filters shown, at most."""


def first_filters(backbone: Backbone) -> Filters | str:
    """Return the filters of the first convolution on the image, strongest first, or why there are none to show."""
    if not isinstance(backbone.input, ImageInput):
        return "the backbone reads texts"
    name = first_convolution(backbone.module, backbone.input.channels)
    if name is None:
        return "the backbone has no convolution on the pixels"
    weight = backbone.module.get_parameter(f"{name}.weight").detach().float().cpu()  # (K, C, h, w)
    if weight.shape[1] not in (1, 3):
        return f"the filters have {weight.shape[1]} channels, and a picture has 1 or 3"
    strongest = weight.flatten(1).norm(dim=1).argsort(descending=True, stable=True)[:MOST]
    kept = weight[strongest]
    largest = kept.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    pictures = (127.5 + 127.5 * kept / largest).round().to(torch.uint8)
    filters, channels, height, width = weight.shape
    return Filters(name, (filters, channels, height, width), pictures.permute(0, 2, 3, 1).numpy())


def first_convolution(module: nn.Module, channels: int) -> str | None:
    """Return the name of the first convolution that has the channels of the image; None without any."""
    found = ((name, part) for name, part in module.named_modules() if isinstance(part, nn.Conv2d))
    return next((name for name, part in found if part.in_channels == channels and part.groups == 1), None)
