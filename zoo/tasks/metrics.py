"""Metrics over tensors: F1 scores, average precision, R², and entities of tagged text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

INSIDE, LAST = frozenset("IELM"), frozenset("ELSU")
"""Prefixes of words that may go on with an entity, and of words that end one."""
PREFIXES = frozenset("BSU") | INSIDE


def confusion(guesses: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Count guesses (N,) against targets (N,): rows are truths, columns guesses, (K, K) float64."""
    return torch.bincount(targets * classes + guesses, minlength=classes**2).view(classes, classes).double()


def f1(hits: Tensor, truths: Tensor, guessed: Tensor) -> Tensor:
    """Return 2 hits / (truths + guessed) for each class, 0 where both are 0."""
    return 2 * hits / (truths + guessed).clamp(min=1)


def macro_f1(hits: Tensor, truths: Tensor, guessed: Tensor) -> float:
    """Return the mean F1 of the classes that occur or are guessed, 0 if none is."""
    occurs = truths + guessed > 0
    return float(f1(hits, truths, guessed).sum() / occurs.sum().clamp(min=1))


def average_precision(scores: Tensor, truths: Tensor) -> Tensor:
    """Return for each label the mean, over its positives, of the precision among what scores at least as high.

    Scores (N, K), truths (N, K) of 0 and 1, result (K,) float64: 0 for a label without positives.
    """
    scores, order = scores.sort(0, descending=True)
    hits = truths.gather(0, order).double()
    places = torch.arange(len(scores))[:, None].expand_as(scores)
    tied = torch.zeros_like(scores, dtype=torch.bool)
    tied[:-1] = scores[1:] == scores[:-1]  # equal scores are found together: at the last of them
    last = places.masked_fill(tied, len(scores)).flip(0).cummin(0).values.flip(0)
    precision = hits.cumsum(0).gather(0, last) / (last + 1)
    return (precision * hits).sum(0) / hits.sum(0).clamp(min=1)


def r2(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of the variance of targets (N,) that outputs (N,) explain.

    Where all targets are equal, as one alone is: 1 if all outputs are right, else 0.
    """
    outputs, targets = outputs.double(), targets.double()
    error = float((targets - outputs).square().sum())
    if targets.min() == targets.max():
        return float(error == 0)
    return 1 - error / float((targets - targets.mean()).square().sum())


def entities(tags: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Yield (kind, first word, word after the last) of the entities that BIO, IO, BIOES, BMES or BILOU tags mark.

    As lenient as conlleval (Tjong Kim Sang and De Meulder 2003): an I- that follows no word of its kind begins an
    entity as well.
    """
    kind, start, within = "", 0, False
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        goes_on = within and name == kind and prefix in INSIDE
        if within and not goes_on:
            yield kind, start, place
            within = False
        if prefix in PREFIXES and not goes_on:
            kind, start, within = name, place, True
        if within and prefix in LAST:
            yield kind, start, place + 1
            within = False


def marks_entities(tags: Sequence[str]) -> bool:
    """Tell whether tags mark entities: all but "O" are a prefix with a kind (B-PER), or bare and B and I among them."""
    inside = set(tags) - {"O"}
    with_kind = all(tag[:1] in PREFIXES and tag[1:2] == "-" for tag in inside)
    return bool(inside) and (with_kind or {"B", "I"} <= inside <= PREFIXES)


def entity_f1(guesses: Sequence[Sequence[str]], truths: Sequence[Sequence[str]]) -> tuple[float, float, float]:
    """Return precision, recall and F1 of entities over all texts; right are kind, first and last word."""
    hits = guessed = there = 0
    for guess, truth in zip(guesses, truths, strict=True):
        found, real = set(entities(guess)), set(entities(truth))
        hits, guessed, there = hits + len(found & real), guessed + len(found), there + len(real)
    return hits / max(1, guessed), hits / max(1, there), 2 * hits / max(1, guessed + there)
