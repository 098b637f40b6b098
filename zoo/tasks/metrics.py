"""Metrics over tensors: F1 scores, average precision, R², and entities of tagged text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

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
    return ranking(scores, truths)(torch.ones(1, len(scores), dtype=torch.float64))[0]


def ranking(scores: Tensor, truths: Tensor) -> Callable[[Tensor], Tensor]:
    """Sort examples by score, for the average precision (R, K) under weights of the examples (R, N)."""
    scores, order = scores.sort(0, descending=True)
    hits = truths.gather(0, order).double()
    ranks = torch.arange(len(scores))[:, None].expand_as(scores)
    tied = torch.zeros_like(scores, dtype=torch.bool)
    tied[:-1] = scores[1:] == scores[:-1]  # equal scores are one threshold: use the last of them
    tie_end = ranks.masked_fill(tied, len(scores)).flip(0).cummin(0).values.flip(0)

    def weighted(weights: Tensor) -> Tensor:
        counts = weights[:, order]  # (R, N, K)
        positives = counts * hits
        ends = tie_end.expand_as(counts)
        precision = positives.cumsum(1).gather(1, ends) / counts.cumsum(1).gather(1, ends).clamp(min=1)
        return (precision * positives).sum(1) / positives.sum(1).clamp(min=1)

    return weighted


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


Texts = Sequence[Sequence[str]]
"""The tags of each text."""


def entity_counts(guesses: Texts, truths: Texts) -> list[Counter[tuple[str, str]]]:
    """Count the entities of each text by kind, as (kind, "hits"), (kind, "truths") and (kind, "guessed").

    A hit has the same kind, start and end.
    """
    found = []
    for guess, truth in zip(guesses, truths, strict=True):
        guessed, real = set(entities(guess)), set(entities(truth))
        parts = {"hits": guessed & real, "truths": real, "guessed": guessed}
        found.append(Counter((kind, name) for name, part in parts.items() for kind, _, _ in part))
    return found


def entity_f1(guesses: Texts, truths: Texts) -> tuple[float, float, float]:
    """Return micro-averaged precision, recall and F1 of entities."""
    total: Counter[str] = Counter()
    for counts in entity_counts(guesses, truths):
        for (_, name), count in counts.items():
            total[name] += count
    hits, actual, guessed = total["hits"], total["truths"], total["guessed"]
    return hits / max(1, guessed), hits / max(1, actual), 2 * hits / max(1, guessed + actual)


def by_label(labels: Sequence[Any], hits: Tensor, truths: Tensor, guessed: Tensor) -> dict[Any, dict[str, float]]:
    """Return precision, recall, F1 and support of each label from counts (K,); 0 where there is nothing to divide."""
    columns = {
        "precision": hits / guessed.clamp(min=1),
        "recall": hits / truths.clamp(min=1),
        "f1": f1(hits, truths, guessed),
        "support": truths,
    }
    return {label: {k: float(v[i]) for k, v in columns.items()} for i, label in enumerate(labels)}
