"""Generation: continuations by causal language models, mask filling by masked ones."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from zoo.data import prepare
from zoo.data.prepare import Preprocessing
from zoo.errors import DataError, RecipeError
from zoo.finetune.network import Network, read_features
from zoo.plugin import Backbone, TextInput, Tokenizer
from zoo.tasks import Prediction


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen: temperature 0 takes the likeliest one, above 0 one is drawn.

    `top_k` draws from the k likeliest tokens (0: all), `top_p` from the likeliest ones that together have at least this
    probability (Holtzman et al. 2020, arXiv 1904.09751). A text ends before the first of `stop`.
    """

    tokens: int = 50
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()

    @classmethod
    def of(cls, tokens: object, temperature: object, top_p: object, top_k: object, stop: object) -> Sampling:
        """Return checked settings; RecipeError for an invalid one."""
        stops = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, Iterable) else (stop,)
        _check("max_new_tokens", tokens, type(tokens) is int and tokens > 0, "a whole number above 0", 50)
        _check("temperature", temperature, _is_number(temperature) and temperature >= 0, "a number from 0", 0.8)
        _check("top_p", top_p, _is_number(top_p) and 0 < top_p <= 1, "a number above 0 and up to 1", 0.9)
        _check("top_k", top_k, type(top_k) is int and top_k >= 0, "a whole number from 0", 50)
        texts = all(isinstance(text, str) and text for text in stops)
        _check("stop", stop, texts, "a text, or several", "END")
        if temperature == 0 and (top_p, top_k) != (1.0, 0):
            what = "top_p and top_k choose among tokens that are drawn, and temperature 0 takes the likeliest token"
            raise RecipeError(what, fix=_setting("temperature", 0.8))
        return cls(int(tokens), float(temperature), float(top_p), int(top_k), stops)  # type: ignore[arg-type,call-overload]


