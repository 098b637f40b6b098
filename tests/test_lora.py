"""LoRA: adapters are injected, train alone, and are merged."""

from __future__ import annotations

import pictures
import pytest
import torch

import zoo
from zoo.errors import RecipeError
from zoo.finetune.training import lora

LETTERS = "native/resnet14.letters"


def model():
    return zoo.load(LETTERS, "cpu")


def test_merged_weights_equal_the_adapters():
    backbone = model().backbone
    names = list(backbone.module.state_dict())
    images = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    before = backbone.module(images).pooled.detach()
    with lora.adapters(backbone, rank=4, seed=0):
        assert torch.equal(backbone.module(images).pooled.detach(), before)  # B starts from zero
        with torch.no_grad():
            for name, parameter in backbone.module.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
        changed = backbone.module(images).pooled.detach()
    assert not torch.allclose(changed, before, atol=1e-2)
    torch.testing.assert_close(backbone.module(images).pooled.detach(), changed, atol=1e-4, rtol=1e-4)
    assert list(backbone.module.state_dict()) == names
    assert all(parameter.requires_grad for parameter in backbone.module.parameters())


def test_only_adapters_train():
    backbone = model().backbone
    with lora.adapters(backbone, rank=2, seed=0):
        trained = {name for name, p in backbone.module.named_parameters() if p.requires_grad}
        assert trained
        assert all("lora_" in name for name in trained)


def test_saved_model_has_no_names_of_peft(tmp_path):
    tuned = model().finetune(pictures.pairs(8), strategy="lora", steps=8, evals=2, out=tmp_path / "saved")
    again = zoo.load(tmp_path / "saved", "cpu")
    images = [image for image, _ in pictures.pairs(1)]
    assert torch.equal(tuned.embed(images), again.embed(images))
    assert not torch.allclose(tuned.embed(images), model().embed(images))


def test_lora_is_deterministic():
    images = [image for image, _ in pictures.pairs(1)]
    first, second = (model().finetune(pictures.pairs(6), strategy="lora", steps=3, evals=1) for _ in range(2))
    assert torch.equal(first.embed(images), second.embed(images))


def test_backbone_without_targets_raises():
    from dataclasses import replace

    with (
        pytest.raises(RecipeError, match="this backbone names none"),
        lora.adapters(replace(model().backbone, lora_targets=()), 8, 0),
    ):
        pass
