"""The frozen prefix: the first stages run once, in every family, with the same features and gradients."""

from __future__ import annotations

import errno

import pictures
import pytest
import test_families as families
import tiny
import torch
import words
from samples import every_fourth
from torch import nn

import zoo
from zoo.data import prepare
from zoo.data.datasets import Batch, Dataset, LabelledDataset
from zoo.data.examples import Examples
from zoo.finetune.features.frozen_prefix import frozen_prefix
from zoo.finetune.recipe import Recipe
from zoo.finetune.setup import preprocessing
from zoo.plugin import Backbone, Features, ImageInput

CANNOT = {"t5", "mpnet", "deberta-v2", "albert"}
"""The layers of the first three share a position bias, those of albert everything."""


def data_for(backbone: Backbone, count: int = 9) -> LabelledDataset:
    inputs = [pixels for pixels, _ in pictures.pairs(count // 3)]
    if not isinstance(backbone.input, ImageInput):
        inputs = [text for text, _ in words.reviews(count)]
    examples = Examples(inputs, [0] * count, "tests")
    how = preprocessing(backbone, Recipe(), cache=False)
    return LabelledDataset(prepare.prepare(examples, how).inputs, torch.arange(count) % 2)


def served(backbone: Backbone, data: Dataset, indices: torch.Tensor) -> Batch:
    """Return some examples on the device of a backbone."""
    return data.batch(indices).to(next(backbone.module.parameters()).device)


def gradients(backbone: Backbone, batch, frozen: int) -> dict[str, torch.Tensor]:
    """Return the features' gradients of what trains, in eval mode."""
    module = backbone.module.eval()
    names = tuple(name for stage in backbone.stages[frozen:] for name in stage)
    own = {n: p for n, p in module.named_parameters() if any(n == one or n.startswith(f"{one}.") for one in names)}
    pooled = module(batch.inputs).pooled
    # the sum of normalised features has no gradient
    weights = torch.arange(pooled.numel(), device=pooled.device).view_as(pooled).cos()
    found = torch.autograd.grad((pooled * weights).sum(), list(own.values()), allow_unused=True)
    return {name: grad for name, grad in zip(own, found, strict=True) if grad is not None}


def check(backbone: Backbone, can: bool = True) -> None:
    """Replay every possible prefix: features and gradients are the same, the frozen modules do not run."""
    data = data_for(backbone)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:5]
    keys = backbone.module.state_dict().keys()
    replays = 0
    for frozen in range(1, len(backbone.stages)):
        expected = gradients(backbone, served(backbone, data, order), frozen)
        features = backbone.module(served(backbone, data, order).inputs).pooled.detach()
        with frozen_prefix(backbone, (data, None, data), frozen, precision="fp32") as replay:
            assert replay.datasets[1] is None
            batch = served(backbone, replay.datasets[2], order)
            found = gradients(backbone, batch, frozen)
            torch.testing.assert_close(backbone.module(batch.inputs).pooled.detach(), features, atol=1e-5, rtol=1e-4)
            assert backbone.module.state_dict().keys() == keys
            replays += replay.datasets[0] is not data
        assert found.keys() == expected.keys()
        for name in found:
            torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-3)
    assert bool(replays) == can
    torch.testing.assert_close(backbone.module(served(backbone, data, order).inputs).pooled.detach(), features)


@pytest.mark.parametrize("kind", every_fourth(families.FAMILIES))
def test_a_hub_family_replays(kind, serve):
    serve(net=tiny.repository(kind))
    check(zoo.load("hf/tiny/net", "cpu").backbone, kind not in CANNOT)


