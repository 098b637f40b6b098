"""Language models: how surprised they are, by token and by text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from zoo.evidence.report.facts import Facts, Part
from zoo.finetune.freezing import eval_mode
from zoo.model import answers
from zoo.plugin import Tokenizer

MAX_TEXTS, MAX_TOKENS = 8, 160
"""Most texts that are shown, and tokens of each."""
BINS = 24
CONTEXT = 8
"""Tokens before one that are decoded with it: a character in UTF-8 has up to four tokens of a byte."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token as text; `loss` in nats, None where it is not predicted; `right`: the likeliest token is the true one."""

    text: str
    loss: float | None
    right: bool


@dataclass(frozen=True, slots=True)
class Surprise:
    """Losses of the tokens of a held-out part.

    bins      (low end, high end, count) of the losses in nats per token
    texts     (perplexity, tokens) of some blocks of text, from the most to the least surprising
    tokens    number of predicted tokens
    before    perplexity before training, where the run measured it
    """

    bins: tuple[tuple[float, float, int], ...]
    texts: tuple[tuple[float, tuple[Token, ...]], ...]
    tokens: int
    before: float | None


def surprise(facts: Facts, part: Part) -> Surprise | None:
    """Return the losses of a language model; None for other tasks."""
    if facts.task.labelled or facts.backbone.tokenizer is None:
        return None
    losses = torch.cat(list(part.values))[:, 0].double()
    top = max(1.0, float(losses.max()))
    counts = torch.histc(losses, BINS, 0, top).long().tolist()
    bins = tuple((k * top / BINS, (k + 1) * top / BINS, count) for k, count in enumerate(counts))
    means = torch.stack([rows[:, 0].double().mean() for rows in part.values])
    order = means.argsort(descending=True, stable=True)
    shown = order[torch.linspace(0, len(order) - 1, min(MAX_TEXTS, len(order))).round().long()].tolist()
    texts = tuple((math.exp(min(700.0, float(means[i]))), _tokens(facts, part, i)) for i in shown)
    first = facts.history[0] if facts.history else {}
    before = first.get("valid_perplexity") if first.get("step") == 0 and part.name == "valid" else None
    return Surprise(bins, texts, len(losses), before)


def _tokens(facts: Facts, part: Part, index: int) -> tuple[Token, ...]:
    """Return the tokens of a block, masked ones as what they were, with their losses.

    A causal model predicts the token after each selected one, a masked one the selected ones.
    """
    network, task = answers.network(facts.model)
    batch = part.data.batch(torch.tensor([index]))
    assert isinstance(batch.inputs, dict)
    assert batch.selected is not None
    assert batch.targets is not None
    with torch.inference_mode(), eval_mode(network):
        ready = batch.to(facts.model.device)
        assert ready.targets is not None
        rows = task.statistics(network(ready.inputs, ready.selected), ready.targets).tolist()
    places = batch.selected[0].nonzero()[:, 0] + int(task.autoregressive)
    ids = batch.inputs["input_ids"][0].clone()
    ids[places] = batch.targets
    known = dict(zip(places.tolist(), rows, strict=True))
    length = min(MAX_TOKENS, int(batch.inputs["attention_mask"][0].sum()))
    assert facts.backbone.tokenizer is not None
    texts = pieces(facts.backbone.tokenizer, ids[:length].tolist())
    return tuple(_token(text, known.get(place)) for place, text in enumerate(texts))


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """Return the text of each token with the space before it: what it adds to the text of the CONTEXT before it."""

    def decode(start: int, end: int) -> str:
        return tokenizer.fast.decode(ids[start:end], skip_special_tokens=False)

    found = []
    for place in range(len(ids)):
        start = max(0, place - CONTEXT)
        before, text = decode(start, place), decode(start, place + 1)
        found.append(text[len(before) :] if text.startswith(before) and text != before else decode(place, place + 1))
    return found


def _token(text: str, known: list[float] | None) -> Token:
    return Token(text, None, False) if known is None else Token(text, known[0], known[1] > 0)
