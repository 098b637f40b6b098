"""transformers models as backbones: modules that return Features, heads, pooling, stages and LoRA targets."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import PluginError
from zoo.plugin import Features
from zoo_hf import configs

MAX_BUFFERS = 512 << 20
"""Maximum size in bytes of the computed buffers of a network, such as causal masks."""


def empty(make: Callable[[], Any]) -> Any:
    """Create a model: on the meta device inside `torch.device("meta")`, else initialised.

    Non-persistent buffers (rotary frequencies, position tables) are initialised in both cases, by initialize_weights of
    transformers, which skips modules marked with _is_hf_initialized.
    """
    net = make()
    if torch.empty(0).device.type != "meta":
        return net
    modules = list(net.modules())
    tables = [(module, name) for module in modules for name in module._non_persistent_buffers_set]
    size = sum(module._buffers[name].nbytes for module, name in tables if module._buffers[name] is not None)
    if size > MAX_BUFFERS:
        what = f"the buffers of {type(net).__name__} would take {size / 1e9:,.1f} GB: its configuration is wrong"
        raise PluginError(what, fix=configs.ANOTHER)
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
            if not parameter.is_meta:  # XLNet ignores the default device
                setattr(module, name, nn.Parameter(parameter.to("meta")))
    return net


def base_class(config: Any, modality: str) -> Any:
    """Return the model class without a head; of a text encoder-decoder the encoder class, if there is one."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING as ENCODERS

    if modality == "text" and config.is_encoder_decoder and type(config) in ENCODERS:
        return ENCODERS[type(config)]
    return configs.model_class("its configuration", config)


def base(config: Any, modality: str) -> Any:
    """Create the model without a head, without a pooler used only in pretraining, and without a text decoder."""
    kind = base_class(config, modality)
    if "add_pooling_layer" in inspect.signature(kind.__init__).parameters:
        return kind(config, add_pooling_layer=config.model_type in POOLED)
    net = kind(config)
    if modality == "text" and config.is_encoder_decoder and hasattr(net, "decoder"):
        del net.decoder
    if modality == "text" and getattr(net, "pooler", None) is not None:
        net.pooler = nn.Identity()  # called by SqueezeBERT
    return net


POOLED = (
    *("beit", "data2vec-vision", "swin", "swinv2", "donut-swin", "focalnet", "hiera", "dinat"),
    *("mobilenet_v1", "mobilenet_v2"),
)
"""Families whose image classifiers use the pooler, an average with almost no weights."""


class Vision(nn.Module):
    """Map images (N, C, H, W) to the input of the family's image classifier, and to tokens of a transformer."""

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
        if self.kind.startswith("dinov2"):  # class token and mean of the patches, as in its classifier
            patches = hidden[:, 1 + self.registers :].mean(1)
            return Features(torch.cat([hidden[:, 0], patches], 1).float())  # (N, 2 D)
        pooled = getattr(found, "pooler_output", None)
        if pooled is None:
            pooled = hidden[:, 0] if hidden.ndim == 3 and self.kind not in MEAN_POOLED else _mean(hidden)
        return Features(pooled.flatten(1).float(), None if tokens is None else tokens.float())


def width(module: Vision, config: Any, shape: tuple[int, ...]) -> int:
    """Return the dimension of the pooled features for images of a shape (N, C, H, W).

    From the configuration of a transformer; other models run a forward pass on the meta device.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING as CLASSIFIED

    size = getattr(config, "hidden_size", None)
    if isinstance(size, int) and type(config) in CLASSIFIED:
        return size * (2 if module.kind.startswith("dinov2") else 1)
    with torch.device("meta"), torch.no_grad():
        features = copy.deepcopy(module).to("meta").eval()(torch.empty(shape))
    return int(features.pooled.shape[1])


MEAN_POOLED = ("levit", "pvt_v2", "ijepa")
"""Families without a class token, whose classifiers average the tokens."""


def classifiers(config: Any, modality: str, pooled_otherwise: bool) -> tuple[str, ...]:
    """Return the module names of a linear classifier on the pooled features; () if the family has none.

    Excluded are PoolFormer (an extra norm), text encoders (an extra layer) and CLIP (another pooling).
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING as CLASSIFIED

    if modality == "text":
        return ("score",) if configs.decodes(config) and not pooled_otherwise else ()
    return ("classifier",) if type(config) in CLASSIFIED and config.model_type != "poolformer" else ()


def _mean(hidden: Tensor) -> Tensor:
    """Average over tokens (N, T, D) or positions (N, D, H, W)."""
    return hidden.mean(1) if hidden.ndim == 3 else hidden.mean((2, 3))


class Text(nn.Module):
    """Map token tensors (N, T) to tokens (N, T, D), pooled by the modes in `pooling`, concatenated."""

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


