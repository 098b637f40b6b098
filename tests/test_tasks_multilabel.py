"""zoo.tasks.multilabel: metrics compared with scikit-learn, label formats, predictions, class balancing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, log_loss

from zoo.errors import DataError
from zoo.tasks import Multilabel

names = st.frozensets(st.sampled_from("abcd"))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 30), st.integers(0, 10_000))
def test_metrics_match_scikit_learn(labels, count, seed):
    generator = torch.Generator().manual_seed(seed)
    outputs = 3 * torch.randn(count, labels, generator=generator)
    targets = torch.randint(2, (count, labels), generator=generator).float()
    found = Multilabel(tuple(range(labels))).measure(outputs, targets)
    guesses, positive = outputs >= 0, [k for k in range(labels) if targets[:, k].any()]
    precisions = [average_precision_score(targets[:, k], outputs[:, k]) for k in positive]
    assert found["map"] == pytest.approx(sum(precisions) / max(1, len(precisions)))
    truths = targets.bool()
    assert found["micro_f1"] == pytest.approx(f1_score(truths.flatten(), guesses.flatten(), zero_division=0))
    occurs = [k for k in range(labels) if (truths | guesses)[:, k].any()]
    each = [f1_score(truths[:, k], guesses[:, k], zero_division=0) for k in occurs]
    assert found["macro_f1"] == pytest.approx(sum(each) / max(1, len(each)))
    flat = outputs.double().sigmoid().flatten()
    assert found["loss"] == pytest.approx(log_loss(targets.flatten(), flat, labels=[0, 1]), rel=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(names, min_size=1, max_size=8).filter(any))
def test_label_formats_are_equivalent(rows):
    task = Multilabel.of(rows)
    assert task.labels == tuple(sorted(frozenset().union(*rows)))
    expected = task.targets(rows)
    assert expected.dtype == torch.float32
    assert [{task.labels[k] for k in row.nonzero()[:, 0].tolist()} for row in expected] == [set(row) for row in rows]
    for form in (tuple, list, set, "|".join, " ; ".join, ", ".join):
        again = [form(row) for row in rows]
        assert Multilabel.of(again) == task
        assert torch.equal(task.targets(again), expected)


def test_integer_labels_and_empty_label_sets():
    task = Multilabel.of([(10, 9), None, ()])
    assert task.labels == (9, 10)
    assert task.targets([None, (9,)]).tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([("a",), 3], r"label of example 1 is 3 \(int\), not a list of labels\nfix: .*red\|round"),
        ([("a", 1.5)], r"label of example 0 is 1\.5 \(float\)"),
        ([(), ""], r"not one example has a label"),
    ],
)
def test_invalid_label_set_raises(labels, message):
    with pytest.raises(DataError, match=message):
        Multilabel.of(labels)


def test_unknown_label_raises():
    with pytest.raises(DataError, match=r"does not know: owl; it knows a, b"):
        Multilabel(("a", "b")).targets([("a", "owl")])


def test_loss_is_finite_for_huge_outputs_and_smoothing_targets_one_half():
    task, truth = Multilabel(("a", "b")), torch.tensor([[1.0, 0.0]])
    assert float(task.loss(torch.tensor([[1e30, -1e30]]), truth)) == 0
    outputs = torch.tensor([[0.95, 0.05]]).logit()
    assert torch.allclose(task.loss(outputs, truth, 0.1), task.loss(outputs, torch.tensor([[0.95, 0.05]])))


def test_metrics_are_finite_for_labels_without_positives():
    found = Multilabel(("a", "b")).measure(torch.full((3, 2), -5.0), torch.zeros(3, 2))
    assert found == pytest.approx({"map": 0, "macro_f1": 0, "micro_f1": 0, "loss": 0.0067153}, abs=1e-6)


def test_decode_returns_all_likely_labels_and_ranks_the_top_ones():
    nothing, several = Multilabel(("a", "b", "c")).decode(torch.tensor([[-1.0, -2.0, -3.0], [2.0, -1.0, 0.0]]), top=2)
    assert nothing.label == ()
    assert [label for label, _ in nothing.top] == ["a", "b"]
    assert several.label == ("a", "c")
    assert several.probability is None
    assert several.top[0] == ("a", pytest.approx(0.880797))


def test_baseline_is_the_chance_map_of_labels_with_positives():
    assert Multilabel(("a", "b", "c")).baseline([("a",), ("a", "b"), ()]) == "chance map 0.500"


def test_balanced_loss_weighs_positives_and_negatives_equally():
    rows = [("a",)] + [("b",)] * 4 + [("all",)] * 0
    targets = Multilabel(("a", "b", "never")).targets(rows)
    targets = torch.cat([targets, torch.ones(5, 1)], 1)  # a label that is always present
    task = Multilabel(("a", "b", "never", "always")).balanced("weights", targets)
    assert task.weights == (4.0, 0.25, 1.0, 1.0)
    outputs = torch.zeros(1, 4, requires_grad=True)
    task.loss(outputs.expand(5, 4), targets).backward()
    assert torch.allclose(outputs.grad[0, :2], torch.zeros(2), atol=1e-7)
    assert task.measure(torch.zeros(5, 4), targets) == Multilabel(task.labels).measure(torch.zeros(5, 4), targets)
