"""timm models as backbones: build from a row, return Features, group parameters into stages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import timm
import torch
from timm import models
from timm.models import PretrainedCfg, _manipulate
from torch import Tensor, nn

from zoo.errors import PluginError
from zoo.plugin import Entry, Features, ImageInput

OPTIONS = ("arch", "args")
"""Valid options of a row: the timm model name, with or without a tag, and keyword arguments of the model."""
FACTORY = re.compile(
    "pretrained|checkpoint|cache_dir|features_only|feature_cfg|filter|device|dtype|scriptable|exportable"
)
"""Arguments of create_model that are not of an architecture: weights, intermediate features, devices, export."""
WORD = re.compile(r"[\w.-]{0,64}", re.ASCII)
"""Texts that an argument of an architecture may be: names of layers and of pooling, no paths and no addresses."""
LARGEST = 1_000_000
"""Maximum value of an integer argument."""
LAYERS, MOST_LAYERS = re.compile("depth|layers|blocks|num_stages|repeats"), 10_000
"""Keys of numbers of layers, and their maximum."""


def create(entry: Entry, **settings: Any) -> nn.Module:
    """Create the timm model of a row for the size and channels of its input.

    Raises PluginError with the valid values if the row is invalid.
    """
    if not isinstance(entry.input, ImageInput):
        raise _error(entry, "takes images, not text", "set size, mean and std of input")
    if pretrained_cfg(entry).fixed_input_size:  # loading resizes the position embeddings to img_size
        settings["img_size"] = (entry.input.size, entry.input.size)
    settings["in_chans"] = entry.input.channels
    try:
        net: nn.Module = timm.create_model(entry.options["arch"], **{**entry.options.get("args", {}), **settings})
    except Exception as error:
        asked = f"for {entry.input.channels} x {entry.input.size} px"
        said = str(error) or type(error).__name__
        what = f"timm {timm.__version__} cannot build {entry.options['arch']} {asked}: {said}"
        raise _error(entry, what, "change the input or the args") from error
    return net


def pretrained_cfg(entry: Entry) -> PretrainedCfg:
    """Return timm's pretrained configuration of a row, after validating the options of the row."""
    for option in entry.options:
        if option not in OPTIONS:
            raise _error(entry, f"option {option!r} is unknown; known: {', '.join(OPTIONS)}", f"remove {option}")
    _check_arguments(entry, entry.options.get("args", {}))
    name = str(entry.options.get("arch", ""))
    try:
        cfg = models.get_pretrained_cfg(name) if models.is_model(name) else None
    except RuntimeError:  # known model, unknown tag
        cfg = None
    if cfg is None:
        known = timm.list_models() + timm.list_models(pretrained=True)
        nearest = ", ".join(get_close_matches(name, known, n=3)) or "none (zoo list timm/ shows all)"
        what = f"arch = {name!r} is unknown to timm {timm.__version__}; nearest: {nearest}"
        raise _error(entry, what, "correct arch (or: pip install --upgrade timm)")
    return cfg


def _check_arguments(entry: Entry, arguments: Any) -> None:
    """Raise PluginError unless arguments are hyperparameters: numbers, words, and lists and tables of them."""
    if not isinstance(arguments, Mapping):
        raise _error(entry, f"args = {arguments!r:.80} is not a table", "write args as a table")
    if factory := sorted(name for name in arguments if FACTORY.search(name)):
        what = f"args takes arguments of the architecture, not {', '.join(factory)}"
        raise _error(entry, what, "remove them; source and files name the weights")
    for name, value in arguments.items():
        if not _is_plain(name, value):
            raise _error(entry, f"args: {name} = {value!r:.80} is no hyperparameter", f"correct args.{name}")


def _is_plain(name: str, value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(key, item) and not FACTORY.search(key) for key, item in value.items())
    if isinstance(value, list | tuple):
        return len(value) <= MOST_LAYERS and all(_is_plain(name, item) for item in value)
    if isinstance(value, str):
        return WORD.fullmatch(value) is not None
    if type(value) is int:
        return abs(value) <= (MOST_LAYERS if LAYERS.search(name) else LARGEST)
    return value is None or isinstance(value, bool | float)


def returning_features(net: nn.Module) -> nn.Module:
    """Make a model without classifier return Features, keeping the parameter names of timm."""
    kind, ending = type(net), _PooledFeatures if hasattr(net, "reset_classifier") else _TokenFeatures
    net.__class__ = type(kind.__name__, (ending, kind), {})
    return net


class _PooledFeatures(nn.Module):
    """A model that ends in pooled features, the input of its classifier; transformers return tokens too."""

    forward_features: Callable[[Tensor], Any]
    forward_head: Callable[[Any], Tensor]

    def forward(self, images: Tensor) -> Features:
        """Map images (N, C, H, W) to pooled (N, D), and tokens (N, T, D) of a transformer."""
        x = self.forward_features(images)
        pooled = self.forward_head(x)
        is_tokens = isinstance(x, Tensor) and x.ndim == 3 and x.shape[2] == pooled.shape[1]
        return Features(pooled.float(), x if is_tokens else None)


