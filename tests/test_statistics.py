"""Statistics of evidence: exact tests against scipy, corrections by hand, and simulated coverage and error rates."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from zoo.evidence import statistics
from zoo.tasks.intervals import wilson

sys.path.insert(0, str(Path(__file__).parents[1] / "tools" / "bench"))
import coverage


def hits(share, *shape, seed=0):
    return (np.random.default_rng(seed).random(shape) < share).astype(float)


def test_mean_of_hits_of_one_draw_has_wilsons_interval():
    scores = hits(0.8, 60)
    found = statistics.mean_score(scores, is_share=True)
    assert (found.low, found.high) == pytest.approx(wilson(scores.sum(), 60))
    assert found.draws_std is None
    assert found.items_error == pytest.approx(stats.sem(scores))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_right_or_all_wrong_is_not_certain(value):
    found = statistics.mean_score(np.full((3, 20), value), is_share=True)
    assert (found.low, found.high) == pytest.approx(wilson(20 * value, 20))


def test_spread_over_draws_and_error_of_items_are_told_apart():
    skill, hardness = np.array([[-1.0], [0.0], [1.0]]), np.zeros(50)
    of_draws = statistics.mean_score(skill + hardness, is_share=False)
    assert (of_draws.draws_std, of_draws.items_error) == pytest.approx((1, 0))
    assert of_draws.error == pytest.approx(1 / 3**0.5)
    assert of_draws.high - of_draws.mean == pytest.approx(stats.t.ppf(0.975, 2) / 3**0.5)
    of_items = statistics.mean_score(np.zeros((3, 1)) + np.arange(50.0), is_share=False)
    assert of_items.draws_std == pytest.approx(0)
    assert of_items.error == of_items.items_error == pytest.approx(stats.sem(np.arange(50)))
    assert of_items.high - of_items.mean == pytest.approx(stats.t.ppf(0.975, 49) * of_items.error)


def test_mcnemar_is_the_binomial_test_of_the_items_on_which_one_model_is_right():
    a = [1] * 30 + [1] * 9 + [0] * 2 + [0] * 5
    b = [1] * 30 + [0] * 9 + [1] * 2 + [0] * 5
    assert statistics.mcnemar(a, b) == pytest.approx(stats.binomtest(2, 11).pvalue)
    assert statistics.mcnemar(a, a) == 1
    assert statistics.permutation(a, b) == pytest.approx(statistics.mcnemar(a, b))
    for wrong in ([0.5, 1], [[0, 1]], [0]):
        with pytest.raises(ValueError, match="two vectors of 0 and 1"):
            statistics.mcnemar(wrong, [0, 1])


@pytest.mark.parametrize("draws", [1, 3])
def test_permutation_of_hits_is_exact(draws):
    a, b = hits(0.8, draws, 9, seed=1), hits(0.4, draws, 9, seed=2)
    sums = (a - b).sum(0)
    swapped = [
        abs(sum(s * each for s, each in zip(signs, sums, strict=True)))
        for signs in itertools.product((1, -1), repeat=9)
    ]
    expected = np.mean(np.array(swapped) >= abs(sums.sum()))
    assert statistics.permutation(a, b) == pytest.approx(expected)
    assert statistics.permutation(a, a) == 1


def test_permutation_of_other_scores_is_seeded_and_close_to_scipys():
    chance = np.random.default_rng(0)
    a = chance.normal(size=30)
    b = a + chance.normal(0.3, 1, 30)
    found = statistics.permutation(a, b)
    assert found == statistics.permutation(a, b)
    expected = stats.permutation_test((a - b,), np.mean, permutation_type="samples", n_resamples=9_999, random_state=1)
    assert found == pytest.approx(expected.pvalue, abs=0.02)
    assert statistics.permutation(a, a + 1e-9) == pytest.approx(1e-4)


def test_scores_of_other_items_are_refused():
    for function in (statistics.permutation, lambda a, b: statistics.mean_difference(a, b, is_share=True)):
        with pytest.raises(ValueError, match="the same draws and items"):
            function([0, 1], [0, 1, 1])
    with pytest.raises(ValueError, match="not those of draws and items"):
        statistics.mean_score([], is_share=True)


def test_smallest_detectable_difference_is_that_of_the_paired_t_test():
    noise = np.random.default_rng(0).normal(size=100)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    difference = statistics.mean_difference(noise, np.zeros(100), is_share=False)
    assert statistics.smallest_detectable(difference) == pytest.approx(0.2829, abs=0.001)  # G*Power, dz of 100 pairs


def test_paired_bootstrap_is_narrower_than_that_of_each_metric():
    truths = torch.tensor(hits(0.5, 200)).bool()
    first = truths ^ torch.tensor(hits(0.1, 200, seed=1)).bool()
    second = first ^ torch.tensor(hits(0.03, 200, seed=2)).bool()

    def f1(guesses):
        hit, both = (truths & guesses).double(), truths.double() + guesses.double()
        return lambda weights: 2 * (weights @ hit) / (weights @ both)

    ones = torch.ones(1, 200, dtype=torch.float64)
    low, high = statistics.paired_bootstrap(f1(first), f1(second), 200)
    assert low < float(f1(first)(ones) - f1(second)(ones)) < high
    assert high - low < 0.07
    assert statistics.paired_bootstrap(f1(first), f1(first), 200) == (0, 0)
    assert statistics.paired_bootstrap(f1(first), f1(second), 1) is None


def test_holm_adjusts_step_by_step():
    assert statistics.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_tie_groups_hold_what_is_not_shown_to_differ():
    items = np.arange(200)
    models = [items < 120, items < 180, items < 178, items < 122]  # accuracy 0.6, 0.9, 0.89, 0.61
    assert statistics.tie_groups([model.astype(float) for model in models]) == [2, 1, 1, 2]
    assert statistics.tie_groups([]) == []
    assert statistics.tie_groups([[1.0, 0.0]]) == [1]


@pytest.mark.parametrize(
    ("check", "lowest", "highest"),
    [
        (coverage.one_draw, 0.93, 0.97),
        (coverage.several_draws, 0.92, 0.985),
        (coverage.difference, 0.92, 0.985),
        (coverage.difference_of_one_draw, 0.92, 0.99),
        (coverage.false_findings, 0.0, 0.07),
        (coverage.false_claims, 0.0, 0.07),
        (coverage.power, 0.70, 0.92),
    ],
)
def test_simulated_coverage_and_error_rates(check, lowest, highest):
    """Seeded; the bounds leave three standard errors of 400 repeats around the nominal rates."""
    assert lowest <= check(100, 400, 0.8) <= highest
