"""zoo.tasks.language_model: what guessing tokens costs, without keeping logits."""

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
def test_a_tally_of_parts_measures_as_the_whole(sizes, seed):
    chance = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(sum(sizes), 9, generator=chance)
    targets = torch.randint(9, (sum(sizes),), generator=chance)
    task = MaskedLM()
    parts = [task.statistics(*pair) for pair in zip(logits.split(sizes), targets.split(sizes), strict=True)]
    found = task.measure(parts, None)
    assert found["loss"] == pytest.approx(float(F.cross_entropy(logits, targets)), rel=1e-5)
    assert found["loss"] == pytest.approx(float(task.loss(logits, targets)), rel=1e-5)
    assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == targets).double().mean()))
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))


@both
def test_a_tally_is_two_numbers_a_token(task):
    assert task.statistics(torch.randn(5, 1000), torch.zeros(5, dtype=torch.long)).shape == (5, 2)


@both
def test_even_odds_have_a_perplexity_of_the_vocabulary(task):
    found = task.measure([task.statistics(torch.zeros(4, 50), torch.arange(4))], None)
    assert found["perplexity"] == pytest.approx(50, rel=1e-5)


@both
def test_a_hopeless_model_has_a_finite_perplexity(task):
    found = task.measure([task.statistics(torch.tensor([[1e6, 0.0]]), torch.tensor([1]))], None)
    assert found["loss"] == 1e6
    assert math.isfinite(found["perplexity"])


@both
def test_there_is_no_new_head_and_nothing_to_decode(task):
    with pytest.raises(RecipeError, match=rf"{task.name} keeps the head of the backbone\nfix: strategy="):
        task.head(8)
    with pytest.raises(RecipeError, match=rf"{task.name} has no labels"):
        task.decode(torch.zeros(1, 2), 1)
