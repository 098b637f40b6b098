"""LoRA (Hu et al. 2021, arXiv 2106.09685) with peft: adapters are injected, trained, and merged into the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from zoo.data.seeding import derive_seed
from zoo.errors import RecipeError
from zoo.plugin import Backbone


@contextmanager
def adapters(backbone: Backbone, rank: int, seed: int) -> Iterator[None]:
    """Inject adapters into the backbone's LoRA targets; inside the block only these train.

    On exit the adapters are merged: the module has its own layers again, with changed weights and unchanged names. The
    scale is alpha = 2 * rank. Raises RecipeError if the backbone has no targets.
    """
    if not backbone.lora_targets:
        raise RecipeError(
            'strategy="lora" needs layers for adapters, and this backbone names none',
            fix='strategy="full", or strategy="probe"',
        )
    from peft import LoraConfig, inject_adapter_in_model

    module = backbone.module
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=list(backbone.lora_targets))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "lora"))
        inject_adapter_in_model(config, module)
    try:
        yield
    finally:
        _merge(module)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in trained)


def _merge(module: nn.Module) -> None:
    """Merge each adapter into its layer, and put the layer back in place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapped = [(name, part) for name, part in module.named_modules() if isinstance(part, BaseTunerLayer)]
    for name, layer in wrapped:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, layer.get_base_layer())
