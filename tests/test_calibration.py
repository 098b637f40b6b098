"""Temperature scaling: calibration error compared with torchmetrics, optimal temperature, unchanged heads."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassCalibrationError

from zoo.finetune.training.calibration import COLDEST, HOTTEST, Calibration, calibrate, ece, temperature

quick = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 10_000)


def calibrated_outputs(count: int, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return outputs (N, K) and targets (N,) sampled from their softmax probabilities."""
    generator = torch.Generator().manual_seed(seed)
    outputs = 2 * torch.randn(count, classes, generator=generator)
    return outputs, torch.multinomial(outputs.softmax(1), 1, generator=generator)[:, 0]


def head_and_data(factor: float, count: int = 600) -> tuple[nn.Linear, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a head overconfident by `factor`, features (N, 4), its outputs (N, 4), and targets (N,)."""
    features, targets = calibrated_outputs(count)
    head = nn.Linear(4, 4)
    with torch.no_grad():
        head.weight.copy_(factor * torch.eye(4))
        head.bias.zero_()
        return head, features, head(features), targets


def test_ece_of_a_hand_computed_example():
    outputs = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]).log()
    targets = torch.tensor([0, 1, 1, 1])
    # gaps of the bins {0.9, 0.9} (accuracy 0.5), {0.6} and {0.8}: 0.4, 0.4, 0.2
    assert ece(outputs, targets) == pytest.approx((2 * 0.4 + 0.4 + 0.2) / 4)
    # one bin: accuracy 0.75, confidence 0.8
    assert ece(outputs, targets, bins=1) == pytest.approx(0.05)


def test_ece_is_near_zero_only_for_calibrated_outputs():
    outputs, targets = calibrated_outputs(20_000)
    assert ece(outputs, targets) < 0.01
    assert ece(3 * outputs, targets) > 0.1


def test_ece_of_empty_input_is_zero():
    assert ece(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)) == 0


@quick
@given(st.integers(1, 60), st.integers(2, 6), st.sampled_from([1, 10, 15]), seeds)
def test_ece_matches_torchmetrics(count, classes, bins, seed):
    outputs, targets = calibrated_outputs(count, classes, seed)
    metric = MulticlassCalibrationError(classes, n_bins=bins, norm="l1")
    assert ece(outputs, targets, bins) == pytest.approx(float(metric(outputs.softmax(1), targets)), abs=1e-5)


@quick
@given(st.integers(1, 60), st.integers(1, 6), st.just(0.0) | st.floats(1e-3, 1e4), st.floats(-8, 8), seeds)
def test_ece_is_in_the_unit_interval_and_shift_invariant(count, classes, factor, constant, seed):
    outputs, targets = calibrated_outputs(count, classes, seed)
    outputs = outputs.double() * factor
    assert 0 <= ece(outputs, targets) <= 1
    rows = constant * torch.arange(count)[:, None]
    assert ece(outputs + rows, targets, 1) == pytest.approx(ece(outputs, targets, 1), abs=1e-6)


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0, 8.0])
def test_temperature_recovers_the_scaling_factor(factor):
    outputs, targets = calibrated_outputs(20_000)
    assert temperature(factor * outputs, targets) == pytest.approx(factor, rel=0.05)


@quick
@given(st.integers(5, 80), st.integers(2, 5), seeds)
def test_temperature_matches_a_grid_search(count, classes, seed):
    outputs, targets = calibrated_outputs(count, classes, seed)
    grid = torch.logspace(math.log10(COLDEST), math.log10(HOTTEST), 2_000, dtype=torch.float64)
    losses = torch.stack([F.cross_entropy(outputs.double() / t, targets) for t in grid])
    found = temperature(outputs, targets)
    assert float(F.cross_entropy(outputs.double() / found, targets)) <= float(losses.min()) + 1e-12
    best = int(losses.argmin())
    assert grid[max(0, best - 1)] * (1 - 1e-9) <= found <= grid[min(len(grid) - 1, best + 1)] * (1 + 1e-9)


def test_temperature_is_bounded_for_all_right_or_all_wrong_outputs():
    outputs = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert temperature(outputs, torch.tensor([0, 1])) == pytest.approx(COLDEST, rel=1e-9)
    assert temperature(outputs, torch.tensor([1, 0])) == pytest.approx(HOTTEST, rel=1e-9)
    assert temperature(1e30 * outputs, torch.tensor([1, 0])) <= HOTTEST


def test_temperature_of_constant_outputs_is_one():
    assert temperature(torch.full((9, 3), 0.7), torch.zeros(9, dtype=torch.long)) == 1


def test_calibrating_an_overconfident_head_keeps_its_predictions():
    head, features, outputs, targets = head_and_data(3.0)
    found = calibrate(head, outputs, targets, seed=0)
    assert found is not None
    assert found.temperature == pytest.approx(3, rel=0.2)
    assert found.after < 0.06 < 0.1 < found.before == pytest.approx(ece(outputs, targets))
    with torch.no_grad():
        after = head(features)
    torch.testing.assert_close(after, outputs / found.temperature)
    assert torch.equal(after.argmax(1), outputs.argmax(1))


def test_calibrate_scales_weight_and_bias_and_supports_heads_without_bias():
    head, features, _, targets = head_and_data(3.0)
    with torch.no_grad():
        head.bias.copy_(torch.tensor([1.0, -1.0, 0.5, 0.0]))
        outputs = head(features)
    before = copy.deepcopy(head.state_dict())
    found = calibrate(head, outputs, targets, seed=0)
    assert found is not None
    for name, parameter in head.state_dict().items():
        torch.testing.assert_close(parameter * found.temperature, before[name])
    bare = nn.Linear(4, 4, bias=False)
    assert calibrate(bare, outputs, targets, seed=0) == found


def test_head_is_unchanged_if_scaling_does_not_reduce_the_error():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(60, 3, generator=generator)
    kept = []
    for seed in range(20):
        head = nn.Linear(5, 3)
        before = copy.deepcopy(head.state_dict())
        targets = torch.multinomial(outputs.softmax(1), 1, generator=torch.Generator().manual_seed(seed))[:, 0]
        found = calibrate(head, outputs, targets, seed=0)
        assert found is not None
        same = all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
        assert same == (found.temperature == 1)
        if same:
            error = ece(outputs, targets)
            assert found == Calibration(1.0, error, error)
            kept.append(seed)
    assert kept  # calibrated outputs need no scaling for at least some draws


def test_reported_error_after_calibration_is_cross_validated():
    """The error in `after` uses the temperatures of the folds, not the one fitted on all data."""
    head, _, outputs, targets = head_and_data(3.0, count=60)
    found = calibrate(head, outputs, targets, seed=0)
    assert found is not None
    assert found.after != ece(outputs.double() / found.temperature, targets)


def test_no_calibration_below_fifty_examples():
    head, _, outputs, targets = head_and_data(3.0, count=50)
    before = copy.deepcopy(head.state_dict())
    assert calibrate(head, outputs[:49], targets[:49], seed=0) is None
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    assert calibrate(head, outputs, targets, seed=0) is not None


def test_calibration_is_deterministic_given_the_seed():
    _, _, outputs, targets = head_and_data(3.0, count=100)
    found = [calibrate(nn.Linear(4, 4), outputs, targets, seed) for seed in (5, 5, 6)]
    assert found[0] == found[1]
    assert found[0] is not None
    assert found[2] is not None
    assert found[0].temperature == found[2].temperature
    assert found[0].after != found[2].after
