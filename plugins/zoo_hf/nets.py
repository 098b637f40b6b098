"""Models of transformers as modules that return Features, and the names of their parts."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zoo.plugin import Features
from zoo_hf import configs


def empty(make: Callable[[], Any]) -> Any:
    """Make a net where core wants it: parameters without memory inside `torch.device("meta")`, else with values.

    Buffers that no weight file holds (rotary frequencies, position tables) have values either way: transformers knows
    how to fill them, and leaves alone the modules that are marked as filled.
    """
    net = make()
    if torch.empty(0).device.type != "meta":
        return net
    modules = list(net.modules())
    tables = [(module, name) for module in modules for name in module._non_persistent_buffers_set]
    for module, name in tables:
        buffer = module._buffers[name]
        module._buffers[name] = None if buffer is None else torch.empty_like(buffer, device="cpu")
    unfilled = {id(module) for module, _ in tables}
    for module in modules:
        module._is_hf_initialized = id(module) not in unfilled
    with torch.device("cpu"):
        net.initialize_weights()
    for module in modules:
        del module._is_hf_initialized
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.is_meta:  # XLNet's are made without asking where
                setattr(module, name, nn.Parameter(parameter.to("meta")))
    return net


def base_class(config: Any, modality: str) -> Any:
    """Return the class of the model without a head; of an encoder and decoder for texts, the encoder if it has one."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING as ENCODERS

    if modality == "text" and config.is_encoder_decoder and type(config) in ENCODERS:
        return ENCODERS[type(config)]
    return configs.model_class("its configuration", config)


def base(config: Any, modality: str) -> Any:
    """Make the model without a head: without a pooler that only pre-training reads, of texts the encoder alone."""
    kind = base_class(config, modality)
    if "add_pooling_layer" in inspect.signature(kind.__init__).parameters:
        return kind(config, add_pooling_layer=config.model_type in POOLED)
    net = kind(config)
    if modality == "text" and config.is_encoder_decoder and hasattr(net, "decoder"):
        del net.decoder
    if modality == "text" and getattr(net, "pooler", None) is not None:
        net.pooler = nn.Identity()  # SqueezeBERT calls it
    return net


POOLED = (
    *("beit", "data2vec-vision", "swin", "swinv2", "donut-swin", "focalnet", "hiera", "dinat"),
    *("mobilenet_v1", "mobilenet_v2"),
)
"""Families whose image classifiers read the pooler: it averages, and has next to no weights."""


class Vision(nn.Module):
    """Maps images (N, C, H, W) to what the family's own image classifier reads, and to tokens where it has them."""

    def __init__(self, net: nn.Module, config: Any, blue_first: bool = False) -> None:
        super().__init__()
        self.net = net
        self.kind = config.model_type
        self.registers = int(getattr(config, "num_register_tokens", 0) or 0)
        self.blue_first = blue_first

    def forward(self, images: Tensor) -> Features:
        """Return pooled (N, D) and, of a transformer, tokens (N, T, D)."""
        found = self.net(pixel_values=images.flip(1) if self.blue_first else images)
        hidden = found.last_hidden_state
        tokens = hidden if hidden.ndim == 3 else None
        if self.kind.startswith("dinov2"):  # its classifier reads the first token beside the mean of the patches
            patches = hidden[:, 1 + self.registers :].mean(1)
            return Features(torch.cat([hidden[:, 0], patches], 1).float())  # (N, 2 D)
        pooled = getattr(found, "pooler_output", None)
        if pooled is None:
            pooled = hidden[:, 0] if hidden.ndim == 3 and self.kind not in AVERAGED else _mean(hidden)
        return Features(pooled.flatten(1).float(), None if tokens is None else tokens.float())