class _TokenFeatures(nn.Module):
    """A vision encoder of a language model, which ends in tokens: pooled is their mean."""

    def forward(self, images: Tensor) -> Features:
        """Map images (N, C, H, W) to tokens (N, T, D) and their mean (N, D)."""
        tokens = super().forward(images)
        return Features(tokens.mean(1).float(), tokens)


def dim(net: nn.Module) -> int:
    """Return the dimension D of the pooled features."""
    length: Any = net.head_hidden_size
    return int(length)


def fill_buffers(net: nn.Module) -> None:
    """Initialise non-persistent buffers of a model on the meta device: position indices, rotary frequencies, masks.

    timm computes them on the device of the parameters, so the model is moved to uninitialised CPU memory meanwhile;
    memory pages that are never written are not allocated.
    """
    saved = net.state_dict().keys()
    if not any(buffer.is_meta and name not in saved for name, buffer in net.named_buffers()):
        return
    with torch.device("cpu"):
        net.to_empty(device="cpu")
        _manipulate.reinit_non_persistent_buffers(net)
    filled = {name: buffer for name, buffer in net.named_buffers() if name not in saved}
    net.to("meta")
    for name, buffer in filled.items():
        owner, _, own = name.rpartition(".")
        net.get_submodule(owner).register_buffer(own, buffer, persistent=False)


def forget_caches(net: nn.Module) -> None:
    """Clear cached attention biases before each forward pass: timm's eval mode cache ignores changed weights."""
    for module in net.modules():
        if hasattr(module, "attention_bias_cache"):
            module.register_forward_pre_hook(_clear_cache)


def _clear_cache(module: nn.Module, args: object) -> None:
    cache: Any = module.attention_bias_cache
    cache.clear()


def stages(net: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Return the module names of each stage from input to output, grouped as for timm's layer-wise learning rates."""
    numbers = _stage_indices(net)
    found: dict[int, list[str]] = {number: [] for number in sorted(set(numbers.values()))}
    for number, name in _stage_modules(net, "", numbers):
        found[number].append(name)
    return tuple(tuple(names) for names in found.values())


def _stage_indices(net: nn.Module) -> Mapping[str, int]:
    """Map each parameter name to its stage index."""
    matcher: Any = getattr(net, "group_matcher", None)
    try:
        groups = matcher and matcher(coarse=True)
    except AssertionError:  # raised by RDNet
        groups = None
    if groups is None:
        return _stages_by_order(net)
    numbers: Mapping[str, int] = models.group_parameters(net, groups, reverse=True)
    return numbers


def _stages_by_order(net: nn.Module) -> Mapping[str, int]:
    """Map parameters to stages by order of child modules, each item of a sequence alone; direct ones are in stage 0."""
    parts = []
    for name, child in net.named_children():
        sequence = isinstance(child, nn.Sequential | nn.ModuleList)
        parts += [f"{name}.{inner}." for inner, _ in child.named_children()] if sequence else [f"{name}."]
    names = [name for name, _ in net.named_parameters()]
    return {name: next((i for i, part in enumerate(parts) if name.startswith(part)), 0) for name in names}


def _stage_modules(module: nn.Module, prefix: str, numbers: Mapping[str, int]) -> Iterator[tuple[int, str]]:
    """Yield (stage, name) of the largest submodules that lie in one stage."""
    for name, _ in module.named_parameters(prefix.rstrip("."), recurse=False):
        if name in numbers:  # tied parameters are listed once
            yield numbers[name], name
    for own, child in module.named_children():
        name = f"{prefix}{own}"
        inside = {number for key, number in numbers.items() if key.startswith(f"{name}.")}
        if len(inside) == 1:
            yield inside.pop(), name
        elif inside:
            yield from _stage_modules(child, f"{name}.", numbers)


def lora_targets(net: nn.Module, stem: tuple[str, ...]) -> tuple[str, ...]:
    """Return the linear layers and ungrouped convolutions after the stem that LoRA adapters can wrap.

    Excluded are timm's subclasses with other semantics (weight standardisation, same padding), and `qkv` layers of
    attention with separate biases, which uses the weight without calling the layer.
    """
    targets = []
    for name, module in net.named_modules():
        above = net.get_submodule(name.rpartition(".")[0])
        plain = type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1)
        called = not (name.endswith("qkv") and getattr(above, "q_bias", None) is not None)
        if plain and called and not any(f"{name}.".startswith(f"{part}.") for part in stem):
            targets.append(name)
    return tuple(targets)


def _error(entry: Entry, what: str, edit: str) -> PluginError:
    where = f'["{entry.name}"] in {entry.catalogue}' if entry.catalogue else f'the row "{entry.name}"'
    return PluginError(f"{entry.name}: {what}", fix=f"{edit}, in {where}")


def attention(net: nn.Module) -> Callable[[str], None] | None:
    """Return a function that switches between fused SDPA and eager attention; None if the model has no such option."""
    able = [part for part in net.modules() if getattr(part, "fused_attn", False) is True]

    def switch(how: str) -> None:
        for part in able:
            part.fused_attn = how == "fused"  # type: ignore[assignment]

    return switch if able else None
