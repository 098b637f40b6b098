"""zoo.tasks.metrics: agreement with scikit-learn, and decoding of entity tags."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, confusion_matrix, f1_score, r2_score

from zoo.tasks import metrics

pytestmark = pytest.mark.filterwarnings("ignore:No positive class found")
quick = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 10_000)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@quick
@given(st.integers(2, 6), st.integers(0, 40), seeds)
def test_class_counts_match_scikit_learn(classes, count, seed):
    guesses, targets = torch.randint(classes, (2, count), generator=seeded(seed))
    table = confusion_matrix(targets, guesses, labels=range(classes)) if count else np.zeros((classes, classes))
    found = [counts.tolist() for counts in metrics.class_counts(guesses, targets, classes)]
    assert found == [table.diagonal().tolist(), table.sum(1).tolist(), table.sum(0).tolist()]


def test_class_counts_of_many_classes_need_no_matrix():
    indices = torch.arange(200_000)  # a matrix would take 320 GB
    hits, truths, guessed = metrics.class_counts(indices.flip(0), indices, len(indices))
    assert (int(hits.sum()), int(truths.sum()), int(guessed.sum())) == (0, 200_000, 200_000)


@quick
@given(st.integers(2, 6), st.integers(1, 40), seeds)
def test_f1_and_macro_f1_match_scikit_learn(classes, count, seed):
    guesses, targets = torch.randint(classes, (2, count), generator=seeded(seed))
    counts = metrics.class_counts(guesses, targets, classes)
    each = f1_score(targets, guesses, labels=range(classes), average=None, zero_division=0)
    assert metrics.f1(*counts).tolist() == pytest.approx(each.tolist())
    assert metrics.macro_f1(*counts) == pytest.approx(f1_score(targets, guesses, average="macro"))


def test_macro_f1_of_empty_input_is_zero():
    assert metrics.macro_f1(*torch.zeros(3, 4)) == 0


@quick
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 50), seeds)
def test_average_precision_with_ties_and_without_positives_matches_scikit_learn(count, labels, levels, seed):
    scores = torch.randint(levels, (count, labels), generator=seeded(seed)) / levels  # few levels give many ties
    truths = torch.randint(2, (count, labels), generator=seeded(seed + 1))
    found = metrics.average_precision(scores, truths)
    expected = [average_precision_score(truths[:, k], scores[:, k]) for k in range(labels)]
    assert found.tolist() == pytest.approx(expected)


def test_average_precision_handles_infinite_scores():
    scores = torch.tensor([[-math.inf], [math.inf], [0.0]])
    assert metrics.average_precision(scores, torch.tensor([[0], [1], [1]])).tolist() == [1.0]


@quick
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(-5, 5)), min_size=2, max_size=30))
def test_r2_matches_scikit_learn(pairs):
    outputs, targets = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    assert metrics.r2(outputs, targets) == pytest.approx(r2_score(targets, outputs), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_r2_of_constant_targets_is_one_or_zero(count):
    targets = torch.full((count,), 0.1)  # the mean of 0.1s may differ from 0.1 by rounding
    assert metrics.r2(targets, targets) == 1
    assert metrics.r2(targets + 1, targets) == 0


spans = st.lists(st.tuples(st.sampled_from(["PER", "LOC", "B-2"]), st.integers(1, 4), st.integers(0, 2)), max_size=6)


def encode(runs: list, scheme: str) -> tuple[list[str], list[tuple[str, int, int]]]:
    """Encode entities (kind, length, gap) as tags; returns the tags and the (kind, start, end) of each entity."""
    first, inside, last, single = scheme
    tags: list[str] = []
    found = []
    for kind, length, gap in runs:
        found.append((kind, len(tags), len(tags) + length))
        middle = [first, *[inside] * (length - 2), last] if length > 1 else [single]
        tags += [f"{prefix}-{kind}" for prefix in middle] + ["O"] * gap
    return tags, found


@quick
@given(spans, st.sampled_from(["BIIB", "BIES", "BMES", "BILU"]))
def test_entities_decodes_every_scheme(runs, scheme):
    tags, expected = encode(runs, scheme)
    assert list(metrics.entities(tags)) == expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", []),
        ("O O", []),
        ("I-A I-A O", [("A", 0, 2)]),  # no B-: conlleval and seqeval start an entity anyway
        ("B-A I-B I-B", [("A", 0, 1), ("B", 1, 3)]),
        ("B-A B-A", [("A", 0, 1), ("A", 1, 2)]),
        ("O E-A I-A", [("A", 1, 2), ("A", 2, 3)]),
        ("B I O B", [("", 0, 2), ("", 3, 4)]),
        ("-A X-A B-A", [("A", 2, 3)]),
    ],
)
def test_entities_of_malformed_tags(tags, expected):
    assert list(metrics.entities(tags.split())) == expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O B-PER I-PER", True),
        ("I-PER O", True),
        ("O B-A E-A S-A", True),
        ("B I O", True),
        ("O", False),
        ("NOUN VERB", False),
        ("S M L", False),
        ("B-PER NOUN", False),
        ("B X", False),
    ],
)
def test_marks_entities(tags, expected):
    assert metrics.marks_entities(tags.split()) is expected


def test_entity_f1_requires_exact_spans():
    truths = [["B-A", "I-A", "O", "B-B"], ["B-A"]]
    guesses = [["B-A", "I-A", "O", "B-A"], ["O"]]
    assert metrics.entity_f1(guesses, truths) == pytest.approx((1 / 2, 1 / 3, 2 / 5))


def test_entity_f1_without_entities_is_zero():
    assert metrics.entity_f1([["O"]], [["O"]]) == (0, 0, 0)
