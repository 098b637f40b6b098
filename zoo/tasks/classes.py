"""Class labels: their order, their indices, and class-balanced losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.errors import DataError


def ordered(rows: Iterable[Sequence[Any]]) -> tuple[Any, ...]:
    """Return the distinct labels, numbers before texts; DataError for any other type."""
    found = set()
    for index, row in enumerate(rows):
        for label in row:
            if not isinstance(label, str | int):
                raise DataError(
                    f"label of example {index} is {label!r} ({type(label).__name__}); "
                    "a class is a text or a whole number",
                    fix="turn the labels into str or int",
                )
            found.add(label)
    return tuple(sorted(found, key=lambda label: (isinstance(label, str), label)))


def check(labels: Any) -> None:
    """Raise ValueError unless saved labels are a list of distinct texts and whole numbers."""
    if not isinstance(labels, list) or not all(isinstance(label, str | int) for label in labels):
        raise ValueError("labels are a list of texts and whole numbers")
    if len(set(labels)) < len(labels):
        raise ValueError("a label occurs twice")


def indices(labels: Sequence[Any], known: Sequence[Any]) -> list[int]:
    """Return the index of each label among the known ones; DataError for unknown labels."""
    index = {label: i for i, label in enumerate(known)}
    unknown = sorted({str(label) for label in labels if label not in index})
    if unknown:
        names = ", ".join(map(str, known[:10])) + ("…" if len(known) > 10 else "")
        raise DataError(
            f"the data has labels that this model does not know: {', '.join(unknown[:5])}; it knows {names}",
            fix="rename the labels to the model's, or fine-tune again on data with all of them",
        )
    return [index[label] for label in labels]


def confusion(labels: Sequence[Any], truths: Tensor, guesses: Tensor) -> list[tuple[Any, Any, int]]:
    """Return (truth, answer, count) of the pairs of class indices (N,) that occur, in the order of the labels."""
    pairs, counts = (truths * len(labels) + guesses).unique(return_counts=True)
    rows = zip(pairs.tolist(), counts.tolist(), strict=True)
    return [(labels[pair // len(labels)], labels[pair % len(labels)], count) for pair, count in rows]


def balance(how: str, counts: Tensor) -> dict[str, Any]:
    """Return the fields of a task that balance `cross_entropy` by the number of targets of each class (K,), M in all.

    weights  inverse frequency, M / (K * count), as scikit-learn's "balanced"; 1 for a class that does not occur
    logits   the log of each class's share, added to the outputs (Menon et al. 2021, arXiv 2007.07314, equation 10,
             tau = 1): the outputs then rank classes as if all were equally frequent
    """
    if how == "weights":
        weights = counts.sum() / ((counts > 0).sum() * counts.clamp(min=1))
        return {"weights": tuple(torch.where(counts > 0, weights, 1.0).tolist())}
    if how == "logits":
        counts = counts.clamp(min=1)
        return {"prior": tuple((counts / counts.sum()).log().tolist())}
    return {}


def cross_entropy(
    outputs: Tensor,
    targets: Tensor,
    smoothing: float,
    weights: tuple[float, ...] | None,
    prior: tuple[float, ...] | None,
) -> Tensor:
    """Return the mean cross-entropy in nats of outputs (M, K) against targets (M,), class-balanced if asked."""
    if prior is not None:
        outputs = outputs + outputs.new_tensor(prior)
    weight = None if weights is None else outputs.new_tensor(weights)
    return F.cross_entropy(outputs, targets, weight=weight, label_smoothing=smoothing)


def cross_entropy_curvature(
    outputs: Tensor, targets: Tensor, weights: tuple[float, ...] | None, prior: tuple[float, ...] | None
) -> Callable[[Tensor], Tensor]:
    """Return the product of the Hessian of `cross_entropy` with directions (M, K), as a function of them.

    Of an example with probabilities p it is diag(p) - p p', whatever its target (Bishop 2006, 4.110).
    """
    if prior is not None:
        outputs = outputs + outputs.new_tensor(prior)
    likely = outputs.softmax(1)
    share = likely.new_ones(len(likely)) if weights is None else likely.new_tensor(weights)[targets]
    weighted = likely * (share / share.sum())[:, None]

    def product(directions: Tensor) -> Tensor:
        bent = weighted * directions
        return bent - likely * bent.sum(1, keepdim=True)

    return product
