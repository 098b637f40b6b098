"""Autotune: the fastest execution is timed once a machine, stored, applied and undone."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pictures
import pytest
import tiny
import torch
from hub import Hub

import zoo
from zoo.finetune.training import autotune
from zoo.finetune.training.autotune import Execution, applied

DATA = pictures.pairs(6)
QUICK = {"strategy": "full", "steps": 2, "evals": 1, "batch_size": 8}


@pytest.fixture
def worth(monkeypatch):
    """Time runs of any length, and let bf16 win."""
    monkeypatch.setattr(autotune, "WORTH", 0.0)
    asked = []

    def seconds(timer, how, repeats=2):
        asked.append(how)
        return 1.0 if how.precision == "fp32" else 0.4

    monkeypatch.setattr(autotune.StepTimer, "seconds", seconds)
    return asked


def test_fastest_execution_is_timed_once_and_stored(pretrained, worth, tmp_path, capsys):
    model = zoo.load(pretrained, "cpu").finetune(DATA, **QUICK)
    assert model.recipe.precision == "bf16"
    assert "autotune  bf16, channels last: 2.5 x as fast as fp32, channels last" in capsys.readouterr().out
    asked = len(worth)
    (kept,) = (tmp_path / "store" / "cache" / "autotune").iterdir()
    assert json.loads(kept.read_text())["precision"] == "bf16"
    again = zoo.load(pretrained, "cpu").finetune(DATA, **QUICK)
    assert (len(worth), again.recipe.precision) == (asked, "bf16")


def test_unreadable_choice_is_timed_again(pretrained, worth, tmp_path):
    zoo.load(pretrained, "cpu").finetune(DATA, **QUICK)
    (kept,) = (tmp_path / "store" / "cache" / "autotune").iterdir()
    kept.write_text("{")
    assert zoo.load(pretrained, "cpu").finetune(DATA, **QUICK).recipe.precision == "bf16"


@pytest.mark.parametrize(
    ("settings", "precision"),
    [({"autotune": False}, "fp32"), ({"precision": "fp32"}, "fp32"), ({"precision": "bf16"}, "bf16")],
)
def test_explicit_precision_overrides_autotune(pretrained, worth, settings, precision):
    model = zoo.load(pretrained, "cpu").finetune(DATA, **QUICK, **settings)
    assert model.recipe.precision == precision
    assert {how.precision for how in worth} <= {precision}


def test_timing_does_not_change_the_result(pretrained, monkeypatch):
    expected = zoo.load(pretrained, "cpu").finetune(DATA, **QUICK, precision="fp32", autotune=False)
    monkeypatch.setattr(autotune, "WORTH", 0.0)
    monkeypatch.setattr(autotune, "GAIN", 0.0)  # nothing is fast enough to be chosen
    timed = zoo.load(pretrained, "cpu").finetune(DATA, **QUICK)
    assert timed.history == expected.history


def test_short_run_is_not_timed(pretrained, capsys):
    zoo.load(pretrained, "cpu").finetune(DATA, **QUICK)
    assert "autotune" not in capsys.readouterr().out


def attentive(name, repos, monkeypatch):
    with Hub(repos) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        return zoo.load(name, "cpu").backbone


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "vit"])
def test_plain_and_fused_attention_of_hub_nets_agree(kind, monkeypatch):
    backbone = attentive("hf/tiny/net", {"tiny/net": tiny.repository(kind)}, monkeypatch)
    inputs = torch.rand(2, 3, backbone.input.size, backbone.input.size) if kind == "vit" else tiny.batch()
    plain_and_fused(backbone, inputs)


def test_plain_and_fused_attention_of_timm_nets_agree(monkeypatch):
    import timm
    from safetensors.torch import save

    name = "test_vit.r160_in1k"
    repos = {f"timm/{name}": {"model.safetensors": save(timm.create_model(name).state_dict())}}
    backbone = attentive(f"timm/{name}", repos, monkeypatch)
    plain_and_fused(backbone, torch.rand(2, 3, 160, 160))


def plain_and_fused(backbone, inputs):
    calls = []
    real = torch.nn.functional.scaled_dot_product_attention

    def counted(*args, **kwargs):
        calls.append(1)
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
        fused = backbone.module(inputs).pooled
        assert calls
        calls.clear()
        with applied(backbone, Execution(attention="plain")):
            plain = backbone.module(inputs).pooled
        assert not calls
        backbone.module(inputs)
        assert calls
    torch.testing.assert_close(plain, fused, atol=1e-5, rtol=1e-4)


def test_net_without_attention_has_no_switch(pretrained):
    assert zoo.load(pretrained, "cpu").backbone.attention is None


def test_resumed_run_keeps_its_execution(pretrained, worth):
    known = SimpleNamespace(decisions={"execution": {"precision": "bf16", "channels_last": False}})
    assert autotune.choose(None, None, known) == Execution("bf16", channels_last=False)
    assert worth == []
