"""timm's rules for reading a weight file, followed in a way that lets the result be loaded strictly."""

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
    """How timm reads files for a row.

    net      the row's net with its classifier, shapes only
    renamed  gives a file the keys and the shapes of `net`: other projects' names, position embeddings, patches
    strict   False: timm knows that files of this family lack a norm, or hold keys that nothing uses
    """

    net: nn.Module
    renamed: Callable[[State], State]
    strict: bool


def reader(entry: Entry) -> Reader:
    """Return how timm would read a file into the net of a row, which is built to find that out."""
    with shapes_only(), _instead_of_loading() as asked:
        net = nets.create(entry, pretrained=True)
    family = asked["filter_fn"]
    if family is None:
        return Reader(net, lambda state: state, asked["strict"])
    more = (net,) if len(signature(family).parameters) > 1 else ()
    return Reader(net, lambda state: family(state, *more), asked["strict"])


def adapt(entry: Entry, state: State) -> State:
    """Return a file's tensors under the keys of the row's net, without those of its classifier."""
    found = reader(entry)
    state = found.renamed(dict(state))
    _adapt_stem(entry, found.net, state)
    heads = head_keys(found.net)
    state = {key: tensor for key, tensor in state.items() if key not in heads}
    return state if found.strict else _allowed_for(found.net, state)


def head_keys(net: nn.Module) -> set[str]:
    """Take the classifier off a net, and return the keys that went with it."""
    before = net.state_dict().keys()
    reset: Any = getattr(net, "reset_classifier", None)  # encoders of language models have no classifier
    if reset:
        reset(0)
    return before - net.state_dict().keys()


def classifier(entry: Entry, state: Mapping[str, Tensor]) -> Classifier | None:
    """Return the ImageNet classifier in a file of timm's own: one linear layer on the pooled features, or None."""
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
    """Fit the first convolutions to the channels of the input: grey sums the colours, more channels repeat them."""
    assert isinstance(entry.input, ImageInput)
    stems = models.get_model_traits(net).get("first_conv") or ()
    for name in (stems,) if isinstance(stems, str) else stems:
        key = f"{name}.weight"
        if key not in state or state[key].shape == net.get_submodule(name).weight.shape:
            continue
        try:
            base = nets.pretrained_cfg(entry).input_size[0]
            state[key] = models.adapt_input_conv(entry.input.channels, state[key], base_chans=base)
        except (NotImplementedError, AssertionError) as error:
            what = f"{entry.name}: the first layer of this net cannot be fitted to {entry.input.channels} channels"
            fix = f"give its input a mean and a std of {base} channels, and such images"
            raise PluginError(what, fix=fix) from error


def _allowed_for(net: nn.Module, state: State) -> State:
    """Drop what the net has no key for, and start norms that the file lacks as the identity, as timm does."""
    wanted = net.state_dict()
    kept = {key: tensor for key, tensor in state.items() if key in wanted}
    for key in wanted.keys() - kept.keys():
        owner, _, own = key.rpartition(".")
        if isinstance(net.get_submodule(owner), nn.LayerNorm):
            kept[key] = torch.full(wanted[key].shape, 1.0 if own == "weight" else 0.0)
    return kept


@contextmanager
def _instead_of_loading() -> Iterator[dict[str, Any]]:
    """Keep what timm would load a file with: it tells this function of its builder and nobody else.

    A net that another thread loads meanwhile is loaded.
    """
    asked: dict[str, Any] = {}
    thread = get_ident()

    def keep(net: nn.Module, **settings: Any) -> None:
        if get_ident() == thread:
            asked.update(settings)
        else:
            load(net, **settings)

    with _PATCHING:
        load = _builder.load_pretrained
        _builder.load_pretrained = keep
        try:
            yield asked
        finally:
            _builder.load_pretrained = load


@contextmanager
def shapes_only() -> Iterator[None]:
    """Make nets without values inside the block: next to no time, no memory."""
    with torch.device("meta"), _NoValues():
        yield


class _NoValues(TorchFunctionMode):
    """Leaves out what would change the values of a tensor that has none: drawing them is most of building a net."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name, first = getattr(func, "__name__", ""), next(iter((*args, *kwargs.values())), None)
        if name.endswith("_") and not name.endswith("__") and isinstance(first, Tensor) and first.is_meta:
            return first
        return func(*args, **kwargs)
