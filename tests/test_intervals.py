"""Confidence intervals: against scipy, against known sampling distributions, and their limits."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import binomtest

from zoo.data.seeding import generator
from zoo.tasks import KINDS, Classify, intervals
from zoo.tasks.regress import Regress


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (5, 5), (1, 1), (93, 100), (1, 3000), (12_345, 20_000)])
def test_wilson_matches_scipy(hits, count):
    expected = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert intervals.wilson(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-7)


def test_bootstrap_of_a_mean_has_the_width_of_the_normal_approximation():
    values = torch.randn(400, generator=generator(0, "test"), dtype=torch.float64)
    found = intervals.bootstrap(lambda weights: {"mean": weights @ values / 400}, 400, 1)["mean"]
    error = float(values.std()) / 20
    assert found == pytest.approx((float(values.mean()) - 1.96 * error, float(values.mean()) + 1.96 * error), abs=0.02)


def test_bootstrap_of_a_share_is_wilsons_interval_also_where_no_sample_has_a_mistake():
    hits = torch.ones(40, dtype=torch.float64)
    found = intervals.bootstrap(lambda weights: {"micro_f1": weights @ hits / 40}, 40, 1)["micro_f1"]
    assert found == pytest.approx(intervals.wilson(40, 40))
    hits[:8] = 0
    found = intervals.bootstrap(lambda weights: {"micro_f1": weights @ hits / 40}, 40, 1)["micro_f1"]
    assert found == pytest.approx(intervals.wilson(32, 40), abs=0.02)


def test_bootstrap_is_seeded_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    values = torch.arange(9.0, dtype=torch.float64)
    first, again = (intervals.bootstrap(lambda weights: {"sum": weights @ values}, 9, 1) for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), before)


def test_no_interval_where_it_would_take_too_long_or_means_nothing():
    def never(weights):
        raise AssertionError

    assert intervals.bootstrap(never, 1_000_000, 50) == {}
    assert intervals.bootstrap(never, 1, 1) == {}


def test_each_task_has_an_interval_of_its_main_metric_around_the_metric():
    chance = generator(1, "test")
    tags = KINDS["tag"].of([("O", "B-PER", "I-PER")])
    words = KINDS["tag"].of([("x", "y")])
    texts = [torch.randint(3, (5,), generator=chance) for _ in range(30)]
    rows = [torch.nn.functional.one_hot(text, 3) + 0.7 * torch.randn(5, 3, generator=chance) for text in texts]
    pairs = [(row[:, :2], text.clamp(max=1)) for row, text in zip(rows, texts, strict=True)]
    truths = torch.rand(60, generator=chance)
    noisy = (truths + 0.3 * torch.randn(60, generator=chance))[:, None]
    several = torch.randint(2, (60, 4), generator=chance).float()
    cases = (
        (Classify(("a", "b", "c")), rows[0], texts[0]),
        (KINDS["multilabel"](("a", "b", "c", "d")), several + torch.randn(60, 4, generator=chance), several),
        (Regress((0.0,), (2.0,)), noisy, truths[:, None]),
        (Regress((0.0, 9.0), (2.0, 1.0), ("a", "b")), noisy.expand(-1, 2) + 0, torch.stack([truths, 1 - truths], 1)),
        (tags, rows, texts),
        (words, [row for row, _ in pairs], [text for _, text in pairs]),
        (KINDS["masked-lm"](), [torch.rand(7, 2, generator=chance) for _ in range(20)], None),
    )
    for task, outputs, targets in cases:
        metrics, found = task.measure(outputs, targets), task.intervals(outputs, targets)
        assert task.main_metric in found or "perplexity" in found
        assert set(found) >= {"accuracy"} & set(metrics)
        for name, (low, high) in found.items():
            assert low <= metrics[name] <= high, (task.name, name)
            assert low < high


def test_r2_of_a_sample_with_one_value_is_finite():
    found = Regress((0.0,), (1.0,)).intervals(torch.tensor([[0.1], [0.9]]), torch.tensor([[0.0], [1.0]]))
    assert all(torch.tensor(ends).isfinite().all() for ends in found.values())