def generate(backbone: Backbone, prompts: Sequence[str], how: Preprocessing, sampling: Sampling) -> list[str]:
    """Return the continuation of each prompt, without the prompt.

    A prompt that leaves no room in the longest input of the model is truncated at its beginning. Uses the generation
    of the plugin if it has one that takes these settings. Raises RecipeError for more tokens than the model reads.
    """
    tokenizer, longest = backbone.tokenizer, backbone.input
    assert isinstance(longest, TextInput)
    assert tokenizer is not None
    if sampling.tokens >= longest.max_length:
        what = f"{sampling.tokens} new tokens do not fit: the model reads {longest.max_length}, the prompt included"
        raise RecipeError(what, fix=_setting("max_new_tokens", longest.max_length // 2))
    room = replace(how, length=longest.max_length - sampling.tokens, truncation="tail")
    inputs = prepare.prepare(prepare.unlabelled(list(prompts)), room).inputs.batch(torch.arange(len(prompts)))
    assert isinstance(inputs, dict)
    if not inputs["attention_mask"].any(1).all():
        raise DataError("a prompt has no tokens", fix='give a prompt of at least one word, such as "The"')
    device = next(backbone.module.parameters()).device
    moved = {name: value.to(device) for name, value in inputs.items()}

    def stopped(new: Tensor) -> Tensor:
        """Return which of the continuations (N, T) contain a stop text or the end token, (N,) bool."""
        ended = [_ends(tokenizer, row, sampling.stop) for row in new.tolist()]
        return torch.tensor(ended, device=new.device)

    with torch.inference_mode():
        ids = _plugin_ids(backbone, moved, sampling, stopped)
        new = _sampled_ids(backbone, moved, sampling, stopped) if ids is None else ids
    return [_until_stop(tokenizer.fast.decode(_until(row, tokenizer.end)), sampling.stop) for row in new.tolist()]


Inputs = Mapping[str, Tensor]
Stopped = Callable[[Tensor], Tensor]


def _plugin_ids(backbone: Backbone, inputs: Inputs, sampling: Sampling, stopped: Stopped) -> Tensor | None:
    """Return the new token ids (N, T) of the plugin's generation; None without one that takes the settings."""
    if backbone.generate is None:
        return None
    arguments = inputs, sampling.tokens, sampling.temperature
    options: dict[str, Any] = {"top_p": sampling.top_p} if sampling.top_p < 1 else {}
    options |= {"top_k": sampling.top_k} if sampling.top_k else {}
    options |= {"stopped": stopped} if sampling.stop else {}
    try:
        inspect.signature(backbone.generate).bind(*arguments, **options)
    except TypeError:
        return None
    return backbone.generate(*arguments, **options)[:, inputs["input_ids"].shape[1] :]


def _sampled_ids(backbone: Backbone, inputs: Inputs, sampling: Sampling, stopped: Stopped) -> Tensor:
    """Return new token ids (N, T), chosen one after the other from the logits of the language-modelling head."""
    assert backbone.lm_head is not None
    assert backbone.tokenizer is not None
    rows, pad = torch.arange(len(inputs["input_ids"])), backbone.tokenizer.pad
    lengths = inputs["attention_mask"].sum(1)  # (N,): a new token goes to the first place of the padding
    text = {name: nn.functional.pad(value, (0, sampling.tokens)) for name, value in inputs.items()}
    text["input_ids"][text["attention_mask"] == 0] = pad
    new: list[Tensor] = []
    for _ in range(sampling.tokens):
        longest = int(lengths.max())
        features = backbone.module({name: value[:, :longest] for name, value in text.items()})
        tokens = read_features(features, "tokens", None)  # (N, T, D)
        logits = backbone.lm_head(tokens[rows, lengths - 1][:, None])[:, 0]  # (N, V)
        new.append(_choose(logits.float(), sampling))
        text["input_ids"][rows, lengths] = new[-1]
        text["attention_mask"][rows, lengths] = 1
        lengths = lengths + 1
        if stopped(torch.stack(new, 1)).all():
            break
    return torch.stack(new, 1)


def _choose(logits: Tensor, sampling: Sampling) -> Tensor:
    """Return one token id for each row of logits (N, V): the likeliest, or one drawn with torch's generator."""
    if sampling.temperature == 0:
        return logits.argmax(1)
    ranked, ids = (logits / sampling.temperature).sort(1, descending=True)
    if sampling.top_k:
        ranked[:, sampling.top_k :] = -torch.inf
    probabilities = ranked.softmax(1)
    likelier = probabilities.cumsum(1) - probabilities  # probability of the tokens before each one
    drawn = torch.multinomial(probabilities.masked_fill(likelier >= sampling.top_p, 0), 1)
    return ids.gather(1, drawn)[:, 0]


def _ends(tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...]) -> bool:
    if tokenizer.end in ids:
        return True
    last = max((len(text.encode()) for text in stop), default=0) + 1  # a token has at least one byte
    return any(text in tokenizer.fast.decode(ids[-last:]) for text in stop)


def _until(ids: list[int], end: int | None) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


def _until_stop(text: str, stop: tuple[str, ...]) -> str:
    return text[: min((text.index(each) for each in stop if each in text), default=len(text))]


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check(name: str, value: object, valid: bool, rule: str, usual: object) -> None:
    if not valid:
        raise RecipeError(f"{name}={value!r} is not {rule}", fix=_setting(name, usual))


def _setting(name: str, value: object) -> str:
    """Return a setting as it is written in Python, and as an option of `zoo generate`."""
    return f"{name}={value!r}   (--{name.removeprefix('max_new_').replace('_', '-')} {value})"


def fill_mask(
    network: Network, backbone: Backbone, texts: Sequence[str], how: Preprocessing, top: int
) -> list[Prediction]:
    """Return the `top` likeliest tokens for the mask token of each text; DataError for a text without exactly one."""
    tokenizer = backbone.tokenizer
    assert tokenizer is not None
    assert tokenizer.mask is not None
    inputs = prepare.prepare(prepare.unlabelled(texts), how).inputs.batch(torch.arange(len(texts)))
    assert isinstance(inputs, dict)
    masked = inputs["input_ids"] == tokenizer.mask
    if (masked.sum(1) != 1).any():
        mark = tokenizer.fast.id_to_token(tokenizer.mask)
        raise DataError("each text has to contain the mask token once", fix=f'write {mark}, as in "I {mark} it."')
    device = next(network.parameters()).device
    with torch.inference_mode():
        logits = network({name: value.to(device) for name, value in inputs.items()}, masked.to(device))
        probabilities, ids = logits.softmax(1).topk(min(top, logits.shape[1]))  # (N, V) -> (N, top)
    predictions = []
    for row, tokens in zip(probabilities.tolist(), ids.tolist(), strict=True):
        ranked = tuple((tokenizer.fast.decode([token]).strip(), p) for token, p in zip(tokens, row, strict=True))
        predictions.append(Prediction(ranked[0][0], ranked[0][1], ranked))
    return predictions