@pytest.mark.parametrize("name", every_fourth(families.TIMM))
def test_a_timm_family_replays(name, monkeypatch):
    import timm
    from hub import Hub
    from safetensors.torch import save

    with Hub({f"timm/{name}": {"model.safetensors": save(timm.create_model(name).state_dict())}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        check(zoo.load(f"timm/{name}", "cpu").backbone)


def test_a_native_net_replays(pretrained):
    check(zoo.load(pretrained, "cpu").backbone)


class Around(nn.Module):
    """Feeds its input past the frozen part as well."""

    def __init__(self, twice: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.twice = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), twice

    def forward(self, images):
        found = self.first(images)
        if self.twice:
            return Features(self.second(self.first(found)).mean((2, 3)))
        return Features((self.second(found) + images).mean((2, 3)))


@pytest.mark.parametrize(("twice", "why"), [(False, "do not replay"), (True, "called more than once")])
def test_stages_that_cannot_be_replayed_run_each_time(twice, why):
    torch.manual_seed(0)
    spec = ImageInput(16, (0.5,) * 3, (0.5,) * 3)
    backbone = Backbone(Around(twice), 3, spec, (("first",), ("second",)))
    data = data_for(backbone)
    expected = backbone.module(served(backbone, data, torch.arange(4)).inputs).pooled
    with frozen_prefix(backbone, (data,), 1, precision="fp32") as replay:
        assert replay.description.startswith("the 1 frozen stages run each time: ")
        assert why in replay.description
        assert replay.datasets == (data,)
        torch.testing.assert_close(backbone.module(served(backbone, data, torch.arange(4)).inputs).pooled, expected)


def test_frozen_modules_run_once_and_are_restored(pretrained):
    backbone = zoo.load(pretrained, "cpu").backbone
    data, found = data_for(backbone), []
    backbone.module.conv1.register_forward_hook(lambda _, __, output: found.append(bool(output.any())))

    def fail() -> None:
        with frozen_prefix(backbone, (data,), 2, precision="fp32") as replay:
            assert sum(found) <= 5  # four looks at the net, the set
            found.clear()
            for _ in range(3):
                backbone.module(served(backbone, replay.datasets[0], torch.arange(4)).inputs)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert found == [False] * 3  # the module's hooks run, its forward does not: it gives zeros
    assert "forward" not in vars(backbone.module.conv1)
    assert not backbone.module._forward_pre_hooks


def test_large_activations_are_memory_mapped_and_leave_no_file(pretrained, monkeypatch, tmp_path):
    monkeypatch.setattr("zoo.finetune.features.prefix_activations.IN_MEMORY", 0)
    backbone = zoo.load(pretrained, "cpu").backbone
    data = data_for(backbone)
    expected = backbone.module(served(backbone, data, torch.arange(4)).inputs).pooled
    with frozen_prefix(backbone, (data,), 2, precision="fp32") as replay:
        torch.testing.assert_close(
            backbone.module(served(backbone, replay.datasets[0], torch.arange(4)).inputs).pooled, expected
        )
        assert list((tmp_path / "store" / "cache" / "activations").iterdir()) == []


def test_every_stage_runs_if_the_disk_has_no_room_for_activations(pretrained, monkeypatch):
    def fail(cache, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("zoo.finetune.features.prefix_activations.IN_MEMORY", 0)
    monkeypatch.setattr("zoo.store.cache_file.scratch", fail)
    backbone = zoo.load(pretrained, "cpu").backbone
    data = data_for(backbone)
    with frozen_prefix(backbone, (data,), 2, precision="fp32") as replay:
        assert replay.datasets == (data,)
        assert "cannot be written: No space left on device" in replay.description


def test_activations_above_the_limit_are_not_cached(pretrained):
    backbone = zoo.load(pretrained, "cpu").backbone
    with frozen_prefix(backbone, (data_for(backbone),), 2, precision="fp32", max_bytes=10) as replay:
        assert "would take" in replay.description


@pytest.mark.parametrize("frozen", [0, 99])
def test_no_or_all_stages_frozen_caches_nothing(pretrained, frozen):
    backbone = zoo.load(pretrained, "cpu").backbone
    data = data_for(backbone)
    with frozen_prefix(backbone, (data,), frozen, precision="fp32") as replay:
        assert replay == type(replay)((data,), "")
