"""timm's nets as a backbone is wanted: built from a row, returning Features, with the names of their parts."""

from __future__ import annotations

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
"""What a row may set: the net by timm's name, with a tag or without, and keyword arguments for its constructor."""
FETCHING = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
"""Arguments of timm that say where weights come from: a row says it with source and files, and core fetches them."""


def create(entry: Entry, **settings: Any) -> nn.Module:
    """Return the net of a row as timm makes it, for the size and the channels of the row's input.

    Raises PluginError, with what is allowed, if the row describes no net.
    """
    if not isinstance(entry.input, ImageInput):
        raise _error(entry, "takes images, not text", "give input a size, a mean and a std")
    if pretrained_cfg(entry).fixed_input_size:  # made for one size, to which loading resizes its position embeddings
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
    """Return what timm knows about the weights of a row's net, after a look at the row's options."""
    for option in entry.options:
        if option not in OPTIONS:
            raise _error(entry, f"option {option!r} is unknown; known: {', '.join(OPTIONS)}", f"delete {option}")
    if fetching := sorted({*FETCHING} & {*entry.options.get("args", {})}):
        raise _error(
            entry, f"args may describe a net, not fetch weights: {', '.join(fetching)}", "use source and files"
        )
    name = str(entry.options.get("arch", ""))
    try:
        cfg = models.get_pretrained_cfg(name) if models.is_model(name) else None
    except RuntimeError:  # a net it knows, with a tag that it does not
        cfg = None
    if cfg is None:
        known = timm.list_models() + timm.list_models(pretrained=True)
        nearest = ", ".join(get_close_matches(name, known, n=3)) or "none (zoo list timm/ shows all)"
        what = f"arch = {name!r} is unknown to timm {timm.__version__}; nearest: {nearest}"
        raise _error(entry, what, "correct arch (or: pip install --upgrade timm)")
    return cfg


def returning_features(net: nn.Module) -> nn.Module:
    """Make a net without classifier return Features; its parts keep their names, so timm reads our files and we its."""
    kind, ending = type(net), _Pooling if hasattr(net, "reset_classifier") else _Encoder
    net.__class__ = type(kind.__name__, (ending, kind), {})
    return net


class _Pooling(nn.Module):
    """A net that ends in one vector an image, what its classifier would see; transformers have tokens too."""

    forward_features: Callable[[Tensor], Any]
    forward_head: Callable[[Any], Tensor]

    def forward(self, images: Tensor) -> Features:
        """Map images (N, C, H, W) to pooled (N, D), and tokens (N, T, D) where the net has them."""
        x = self.forward_features(images)
        pooled = self.forward_head(x)
        is_tokens = isinstance(x, Tensor) and x.ndim == 3 and x.shape[2] == pooled.shape[1]
        return Features(pooled.float(), x if is_tokens else None)


class _Encoder(nn.Module):
    """A net that ends in tokens for a language model: their mean is the vector of an image."""

    def forward(self, images: Tensor) -> Features:
        """Map images (N, C, H, W) to tokens (N, T, D) and their mean (N, D)."""
        tokens = super().forward(images)
        return Features(tokens.mean(1).float(), tokens)


def dim(net: nn.Module) -> int:
    """Return the length D of the features that a net without classifier ends in."""
    length: Any = net.head_hidden_size
    return int(length)


def fill_buffers(net: nn.Module) -> None:
    """Give a net on the meta device the values that are in no file: position indices, rotary frequencies, masks.

    To compute them timm asks parameters for their device, so the whole net is given memory for as long as that takes;
    a page of memory that nobody touches costs nothing.
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
    """Keep a net from using the attention biases of earlier weights, which timm keeps for as long as it only infers."""
    for module in net.modules():
        if hasattr(module, "attention_bias_cache"):
            module.register_forward_pre_hook(_forget)


def _forget(module: nn.Module, args: object) -> None:
    cache: Any = module.attention_bias_cache
    cache.clear()


def stages(net: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Return the names of a net's parts from input to output, grouped as timm does it for layer-wise learning rates."""
    numbers = _numbers(net)
    found: dict[int, list[str]] = {number: [] for number in sorted(set(numbers.values()))}
    for number, name in _parts(net, "", numbers):
        found[number].append(name)
    return tuple(tuple(names) for names in found.values())


def _numbers(net: nn.Module) -> Mapping[str, int]:
    """Return the number of its stage for each parameter."""
    matcher: Any = getattr(net, "group_matcher", None)
    try:
        groups = matcher and matcher(coarse=True)
    except AssertionError:  # what RDNet has
        groups = None
    if groups is None:
        return _numbers_in_order(net)
    numbers: Mapping[str, int] = models.group_parameters(net, groups, reverse=True)
    return numbers


def _numbers_in_order(net: nn.Module) -> Mapping[str, int]:
    """Count a net's parts in the order it names them, each part of a sequence alone; what hangs loose is the first."""
    parts = []
    for name, child in net.named_children():
        sequence = isinstance(child, nn.Sequential | nn.ModuleList)
        parts += [f"{name}.{inner}." for inner, _ in child.named_children()] if sequence else [f"{name}."]
    names = [name for name, _ in net.named_parameters()]
    return {name: next((i for i, part in enumerate(parts) if name.startswith(part)), 0) for name in names}


def _parts(module: nn.Module, prefix: str, numbers: Mapping[str, int]) -> Iterator[tuple[int, str]]:
    """Yield (stage, name) of the largest parts of a module that are in one stage as a whole."""
    for name, _ in module.named_parameters(prefix.rstrip("."), recurse=False):
        if name in numbers:  # a tied parameter has one name only
            yield numbers[name], name
    for own, child in module.named_children():
        name = f"{prefix}{own}"
        inside = {number for key, number in numbers.items() if key.startswith(f"{name}.")}
        if len(inside) == 1:
            yield inside.pop(), name
        elif inside:
            yield from _parts(child, f"{name}.", numbers)


def lora_targets(net: nn.Module, stem: tuple[str, ...]) -> tuple[str, ...]:
    """Return the linear layers and ungrouped convolutions after the stem that an adapter can stand in for.

    Left out are subclasses of timm's own, which do more than their weights say (standardise them, pad the image), and
    a `qkv` whose attention has its biases apart: it takes the weight from the layer and never calls it.
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
    """Return what switches between torch's fused attention and plain products, None for a net without the choice."""
    able = [part for part in net.modules() if getattr(part, "fused_attn", False) is True]

    def switch(how: str) -> None:
        for part in able:
            part.fused_attn = how == "fused"  # type: ignore[assignment]

    return switch if able else None
