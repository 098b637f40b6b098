"""The probe on features larger than memory: the head of the solver in memory, over blocks of rows."""

from __future__ import annotations

import pytest
import torch

from zoo.finetune.features import large_probe, linear_probe
from zoo.finetune.features.linear_probe import ProbeData
from zoo.finetune.features.stage_outputs import StageOutput
from zoo.tasks import Classify, Multilabel, Regress


@pytest.fixture(scope="module")
def features():
    """3,000 rows of 20 features, of very different means and deviations, and the outputs of a linear model."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(3_000, 20, generator=draws)
    outputs = x @ torch.randn(20, 3, generator=draws) + torch.randn(3_000, 3, generator=draws)
    return x * torch.logspace(-2, 2, 20) + torch.linspace(-5, 5, 20), outputs


TASKS = {
    "classify": (Classify(("a", "b", "c")), lambda outputs: outputs.argmax(1)),
    "multilabel": (Multilabel(("a", "b", "c")), lambda outputs: (outputs > 0).float()),
    "regress": (Regress((0.0,), (1.0,), ("value",)), lambda outputs: outputs[:, :1]),
}


@pytest.mark.parametrize("axes", [True, pytest.param(False, marks=pytest.mark.real)])
@pytest.mark.parametrize("name", TASKS)
def test_blocks_give_the_head_of_the_solver_in_memory(name, axes, features, monkeypatch):
    task, targets = TASKS[name]
    data = ProbeData(features[0], targets(features[1]))
    expected = linear_probe.fit(task, data, 1e-3, 0)
    monkeypatch.setattr(large_probe, "BLOCK", 700)
    monkeypatch.setattr(large_probe, "SAMPLE", 1)
    if not axes:
        monkeypatch.setattr(large_probe, "FEW", 10)
    found = large_probe.fit(task, data, 1e-3, 0, linear_probe.fit)
    outputs = [head(features[0]) for head in (found.head, expected.head)]
    assert (outputs[0] - outputs[1]).abs().max() < 0.02 * outputs[1].std()
    first = linear_probe.fit(task, ProbeData(data.features[:100], data.targets[:100]), 1e-3, 0)
    assert linear_probe.loss(task, found.head, data) < linear_probe.loss(task, first.head, data)
    assert large_probe.loss(task, found.head, data, 0) == pytest.approx(linear_probe.loss(task, found.head, data))


def test_blocks_are_scaled_as_the_head_reads_them(features, monkeypatch):
    task, targets = TASKS["classify"]
    data = ProbeData(features[0], targets(features[1]), None, (StageOutput("a", "NTC", 8, scaled=True),))
    expected = linear_probe.fit(task, data, 1e-3, 0)
    monkeypatch.setattr(large_probe, "BLOCK", 700)
    monkeypatch.setattr(large_probe, "SAMPLE", 1)
    found = large_probe.fit(task, data, 1e-3, 0, linear_probe.fit)
    outputs = [head(features[0]) for head in (found.head, expected.head)]
    assert (outputs[0] - outputs[1]).abs().max() < 0.02 * outputs[1].std()
    assert large_probe.loss(task, found.head, data, 1) == pytest.approx(linear_probe.loss(task, found.head, data))


def test_large_is_by_size_and_not_with_class_weights(features, monkeypatch):
    task, targets = TASKS["classify"]
    data = ProbeData(features[0], targets(features[1]))
    assert not large_probe.is_large(task, data)
    monkeypatch.setattr(large_probe, "LARGE", 10_000)
    assert large_probe.is_large(task, data)
    assert not large_probe.is_large(task.balanced("weights", data.targets), data)


def test_views_of_an_example_share_a_fold(features, monkeypatch):
    task, targets = TASKS["classify"]
    seen = []

    def solve(task, data, l2, seed):
        seen.append(data)
        return linear_probe.fit(task, data, 1e-3, seed)

    monkeypatch.setattr(large_probe, "SAMPLE", 1)
    x = torch.cat([features[0], features[0]])
    large_probe.fit(task, ProbeData(x, targets(features[1]).repeat(2), views=2), None, 0, solve)
    assert torch.equal(features[0][seen[0].groups], seen[0].features)
