"""zoo.tasks.language_model: loss, accuracy and perplexity from per-token statistics, without keeping logits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from zoo.errors import RecipeError
from zoo.tasks import CausalLM, MaskedLM

both = pytest.mark.parametrize("task", [CausalLM(), MaskedLM()], ids=lambda task: task.name)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any), st.integers(0, 10_000))
def test_statistics_of_batches_give_the_metrics_of_the_whole(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(sum(sizes), 9, generator=generator)
    targets = torch.randint(9, (sum(sizes),), generator=generator)
    task = MaskedLM()
    parts = [task.statistics(*pair) for pair in zip(logits.split(sizes), targets.split(sizes), strict=True)]
    found = task.measure(parts, None)
    assert found["loss"] == pytest.approx(float(F.cross_entropy(logits, targets)), rel=1e-5)
    assert found["loss"] == pytest.approx(float(task.loss(logits, targets)), rel=1e-5)
    assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == targets).double().mean()))
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))


@both
def test_statistics_are_two_numbers_per_token(task):
    assert task.statistics(torch.randn(5, 1000), torch.zeros(5, dtype=torch.long)).shape == (5, 2)


@both
def test_uniform_logits_have_perplexity_equal_to_the_vocabulary_size(task):
    found = task.measure([task.statistics(torch.zeros(4, 50), torch.arange(4))], None)
    assert found["perplexity"] == pytest.approx(50, rel=1e-5)


@both
def test_perplexity_is_finite_for_a_huge_loss(task):
    found = task.measure([task.statistics(torch.tensor([[1e6, 0.0]]), torch.tensor([1]))], None)
    assert found["loss"] == 1e6
    assert math.isfinite(found["perplexity"])


@both
def test_head_and_decode_raise(task):
    with pytest.raises(RecipeError, match=rf"{task.name} keeps the head of the backbone\nfix: strategy="):
        task.head(8)
    with pytest.raises(RecipeError, match=rf"{task.name} has no labels"):
        task.decode(torch.zeros(1, 2), 1)