def width(module: Vision, config: Any, shape: tuple[int, ...]) -> int:
    """Return the length of the pooled features of images of a shape (N, C, H, W).

    Transformers say it; other nets are run where nothing is computed.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING as CLASSIFIED

    size = getattr(config, "hidden_size", None)
    if isinstance(size, int) and type(config) in CLASSIFIED:
        return size * (2 if module.kind.startswith("dinov2") else 1)
    with torch.device("meta"), torch.no_grad():
        features = copy.deepcopy(module).to("meta").eval()(torch.empty(shape))
    return int(features.pooled.shape[1])


AVERAGED = ("levit", "pvt_v2", "ijepa")
"""Families of tokens without a first one to read: their classifiers average."""


def classifiers(config: Any, modality: str, pooled_otherwise: bool) -> tuple[str, ...]:
    """Return how a family calls the classifier on the pooled features that are returned here; () if it has none.

    PoolFormer's follows a norm of its own, those of encoders of texts a layer more, and CLIP's another pooling.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING as CLASSIFIED

    if modality == "text":
        return ("score",) if configs.decodes(config) and not pooled_otherwise else ()
    return ("classifier",) if type(config) in CLASSIFIED and config.model_type != "poolformer" else ()


def _mean(hidden: Tensor) -> Tensor:
    """Average over tokens (N, T, D) or places (N, D, H, W)."""
    return hidden.mean(1) if hidden.ndim == 3 else hidden.mean((2, 3))


class Text(nn.Module):
    """Maps token tensors (N, T) to tokens (N, T, D), pooled by the ways in `pooling`, one beside the other."""

    def __init__(self, net: Any, pooling: Sequence[str], takes: frozenset[str]) -> None:
        super().__init__()
        self.net = net
        self.pooling = tuple(pooling)
        self.takes = takes
        self.part = "encoder" if net.config.is_encoder_decoder and not hasattr(net, "decoder") else ""

    def forward(self, inputs: Mapping[str, Tensor]) -> Features:
        """Return pooled (N, D), tokens (N, T, D) and their mask (N, T)."""
        given = {name: value for name, value in inputs.items() if name in self.takes}
        tokens = self.net.get_submodule(self.part)(**given).last_hidden_state.float()
        mask = inputs["attention_mask"].bool()
        pooled = torch.cat([POOL[how](tokens, mask) for how in self.pooling], 1)
        return Features(pooled, tokens, mask)