def _cls(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens[:, 0]


def _last(tokens: Tensor, mask: Tensor) -> Tensor:
    ends = (mask.sum(1) - 1).clamp(min=0)
    rows = torch.arange(tokens.shape[0], device=tokens.device)  # len() would fix the batch size of an exported graph
    return tokens[rows, ends]


def _masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    return (tokens * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def _max(tokens: Tensor, mask: Tensor) -> Tensor:
    return tokens.masked_fill(~mask[:, :, None], -1e9).amax(1)


def _mean_sqrt_length(tokens: Tensor, mask: Tensor) -> Tensor:
    return (tokens * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1).sqrt()


def _weighted_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    weights = mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (tokens * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True).clamp(min=1)


POOL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls_token": _cls,
    "max_tokens": _max,
    "mean_tokens": _masked_mean,
    "mean_sqrt_len_tokens": _mean_sqrt_length,
    "weightedmean_tokens": _weighted_mean,
    "lasttoken": _last,
}
"""Pooling modes of sentence-transformers: pooling_mode_… in 1_Pooling/config.json."""


def pooling(config: Any, sentence: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the pooling modes of a repository; default: last token of a decoder, mean of an encoder.

    The class token of a pretrained encoder is a poor sentence embedding without fine-tuning (Reimers and Gurevych 2019,
    arXiv 1908.10084, table 1), so the mean suits a frozen backbone better.
    """
    named = tuple(how for how in POOL if sentence.get(f"pooling_mode_{how}"))
    return named or (("lasttoken",) if configs.decodes(config) else ("mean_tokens",))


class _Output:
    """Model output with a last hidden state, also at index 0; every other attribute is None."""

    def __init__(self, hidden: Tensor | None) -> None:
        self.last_hidden_state = hidden

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, index: int) -> Tensor | None:
        return (self.last_hidden_state,)[index]


class _StoredHidden(nn.Module):
    """Placeholder for the base model below a head: returns stored hidden states."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.hidden: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _Output(self.hidden)

    @property
    def decoder(self) -> nn.Module:
        """Itself: the head of OPT calls model.decoder."""
        return self


class LanguageHead(nn.Module):
    """Language modelling head: the model class of the family with its base model replaced by given hidden states."""

    def __init__(self, full: Any) -> None:
        super().__init__()
        self.full = full
        self.below = full.base_model_prefix
        setattr(full, self.below, _StoredHidden(full.config))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (…, D) to logits (…, V)."""
        stub = getattr(self.full, self.below)
        flat = tokens.reshape(1, -1, tokens.shape[-1])  # heads are applied per token
        stub.hidden = flat
        ids = torch.zeros(flat.shape[:2], dtype=torch.long, device=flat.device)
        try:
            logits: Tensor = self.full(input_ids=ids).logits
        finally:
            stub.hidden = None
        return logits.reshape(*tokens.shape[:-1], logits.shape[-1])

    @contextmanager
    def whole(self, net: nn.Module) -> Iterator[Any]:
        """Yield the full model, with `net` as its base model, inside the block."""
        stub = getattr(self.full, self.below)
        setattr(self.full, self.below, net)
        try:
            yield self.full
        finally:
            setattr(self.full, self.below, stub)


def generate(
    net: nn.Module,
    head: LanguageHead,
    pad: int,
    inputs: Mapping[str, Tensor],
    new: int,
    temperature: float,
    *,
    top_p: float = 1.0,
    top_k: int = 0,
    stopped: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Generate `new` tokens for right-padded prompts: (N, T) -> left-padded prompts with new tokens (N, T + new).

    `stopped` says of new tokens (N, T) which of the texts are finished, (N,) bool.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    width = mask.shape[1]
    shifts = (width - mask.sum(1))[:, None]
    places = (torch.arange(width, device=ids.device) - shifts) % width  # move padding to the left
    ids, mask = ids.gather(1, places), mask.gather(1, places)
    options: dict[str, Any] = {"do_sample": temperature > 0, "max_new_tokens": new, "pad_token_id": pad}
    if temperature > 0:
        options |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    if stopped is not None:
        options["stopping_criteria"] = [lambda found, scores, **_: stopped(found[:, width:])]
    with torch.inference_mode(), head.whole(net) as full:
        found: Tensor = full.generate(input_ids=ids, attention_mask=mask, **options)
    return found


def stages(net: nn.Module, prefix: str) -> tuple[tuple[str, ...], ...]:
    """Return the stages from input to output: parameters before the layers, each layer, parameters after them.

    The layers are the items of the ModuleList with most parameters.
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
    """Return the linear layers of a transformer (Conv1D in GPT-2), or the ungrouped convolutions of a CNN."""
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
    """Return a function that switches between fused SDPA and eager attention; None if the model has no such option."""
    if net.config._attn_implementation != "sdpa":
        return None

    def switch(how: str) -> None:
        net.set_attn_implementation("sdpa" if how == "fused" else "eager")

    return switch
