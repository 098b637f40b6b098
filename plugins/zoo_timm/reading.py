"""Convert checkpoints by timm's own filters, so that they can be loaded with strict=True."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from threading import Lock, get_ident
from typing import Any

import torch
from timm import data, models
from timm.models import _builder
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.errors import PluginError
from zoo.plugin import Classifier, Entry, ImageInput
from zoo_timm import nets

State = dict[str, Tensor]
_PATCHING = Lock()


@dataclass(frozen=True, slots=True)
class Reader:
    """timm's loading rules for a row.

    net      model with classifier, on the meta device
    renamed  checkpoint filter: converts keys of other projects, resizes position and patch embeddings
    strict   False: checkpoints of this family may lack a norm or have unused keys
    """

    net: nn.Module
    renamed: Callable[[State], State]
    strict: bool


def reader(entry: Entry) -> Reader:
    """Return timm's loading rules for a row, captured while it creates the model."""
    with shapes_only(), _record_loading() as recorded:
        net = nets.create(entry, pretrained=True)
    family = recorded["filter_fn"]
    if family is None:
        return Reader(net, lambda state: state, recorded["strict"])
    more = (net,) if len(signature(family).parameters) > 1 else ()
    return Reader(net, lambda state: family(state, *more), recorded["strict"])


def adapt(entry: Entry, state: State) -> State:
    """Convert a checkpoint to the keys of the row's model, without the classifier."""
    found = reader(entry)
    state = found.renamed(dict(state))
    _adapt_stem(entry, found.net, state)
    heads = head_keys(found.net)
    state = {key: tensor for key, tensor in state.items() if key not in heads}
    return state if found.strict else _match_keys(found.net, state)


def head_keys(net: nn.Module) -> set[str]:
    """Remove the classifier of a model and return its state dict keys."""
    before = net.state_dict().keys()
    reset: Any = getattr(net, "reset_classifier", None)  # vision encoders of language models have none
    if reset:
        reset(0)
    return before - net.state_dict().keys()


def classifier(entry: Entry, state: Mapping[str, Tensor]) -> Classifier | None:
    """Return the ImageNet classifier of an official timm checkpoint; None unless it is one linear layer."""
    cfg = nets.pretrained_cfg(entry)
    subset = data.infer_imagenet_subset({"num_classes": cfg.num_classes})
    source = (entry.source or "").partition("@")[0]
    if subset is None or source != f"hf://{cfg.hf_hub_id}" or not isinstance(cfg.classifier, str):
        return None
    names = tuple(f"{cfg.classifier}.{kind}" for kind in ("weight", "bias"))
    if head_keys(reader(entry).net) != set(names) or not state.keys() >= set(names):
        return None
    weight, bias = (state[name] for name in names)
    labels = data.ImageNetInfo(subset).label_descriptions()
    if weight.numel() != len(labels) * weight.shape[1] or len(bias) != len(labels):
        return None
    return Classifier(tuple(tuple(names.split(", ")) for names in labels), weight.flatten(1), bias)


def _adapt_stem(entry: Entry, net: nn.Module, state: State) -> None:
    """Adapt the first convolutions to the input channels: sum RGB weights for grey, repeat them for more channels."""
    assert isinstance(entry.input, ImageInput)
    stems = models.get_model_traits(net).get("first_conv") or ()
    for name in (stems,) if isinstance(stems, str) else stems:
        key = f"{name}.weight"
        if key not in state or state[key].shape == net.get_submodule(name).weight.shape:
            continue
        base = nets.pretrained_cfg(entry).input_size[0]
        try:
            state[key] = models.adapt_input_conv(entry.input.channels, state[key], base_chans=base)
        except (NotImplementedError, AssertionError) as error:  # AssertionError: groups of channels, summed for grey
            what = f"{entry.name}: the first layer cannot be adapted to {entry.input.channels} channels"
            fix = f"set mean and std of its input to {base} channels"
            raise PluginError(what, fix=fix) from error


def _match_keys(net: nn.Module, state: State) -> State:
    """Drop unexpected keys and initialise missing LayerNorms to the identity, as timm does."""
    wanted = net.state_dict()
    kept = {key: tensor for key, tensor in state.items() if key in wanted}
    for key in wanted.keys() - kept.keys():
        owner, _, own = key.rpartition(".")
        if isinstance(net.get_submodule(owner), nn.LayerNorm):
            kept[key] = torch.full(wanted[key].shape, 1.0 if own == "weight" else 0.0)
    return kept


@contextmanager
def _record_loading() -> Iterator[dict[str, Any]]:
    """Patch timm's load_pretrained to record its arguments instead of loading.

    Other threads still load their weights.
    """
    recorded: dict[str, Any] = {}
    thread = get_ident()

    def intercept(net: nn.Module, **settings: Any) -> None:
        if get_ident() == thread:
            recorded.update(settings)
        else:
            load(net, **settings)

    with _PATCHING:
        load = _builder.load_pretrained
        _builder.load_pretrained = intercept
        try:
            yield recorded
        finally:
            _builder.load_pretrained = load


@contextmanager
def shapes_only() -> Iterator[None]:
    """Create models on the meta device and skip initialisation: fast and without memory."""
    with torch.device("meta"), _SkipInit():
        yield


class _SkipInit(TorchFunctionMode):
    """Skip in-place operations on meta tensors: initialisation takes most of the time of building a model."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name, first = getattr(func, "__name__", ""), next(iter((*args, *kwargs.values())), None)
        if name.endswith("_") and not name.endswith("__") and isinstance(first, Tensor) and first.is_meta:
            return first
        return func(*args, **kwargs)
