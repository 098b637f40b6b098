"""What language models answer: texts that go on, and words in the place of a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from zoo.data import prepare
from zoo.data.examples import Examples
from zoo.data.prepare import How
from zoo.errors import DataError
from zoo.finetune.network import Network
from zoo.plugin import Backbone, TextInput
from zoo.tasks import Prediction


def go_on(backbone: Backbone, prompts: Sequence[str], how: How, tokens: int, temperature: float) -> list[str]:
    """Return what a causal language model writes after each prompt, at most `tokens` tokens, without the prompt.

    A prompt that leaves no room in the model's longest input loses its beginning.
    """
    tokenizer, generate = backbone.tokenizer, backbone.generate
    assert isinstance(backbone.input, TextInput)
    assert tokenizer is not None
    assert generate is not None
    room = replace(how, length=max(1, backbone.input.max_length - tokens), cut="tail")
    inputs = prepare.prepare(prepare.inputs_only(list(prompts)), room).inputs.batch(torch.arange(len(prompts)))
    assert isinstance(inputs, dict)
    device = next(backbone.module.parameters()).device
    ids = generate({name: value.to(device) for name, value in inputs.items()}, tokens, temperature).cpu()
    new: list[list[int]] = ids[:, inputs["input_ids"].shape[1] :].tolist()
    return [tokenizer.fast.decode(_until(row, tokenizer.end)) for row in new]


def _until(ids: list[int], end: int | None) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


def fill(network: Network, backbone: Backbone, examples: Examples, how: How, top: int) -> list[Prediction]:
    """Return the `top` likeliest tokens in the place of each text's mask token; DataError if it has not one."""
    tokenizer = backbone.tokenizer
    assert tokenizer is not None
    assert tokenizer.mask is not None
    inputs = prepare.prepare(examples, how).inputs.batch(torch.arange(len(examples)))
    assert isinstance(inputs, dict)
    where = inputs["input_ids"] == tokenizer.mask
    if (where.sum(1) != 1).any():
        mark = tokenizer.fast.id_to_token(tokenizer.mask)
        raise DataError("each text has to hold the mask token once", fix=f'write {mark}, as in "I {mark} it."')
    device = next(network.parameters()).device
    with torch.inference_mode():
        found = network({name: value.to(device) for name, value in inputs.items()}, where.to(device))
        chances, ids = found.softmax(1).topk(top)  # (N, V) -> (N, top)
    answers = []
    for row, tokens in zip(chances.tolist(), ids.tolist(), strict=True):
        ranked = tuple((tokenizer.fast.decode([token]).strip(), p) for token, p in zip(tokens, row, strict=True))
        answers.append(Prediction(ranked[0][0], ranked[0][1], ranked))
    return answers
