"""Generation: continuations by causal language models, mask filling by masked ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from zoo.data import prepare
from zoo.data.prepare import Preprocessing
from zoo.errors import DataError
from zoo.finetune.network import Network
from zoo.plugin import Backbone, TextInput
from zoo.tasks import Prediction


def generate(
    backbone: Backbone, prompts: Sequence[str], how: Preprocessing, max_new_tokens: int, temperature: float
) -> list[str]:
    """Return the continuation of each prompt, at most `max_new_tokens` tokens, without the prompt.

    A prompt that leaves no room in the longest input of the model is truncated at its beginning.
    """
    tokenizer, generate = backbone.tokenizer, backbone.generate
    assert isinstance(backbone.input, TextInput)
    assert tokenizer is not None
    assert generate is not None
    room = replace(how, length=max(1, backbone.input.max_length - max_new_tokens), truncation="tail")
    inputs = prepare.prepare(prepare.unlabelled(list(prompts)), room).inputs.batch(torch.arange(len(prompts)))
    assert isinstance(inputs, dict)
    device = next(backbone.module.parameters()).device
    moved = {name: value.to(device) for name, value in inputs.items()}
    ids = generate(moved, max_new_tokens, temperature).cpu()
    new: list[list[int]] = ids[:, inputs["input_ids"].shape[1] :].tolist()
    return [tokenizer.fast.decode(_until(row, tokenizer.end)) for row in new]


def _until(ids: list[int], end: int | None) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


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
        probabilities, ids = logits.softmax(1).topk(top)  # (N, V) -> (N, top)
    predictions = []
    for row, tokens in zip(probabilities.tolist(), ids.tolist(), strict=True):
        ranked = tuple((tokenizer.fast.decode([token]).strip(), p) for token, p in zip(tokens, row, strict=True))
        predictions.append(Prediction(ranked[0][0], ranked[0][1], ranked))
    return predictions
