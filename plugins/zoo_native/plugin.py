"""The plugin of the names native/…: build ResNets from the options of a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import PluginError
from zoo.plugin import Backbone, Entry, Exported, ImageInput, Plugin, Trained

if TYPE_CHECKING:
    from torch import Tensor

    from zoo_native.resnet import Architecture

OPTIONS = ("arch", "width", "dilation", "zero_init")
"""Valid options of a row: the base architecture `arch`, and overrides of fields of `Architecture`."""


class Native(Plugin):
    """ResNets with the parameter names of torchvision."""

    api = 1

    def build(self, entry: Entry, files: Mapping[str, Path]) -> Backbone:
        """Build the model of a row without weights; raises PluginError for invalid options."""
        from torch import nn

        from zoo_native.resnet import ResNet

        if not isinstance(entry.input, ImageInput):
            raise _error(entry, "takes images, not text", "set size, mean and std of input")
        net = ResNet(_architecture(entry), entry.input.channels)
        blocks = (item for item in net.named_modules() if item[0].startswith("layer"))
        # No LoRA on grouped convolutions: the rank would have to be a multiple of the 32 or 64 groups.
        targets = (name for name, module in blocks if isinstance(module, nn.Conv2d) and module.groups == 1)
        stages = (("conv1", "bn1"), *((layer,) for layer in net.layers))
        return Backbone(net, net.dim, entry.input, stages, lora_targets=tuple(targets))

    def adapt(self, entry: Entry, state: dict[str, Tensor], files: Mapping[str, Path]) -> dict[str, Tensor]:
        """Drop the pretrained classifier; all other keys are unchanged.

        Old files without num_batches_tracked get a buffer of 0, which is not used.
        """
        import torch

        kept = {key: tensor for key, tensor in state.items() if key not in ("fc.weight", "fc.bias")}
        norms = [key.removesuffix("running_mean") for key in kept if key.endswith(".running_mean")]
        return {f"{norm}num_batches_tracked": torch.tensor(0) for norm in norms} | kept

    def export(self, library: str, entry: Entry, trained: Trained, files: Mapping[str, Path]) -> Exported | None:
        """Return the network as timm's ResNet of the same name."""
        from zoo_native import exporting

        return exporting.exported(entry, trained) if library in ("timm", "transformers") else None


def _architecture(entry: Entry) -> Architecture:
    """Return the architecture of a row after validating its options."""
    from zoo_native.resnet import ARCHITECTURES

    options = dict(entry.options)
    for option in options:
        if option not in OPTIONS:
            raise _unknown(entry, f"option {option!r}", option, OPTIONS)
    name = str(options.pop("arch", ""))
    if name not in ARCHITECTURES:
        raise _unknown(entry, f"arch = {name!r}", name, ARCHITECTURES)
    arch = ARCHITECTURES[name]
    for option, (rule, holds) in _rules(len(arch.blocks) - 1).items():
        if option in options and not holds(options[option]):
            raise _error(entry, f"{option} = {options[option]!r} is not {rule}", f"set {option} to {rule}")
    if options.get("zero_init") and not arch.skip:
        what = f"zero_init = True makes {name} return zeros for every image: it has no skip connections"
        raise _error(entry, what, "remove zero_init")
    if "dilation" in options:
        options["dilation"] = tuple(options["dilation"])
    return replace(arch, **options)


def _rules(gaps: int) -> dict[str, tuple[str, Callable[[Any], bool]]]:
    """Return option -> (description, predicate); `gaps` is the number of stages after the first."""
    flags = f"a list of {gaps} booleans, one per stage after the first"
    return {
        "width": ("a positive integer", lambda v: type(v) is int and v > 0),
        "dilation": (flags, lambda v: isinstance(v, list | tuple) and [type(flag) for flag in v] == [bool] * gaps),
        "zero_init": ("true or false", lambda v: type(v) is bool),
    }


def _unknown(entry: Entry, what: str, name: str, known: Iterable[str]) -> PluginError:
    names = list(known)
    nearest = ", ".join(get_close_matches(name, names, n=3, cutoff=0.4) or names)
    return _error(entry, f"{what} is unknown; nearest: {nearest}", f"use one of {nearest}")


def _error(entry: Entry, what: str, edit: str) -> PluginError:
    where = f'["{entry.name}"] in {entry.catalogue}' if entry.catalogue else f'the row "{entry.name}"'
    return PluginError(f"{entry.name}: {what}", fix=f"{edit}, in {where}")


plugin = Native()
