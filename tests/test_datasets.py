"""Batches move to a device and split into micro-batches with every field; generators share no stream."""

from __future__ import annotations

from types import SimpleNamespace

import pictures
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo.data.datasets import Batch
from zoo.data.seeding import derive_seed, generator
from zoo.finetune.runtime import memory
from zoo.finetune.training import gradients, train_step

META = torch.device("meta")
FULL = Batch(
    {"input_ids": torch.arange(6).view(3, 2), "attention_mask": torch.ones(3, 2)},
    selected=torch.tensor([[True, True], [True, False], [False, True]]),
    targets=torch.arange(4),
    mixed_targets=torch.arange(4).flip(0),
    mix_weight=0.3,
    weight=0.5,
)


def test_moving_a_batch_keeps_every_field():
    moved = FULL.to(META)
    assert all(tensor.device == META for tensor in moved.inputs.values())
    for name in ("targets", "mixed_targets"):
        assert getattr(moved, name).device == META, name
    assert torch.equal(moved.selected, FULL.selected)  # on the CPU, where counting it waits for no device
    assert (moved.mix_weight, moved.weight) == (0.3, 0.5)
    images = Batch(torch.zeros(2, 3, 4, 4), targets=torch.zeros(2)).to(META)
    assert images.inputs.device == images.targets.device == META
    assert FULL.to(torch.device("cpu")) is FULL


@given(st.integers(1, 3))
def test_micro_batches_add_up_to_the_batch(size):
    parts = [FULL.rows(slice(start, start + size)) for start in range(0, 3, size)]
    assert sum(part.size for part in parts) == 3
    assert sum(part.weight for part in parts) == pytest.approx(FULL.weight)
    assert torch.cat([part.targets for part in parts]).tolist() == FULL.targets.tolist()
    assert torch.cat([part.mixed_targets for part in parts]).tolist() == FULL.mixed_targets.tolist()
    assert torch.cat([part.selected for part in parts]).tolist() == FULL.selected.tolist()
    assert {part.mix_weight for part in parts} == {0.3}


def test_training_moves_batches_in_one_place(pretrained, monkeypatch):
    """Mixed images reach the loss with both targets and their weights, on whatever device."""
    seen = []
    real = gradients.mean_loss

    def loss(network, job, batch):
        seen.append(batch)
        return real(network, job, batch)

    monkeypatch.setattr(gradients, "mean_loss", loss)
    settings = {"strategy": "full", "mixup": "mixup", "steps": 2, "evals": 1, "batch_size": 8}
    zoo.load(pretrained, "cpu").finetune(pictures.pairs(4), valid=0, **settings)
    assert len(seen) == 2
    assert all(batch.mixed_targets is not None and 0 <= batch.mix_weight <= 1 for batch in seen)
    moved = seen[0].to(META)
    assert moved.mixed_targets.device == META
    assert moved.mix_weight == seen[0].mix_weight


@settings(max_examples=50)
@given(st.integers(0, 2**40), st.integers(0, 2**20))
def test_purposes_and_steps_have_seeds_of_their_own(seed, step):
    seeds = [derive_seed(seed, purpose, step + n) for purpose in ("order", "augment", "mixup") for n in (0, 1)]
    assert len(set(seeds)) == 6
    assert all(0 <= one < 2**63 for one in seeds)


def test_generators_are_reproducible_across_platforms():
    assert derive_seed(0, "order", 0) == 3991725939186754870
    draws = [torch.rand(3, generator=generator(0, "order", epoch)).tolist() for epoch in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_only_memory_errors_are_out_of_memory():
    assert memory.is_out_of_memory(MemoryError())
    assert memory.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert memory.is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not memory.is_out_of_memory(RuntimeError("shapes do not match"))


def test_mixed_images_have_the_targets_of_their_partners():
    """Each image is filled with its target, so a mixture shows the target of its partner."""
    targets = torch.arange(8.0)
    batch = Batch(targets.view(-1, 1, 1, 1).expand(-1, 3, 4, 4), targets=targets)
    mixed = train_step._mixed(batch, SimpleNamespace(mixup="mixup", seed=0), 5)
    expected = mixed.mix_weight * targets + (1 - mixed.mix_weight) * mixed.mixed_targets
    assert not torch.equal(mixed.mixed_targets, targets)
    torch.testing.assert_close(mixed.inputs[:, 0, 0, 0], expected)