def _first(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens[:, 0]


def _last(tokens: Tensor, mask: Tensor) -> Tensor:
    ends = (mask.sum(1) - 1).clamp(min=0)
    return tokens[torch.arange(len(tokens), device=tokens.device), ends]


def _average(tokens: Tensor, mask: Tensor) -> Tensor:
    return (tokens * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def _largest(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens.masked_fill(~mask[:, :, None], -1e9).amax(1)


def _rooted(tokens: Tensor, mask: Tensor) -> Tensor:
    return (tokens * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1).sqrt()


def _rising(tokens: Tensor, mask: Tensor) -> Tensor:
    weights = mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (tokens * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True).clamp(min=1)


POOL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls_token": _first,
    "max_tokens": _largest,
    "mean_tokens": _average,
    "mean_sqrt_len_tokens": _rooted,
    "weightedmean_tokens": _rising,
    "lasttoken": _last,
}
"""The ways to pool that sentence-transformers writes as pooling_mode_… into 1_Pooling/config.json."""


def pooling(config: Any, sentence: Mapping[str, Any]) -> tuple[str, ...]:
    """Return how tokens are pooled: as the repository says, else the last one of a decoder and the mean of an encoder.

    The first token of an encoder that was only pre-trained holds little until it is fine-tuned (Reimers and Gurevych
    2019, arXiv 1908.10084, table 1), so a frozen backbone does better with the mean.
    """
    named = tuple(how for how in POOL if sentence.get(f"pooling_mode_{how}"))
    return named or (("lasttoken",) if configs.decodes(config) else ("mean_tokens",))


class _Hidden:
    """What a model returns: its last hidden state, first when unpacked, and None for all else that heads pass on."""

    def __init__(self, hidden: Tensor | None) -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index: int) -> Tensor | None:
        return (self.last_hidden_state,)[index]


class _Given(nn.Module):
    """Stands in for the model below a head, and returns the hidden states it was given."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.hidden: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _Hidden(self.hidden)

    @property
    def decoder(self) -> nn.Module:
        """Itself: OPT's head asks the decoder inside its model."""
        return self


class LanguageHead(nn.Module):
    """The head that a family models language with: its own class, around hidden states instead of the model below."""

    def __init__(self, full: Any) -> None:
        super().__init__()
        self.full = full
        self.below = full.base_model_prefix
        setattr(full, self.below, _Given(full.config))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (…, D) to logits (…, V)."""
        stub = getattr(self.full, self.below)
        flat = tokens.reshape(1, -1, tokens.shape[-1])  # heads see each token by itself
        stub.hidden = flat
        ids = torch.zeros(flat.shape[:2], dtype=torch.long, device=flat.device)
        try:
            logits: Tensor = self.full(input_ids=ids).logits
        finally:
            stub.hidden = None
        return logits.reshape(*tokens.shape[:-1], logits.shape[-1])

    @contextmanager
    def whole(self, net: nn.Module) -> Iterator[Any]:
        """Give back the whole model inside the block: with `net` below the head."""
        stub = getattr(self.full, self.below)
        setattr(self.full, self.below, net)
        try:
            yield self.full
        finally:
            setattr(self.full, self.below, stub)


def generate(
    net: nn.Module, head: LanguageHead, pad: int, inputs: Mapping[str, Tensor], new: int, temperature: float
) -> Tensor:
    """Go on with prompts padded on the right, (N, T) -> (N, T + new); the prompts come back padded on the left."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    shifts = (mask.shape[1] - mask.sum(1))[:, None]
    places = (torch.arange(mask.shape[1], device=ids.device) - shifts) % mask.shape[1]  # rotate padding to the left
    ids, mask = ids.gather(1, places), mask.gather(1, places)
    options: dict[str, Any] = {"do_sample": temperature > 0, "max_new_tokens": new, "pad_token_id": pad}
    if temperature > 0:
        options |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
    with torch.inference_mode(), head.whole(net) as full:
        found: Tensor = full.generate(input_ids=ids, attention_mask=mask, **options)
    return found


def stages(net: nn.Module, prefix: str) -> tuple[tuple[str, ...], ...]:
    """Return names of parts from input to output: what comes before the layers, each layer, and what comes after.

    The layers are the members of the module list that holds most of the parameters.
    """
    lists = {name: part for name, part in net.named_modules() if isinstance(part, nn.ModuleList)}
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in lists.items()}
    best = max(sizes, key=lambda name: (sizes[name], -len(name)), default="")
    layers = [f"{best}.{i}" for i in range(len(lists[best]))] if best else []
    names = [name for name, _ in net.named_parameters()]
    inside = [any(name.startswith(f"{layer}.") for layer in layers) for name in names]
    first = inside.index(True) if True in inside else len(names)
    before = tuple(name for name, within in zip(names[:first], inside[:first], strict=True) if not within)
    after = tuple(name for name, within in zip(names[first:], inside[first:], strict=True) if not within)
    grouped = [before, *((layer,) for layer in layers if any(n.startswith(f"{layer}.") for n in names)), after]
    return tuple(tuple(f"{prefix}{name}" for name in stage) for stage in grouped if stage)


def lora_targets(net: nn.Module, prefix: str) -> tuple[str, ...]:
    """Return the linear layers of a transformer (GPT-2's are Conv1D), or the ungrouped convolutions of a CNN."""
    from transformers.pytorch_utils import Conv1D

    def named(*kinds: type[nn.Module]) -> tuple[str, ...]:
        inner = (name for name, part in net.named_modules() if isinstance(part, kinds) and any(map(str.isdigit, name)))
        return tuple(prefix + name for name in inner)

    linear = named(nn.Linear, Conv1D)
    if linear:
        return linear
    parts = dict(net.named_modules())
    found = (name for name in named(nn.Conv2d))
    return tuple(name for name in found if getattr(parts[name.removeprefix(prefix)], "groups", 1) == 1)


def attention(net: Any) -> Callable[[str], None] | None:
    """Return what switches between torch's fused attention and plain products, None for a net without the choice."""
    if net.config._attn_implementation != "sdpa":
        return None

    def switch(how: str) -> None:
        net.set_attn_implementation("sdpa" if how == "fused" else "eager")

    return switch
