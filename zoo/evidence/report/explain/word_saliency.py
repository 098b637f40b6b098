"""Integrated gradients of a text's words: on the output of the word embedding, from the text with its words masked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zoo.evidence.report.explain.attribution import integrated_gradients
from zoo.plugin import Tokenizer

Inputs = dict[str, Tensor]
LONGEST = 24
"""Characters of a word; longer ones, and scripts without spaces, are divided between tokens."""
Spans = list[tuple[int, tuple[int, int]] | None]


def word_embedding(module: nn.Module, inputs: Inputs) -> str | None:
    """Return the name of the embedding that takes the token ids, None where no module does."""
    ids, found = inputs["input_ids"], []

    def note(name: str) -> Callable[..., None]:
        def hook(_: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
            given = [*args, *kwargs.values()]
            if any(isinstance(each, Tensor) and each.shape == ids.shape and torch.equal(each, ids) for each in given):
                found.append(name)

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for name, part in module.named_modules():
            if isinstance(part, nn.Embedding):
                hooks.callback(part.register_forward_hook(note(name), with_kwargs=True).remove)
        module(inputs)
    return found[0] if len(found) == 1 else None


@contextmanager
def replaced_output(module: nn.Module, value: Tensor) -> Iterator[None]:
    """Let a module return `value` for calls of this thread inside the block."""
    thread = threading.get_ident()
    handle = module.register_forward_hook(lambda *_: value if threading.get_ident() == thread else None)
    try:
        yield
    finally:
        handle.remove()


def of_tokens(
    score: Callable[[Inputs], Tensor], embedding: nn.Module, inputs: Inputs, blank: Tensor
) -> tuple[Tensor, float, float]:
    """Return the attribution of each token (T,) of one text, the score of the blank text, and the error of the sum.

    `score` maps token tensors (B, T) to (B,); `blank` (1, T) are the ids of the text with its words masked.
    """
    with torch.no_grad():
        start, end = embedding(blank)[0], embedding(inputs["input_ids"])[0]  # (T, E)

    def at(vectors: Tensor) -> Tensor:
        repeated = {name: tensor.expand(len(vectors), -1) for name, tensor in inputs.items()}
        with replaced_output(embedding, vectors):
            return score(repeated)

    found, error = integrated_gradients(at, end, start)
    with torch.no_grad():
        base = float(at(start[None])[0])
    return found.sum(1).cpu(), base, error


def masked(ids: Tensor, spans: Spans, tokenizer: Tokenizer) -> Tensor:
    """Return token ids (1, T) with every token of a word replaced by the mask token, or the padding without one."""
    words = torch.tensor([span is not None for span in spans], device=ids.device)
    return ids.masked_fill(words, tokenizer.pad if tokenizer.mask is None else tokenizer.mask)


def by_word(text: Any, spans: Spans, shares: Tensor) -> tuple[tuple[str, float], ...]:
    """Return the words of a text, a pair or a list of words, each with the sum of its tokens' shares."""
    if isinstance(text, list):
        sums = dict.fromkeys((span[0] for span in spans if span), 0.0)
        for span, share in zip(spans, shares.tolist(), strict=True):
            if span is not None:
                sums[span[0]] += share
        return tuple((text[word], share) for word, share in sums.items())
    texts = text if isinstance(text, tuple) else (text,)
    found: list[tuple[str, float]] = []
    last: tuple[int, int, int] | None = None
    for span, share in zip(spans, shares.tolist(), strict=True):
        if span is None:
            continue
        source, (begin, end) = span
        whole = texts[source]
        begin += len(whole[begin:end]) - len(whole[begin:end].lstrip())
        between = whole[last[2] : begin] if last is not None and last[0] == source else " "
        if between.strip():  # truncation left out the middle of a text
            found.append(("…", 0.0))
        joins = not between
        if joins and last is not None and end - last[1] <= LONGEST:
            start = last[1]
            found[-1] = (whole[start : max(end, last[2])], found[-1][1] + share)
            last = (source, start, max(end, last[2]))
        else:
            found.append((whole[begin:end], share))
            last = (source, begin, end)
    return tuple(found)
