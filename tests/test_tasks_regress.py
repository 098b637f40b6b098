"""zoo.tasks.regress: standardised targets; metrics and predictions in the units of the labels."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from zoo.errors import DataError
from zoo.tasks import Regress

numbers = st.lists(st.integers(-1000, 1000).map(lambda n: n / 8 + 100), min_size=2, max_size=30).filter(
    lambda values: len(set(values)) > 1
)
quick = settings(max_examples=40, deadline=None)


@quick
@given(numbers)
def test_targets_are_standardised_and_predictions_rescaled(values):
    task = Regress.of(values)
    targets = task.targets(values)
    assert targets.dtype == torch.float32
    assert float(targets.mean()) == pytest.approx(0, abs=1e-5)
    assert float(targets.std(correction=0)) == pytest.approx(1, abs=1e-5)
    answers = task.decode(targets, 1)
    assert [answer.label for answer in answers] == pytest.approx(values, abs=1e-3)
    assert {answer.probability for answer in answers} == {None}


@quick
@given(numbers, st.integers(0, 10_000))
def test_metrics_match_scikit_learn_in_the_units_of_the_labels(values, seed):
    task = Regress.of(values)
    outputs = torch.randn(len(values), 1, generator=torch.Generator().manual_seed(seed))
    found = task.measure(outputs, task.targets(values))
    guesses = [answer.label for answer in task.decode(outputs, 1)]
    assert found["r2"] == pytest.approx(r2_score(values, guesses), rel=1e-4, abs=1e-5)
    assert found["mae"] == pytest.approx(mean_absolute_error(values, guesses), rel=1e-4)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(values, guesses), rel=1e-4)
    assert found["loss"] == pytest.approx(float(task.loss(outputs, task.targets(values))), rel=1e-4)


def test_baseline_is_the_error_of_the_mean():
    task = Regress.of([0.0, 10.0])
    assert task.baseline([4.0, 7.0]) == "the mean is off by 1.5"
    assert task.measure(torch.zeros(2, 1), task.targets([4.0, 7.0]))["mae"] == pytest.approx(1.5)


def test_metrics_of_a_single_example():
    task = Regress.of([1, 3])
    assert task.measure(torch.zeros(1, 1), task.targets([3.0])) == {"r2": 0.0, "mae": 1.0, "rmse": 1.0, "loss": 1.0}


@pytest.mark.parametrize("label", [math.nan, math.inf, None, "3", True, (1.0, 2.0), 10**400])
def test_invalid_label_raises_with_its_index(label):
    with pytest.raises(DataError, match=r"label of example 1 is .*, no finite number\nfix: correct"):
        Regress.of([1.0, label])


@pytest.mark.parametrize("labels", [[1e308, -1e308, 0.0], [1e308, 1e307], [5e-324, 0.0], [1e200, 0.0]])
def test_labels_whose_variance_overflows_raise(labels):
    with pytest.raises(DataError, match=r"labels from .* exceed the range of 64-bit arithmetic\nfix: rescale"):
        Regress.of(labels)


def test_a_label_far_beyond_those_of_training_raises():
    with pytest.raises(DataError, match=r"label of example 1 is 1e\+300; those of training are 2 ± 1\nfix: correct"):
        Regress.of([1.0, 3.0]).targets([2.0, 1e300])


@pytest.mark.parametrize("count", [1, 3, 10])
def test_constant_labels_raise(count):
    with pytest.raises(DataError, match=r"every label is 0\.1: there is nothing to learn"):
        Regress.of([0.1] * count)


def test_label_smoothing_does_not_apply():
    outputs, targets = torch.randn(3, 1), torch.randn(3, 1)
    task = Regress((0.0,), (1.0,))
    assert torch.equal(task.loss(outputs, targets, 0.3), task.loss(outputs, targets))


def test_several_numbers_are_measured_as_scikit_learn_averages_them():
    chance = torch.Generator().manual_seed(0)
    truths = torch.randn(40, 3, generator=chance, dtype=torch.float64) * torch.tensor([1.0, 50.0, 0.1]) + 7
    labels = [dict(zip("abc", row, strict=True)) for row in truths.tolist()]
    task = Regress.of(labels)
    assert task.labels == ("a", "b", "c")
    outputs = task.targets(labels) + 0.3 * torch.randn(40, 3, generator=chance)
    found, answers = task.measure(outputs, task.targets(labels)), [answer.label for answer in task.decode(outputs, 1)]
    assert found["r2"] == pytest.approx(r2_score(truths, answers), rel=1e-4)
    assert found["mae"] == pytest.approx(mean_absolute_error(truths, answers), rel=1e-4)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(truths, answers), rel=1e-4)
    each = task.per_class(outputs, task.targets(labels))
    assert [row["r2"] for row in each.values()] == pytest.approx(
        list(r2_score(truths, answers, multioutput="raw_values"))
    )
    assert Regress.restore(task.to_dict()) == task


def test_numbers_are_taken_by_name_in_any_order():
    task = Regress.of([{"a": 0.0, "b": 10.0}, {"a": 2.0, "b": 30.0}])
    assert torch.equal(task.targets([{"b": 10.0, "a": 2.0}]), task.targets([(2.0, 10.0)]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([{"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 3.0}], r"every label of b is 3: .*\nfix: .*leave out b"),
        ([(1.0, 2.0), (1.0,)], r"label of example 1 is \(1\.0,\), not 2 finite numbers\nfix: correct"),
        ([(1.0, 2.0), (1.0, "x")], r"label of example 1 is .*, not 2 finite numbers"),
        ([{"a": 1.0, "b": 2.0}, {"a": 1.0, "c": 2.0}], r"example 1 has the numbers a, c, not a, b\nfix: .*--label a,b"),
    ],
)
def test_several_numbers_that_do_not_fit_raise(labels, message):
    with pytest.raises(DataError, match=message):
        Regress.of(labels)
