"""Metrics over tensors: F1 scores, average precision, R², and entities of tagged text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

INSIDE, LAST = frozenset("IELM"), frozenset("ELSU")
"""Tag prefixes that continue an entity, and prefixes that end one."""
PREFIXES = frozenset("BSU") | INSIDE


def class_counts(guesses: Tensor, targets: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return true positives, targets and predictions of each class, (K,) float64 each, from class indices (N,)."""
    counted = (targets[guesses == targets], targets, guesses)
    hits, truths, guessed = (torch.bincount(indices, minlength=classes).double() for indices in counted)
    return hits, truths, guessed


def f1(hits: Tensor, truths: Tensor, guessed: Tensor) -> Tensor:
    """Return the F1 score of each class, 2 hits / (truths + guessed); 0 where both are 0."""
    return 2 * hits / (truths + guessed).clamp(min=1)


def macro_f1(hits: Tensor, truths: Tensor, guessed: Tensor) -> float:
    """Return the mean F1 score over classes with targets or predictions; 0 if there are none."""
    occurs = truths + guessed > 0
    return float(f1(hits, truths, guessed).sum() / occurs.sum().clamp(min=1))


def average_precision(scores: Tensor, truths: Tensor) -> Tensor:
    """Return the average precision of each label: mean precision at the scores of its positives; ties share a rank.

    Scores (N, K), truths (N, K) of 0 and 1, result (K,) float64: 0 for a label without positives.
    """
    scores, order = scores.sort(0, descending=True)
    hits = truths.gather(0, order).double()
    ranks = torch.arange(len(scores))[:, None].expand_as(scores)
    tied = torch.zeros_like(scores, dtype=torch.bool)
    tied[:-1] = scores[1:] == scores[:-1]  # equal scores are one threshold: use the last of them
    tie_end = ranks.masked_fill(tied, len(scores)).flip(0).cummin(0).values.flip(0)
    precision = hits.cumsum(0).gather(0, tie_end) / (tie_end + 1)
    return (precision * hits).sum(0) / hits.sum(0).clamp(min=1)


def r2(outputs: Tensor, targets: Tensor) -> float:
    """Return the coefficient of determination R² of outputs (N,) for targets (N,).

    For constant targets: 1 if all outputs are exact, else 0.
    """
    outputs, targets = outputs.double(), targets.double()
    error = float((targets - outputs).square().sum())
    if targets.min() == targets.max():
        return float(error == 0)
    return 1 - error / float((targets - targets.mean()).square().sum())


def entities(tags: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Yield (kind, start, end) of the entities in BIO, IO, BIOES, BMES or BILOU tags; end is exclusive.

    Lenient as conlleval (Tjong Kim Sang and De Meulder 2003): an I- tag not preceded by its kind starts an entity.
    """
    kind, start, inside_entity = "", 0, False
    for index, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        continues = inside_entity and name == kind and prefix in INSIDE
        if inside_entity and not continues:
            yield kind, start, index
            inside_entity = False
        if prefix in PREFIXES and not continues:
            kind, start, inside_entity = name, index, True
        if inside_entity and prefix in LAST:
            yield kind, start, index + 1
            inside_entity = False


def marks_entities(tags: Sequence[str]) -> bool:
    """Return whether tags encode entities: all but "O" are prefix-kind (B-PER), or all are bare, with both B and I."""
    inside = set(tags) - {"O"}
    with_kind = all(tag[:1] in PREFIXES and tag[1:2] == "-" for tag in inside)
    return bool(inside) and (with_kind or {"B", "I"} <= inside <= PREFIXES)


def entity_f1(guesses: Sequence[Sequence[str]], truths: Sequence[Sequence[str]]) -> tuple[float, float, float]:
    """Return micro-averaged precision, recall and F1 of entities; a match has the same kind, start and end."""
    hits = guessed = actual = 0
    for guess, truth in zip(guesses, truths, strict=True):
        found, real = set(entities(guess)), set(entities(truth))
        hits, guessed, actual = hits + len(found & real), guessed + len(found), actual + len(real)
    return hits / max(1, guessed), hits / max(1, actual), 2 * hits / max(1, guessed + actual)
