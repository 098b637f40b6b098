"""zoo.tasks: heads, targets, metrics (checked against scikit-learn), answers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from zoo.errors import DataError, RecipeError
from zoo.tasks import Classify, from_dict, infer


def test_labels_are_sorted_and_kept_as_they_are():
    assert infer(["b", "a", "b"]).labels == ("a", "b")
    assert infer([10, 9, 10]).labels == (9, 10)
    assert infer([1, "a"]).labels == (1, "a")


def test_an_unknown_task_is_told():
    with pytest.raises(RecipeError, match=r"task='detect' is not one of classify"):
        infer(["a", "b"], "detect")


def test_a_task_survives_its_dict():
    task = infer(["b", "a"])
    assert from_dict(task.to_dict()) == task


def test_a_head_maps_features_to_one_output_a_class():
    assert infer(["a", "b"]).head(3)(torch.randn(4, 3)).shape == (4, 2)


def test_an_unknown_label_is_told_with_the_known_ones():
    with pytest.raises(DataError, match=r"does not know: owl; it knows a, b\nfix: rename"):
        infer(["a", "b"]).targets(["a", "owl"])


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 10_000))
def test_metrics_equal_scikit_learns(classes, count, seed):
    chance = torch.Generator().manual_seed(seed)
    outputs = torch.randn(count, classes, generator=chance)
    targets = torch.randint(classes, (count,), generator=chance)
    found = Classify(tuple(range(classes))).measure(outputs, targets)
    guesses = outputs.argmax(1)
    assert found["accuracy"] == pytest.approx(accuracy_score(targets, guesses))
    assert found["macro_f1"] == pytest.approx(f1_score(targets, guesses, average="macro"))
    assert found["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(outputs, targets)))


def test_an_answer_ranks_the_labels():
    (answer,) = Classify(("a", "b", "c")).decode(torch.tensor([[0.0, 2.0, 1.0]]), top=2)
    assert answer.label == "b"
    assert [label for label, _ in answer.top] == ["b", "c"]
    assert answer.probability == pytest.approx(torch.tensor([0.0, 2.0, 1.0]).softmax(0)[1].item())


def test_the_baseline_is_the_commonest_class():
    assert Classify(("a", "b")).baseline(["a", "a", "b", "a"]) == "majority class 0.750"
