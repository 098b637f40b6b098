"""Execution: chosen by rule or calibration, the same whatever the machine is doing; threads do not change the bits."""

from __future__ import annotations

import hashlib
import json
import time
from types import SimpleNamespace

import pictures
import pytest
import tiny
import torch
from hub import Hub
from torch import nn

import zoo
from zoo.errors import RecipeError
from zoo.finetune.runtime import machine, workers
from zoo.finetune.runtime.machine import Preferred
from zoo.finetune.training import execution, gradients, time_budget
from zoo.finetune.training.execution import Execution, applied

DATA = pictures.pairs(12)
QUICK = {"strategy": "full", "steps": 3, "evals": 1, "batch_size": 32, "precision": "fp32"}


@pytest.fixture
def threads():
    """Set the number of PyTorch's threads; restored afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def weights_of(model, folder):
    return hashlib.sha256((model.save(folder) / "zoo.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("strategy", ["probe", "full", "lp-ft"])
def test_number_of_threads_does_not_change_the_weights(pretrained, threads, tmp_path, strategy):
    found = set()
    for count in (1, 2):
        threads(count)
        model = zoo.load(pretrained, "cpu").finetune(DATA, **QUICK | {"strategy": strategy})
        found.add(weights_of(model, tmp_path / str(count)))
        assert torch.get_num_threads() == count
    assert len(found) == 1


def test_micro_batches_run_in_parallel_unless_examples_depend_on_each_other(pretrained, threads, monkeypatch):
    threads(2)
    sizes = []
    real = gradients._in_parallel
    monkeypatch.setattr(gradients, "_in_parallel", lambda net, job, parts: sizes.append(parts) or real(net, job, parts))
    zoo.load(pretrained, "cpu").finetune(DATA, **QUICK)
    assert [[part.size for part in parts] for parts in sizes] == [[16, 14]] * 3
    sizes.clear()
    zoo.load(pretrained, "cpu").finetune(DATA, **QUICK, dropout=True)
    zoo.load(pretrained, "cpu").finetune(DATA, **QUICK, batchnorm="train")
    assert sizes == []


def test_gradients_of_parts_are_those_of_the_whole(pretrained, monkeypatch):
    divided = zoo.load(pretrained, "cpu").finetune(DATA, **QUICK)
    monkeypatch.setattr(gradients, "MICRO_BATCH", 32)
    whole = zoo.load(pretrained, "cpu").finetune(DATA, **QUICK)
    assert divided.history[0]["loss"] == pytest.approx(whole.history[0]["loss"], rel=1e-4)
    torch.testing.assert_close(divided.head.weight, whole.head.weight, rtol=1e-3, atol=1e-4)


def test_parallel_keeps_the_order_and_restores_the_threads(threads):
    threads(4)
    with workers.one_thread_each():
        assert (torch.get_num_threads(), workers.threads()) == (1, 4)
        found = list(
            workers.parallel(lambda part: (time.sleep(0.01 * (3 - part)), torch.get_num_threads())[1], range(2))
        )
        assert found == [2, 2]
        assert list(workers.parallel(lambda part: part, range(9))) == list(range(9))
        assert torch.get_num_threads() == 1
        with workers.all_threads_each():
            assert torch.get_num_threads() == 4
    assert (torch.get_num_threads(), workers.threads()) == (4, 4)


def test_error_of_a_part_is_raised(threads):
    threads(2)
    with pytest.raises(ZeroDivisionError):
        list(workers.parallel(lambda part: 1 // part, [1, 0, 2]))


@pytest.mark.parametrize(("text", "most"), [("150000 100000", 2), ("max 100000", 1 << 16), ("", 1 << 16)])
def test_threads_are_at_most_the_quota_of_the_container(tmp_path, text, most):
    (tmp_path / "cpu.max").write_text(text)
    assert workers.quota(tmp_path / "cpu.max") == most


@pytest.mark.parametrize(
    ("kind", "capabilities", "expected"),
    [
        ("convolution", {}, "fp32"),
        ("convolution", {"avx512_bf16": True}, "bf16"),
        ("depthwise", {"avx512_bf16": True}, "bf16"),
        ("depthwise", {"avx512_bf16": True, "amx_bf16": True}, "fp32"),
        ("attention", {"avx512_bf16": True, "amx_bf16": True}, "bf16"),
    ],
)
def test_rule_follows_the_instructions_of_the_cpu(kind, capabilities, expected):
    assert machine.by_rule(kind, capabilities).precision == expected


def test_kind_of_network():
    convolution = nn.Conv2d(3, 8, 3)
    assert execution.kind(nn.Sequential(convolution, nn.Linear(8, 8))) == "attention"  # patches, then products
    assert execution.kind(nn.Sequential(convolution, nn.Conv2d(8, 8, 3))) == "convolution"
    assert execution.kind(nn.Sequential(convolution, nn.Conv2d(8, 8, 3, groups=8))) == "depthwise"


@pytest.fixture
def bf16(monkeypatch):
    """A machine on which bf16 is faster, for networks of any size."""
    monkeypatch.setattr(machine, "cpu_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(execution, "SMALL", 0)


@pytest.mark.parametrize(
    ("settings", "precision"),
    [({}, "bf16"), ({"precision": "fp32"}, "fp32"), ({"precision": "bf16"}, "bf16"), ({"strategy": "probe"}, "fp32")],
)
def test_precision_is_that_of_the_recipe_else_of_the_machine(pretrained, bf16, settings, precision):
    model = zoo.load(pretrained, "cpu").finetune(DATA, **QUICK | {"precision": "auto"} | settings)
    assert model.recipe.precision == precision


def test_fp16_on_a_cpu_raises(pretrained):
    with pytest.raises(RecipeError, match=r'precision="fp16" is not for a CPU\nfix: precision="bf16"'):
        zoo.load(pretrained, "cpu").finetune(DATA, **QUICK | {"precision": "fp16"})


def test_small_networks_run_in_fp32(pretrained, monkeypatch):
    monkeypatch.setattr(machine, "cpu_capabilities", lambda: {"avx512_bf16": True})
    assert zoo.load(pretrained, "cpu").finetune(DATA, **QUICK | {"precision": "auto"}).recipe.precision == "fp32"


def test_calibration_binds_until_machine_or_pytorch_change(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "cpu_capabilities", lambda: {"avx512_bf16": True})
    cpu = torch.device("cpu")
    assert machine.preferred(cpu, "convolution") == Preferred("bf16", ("bf16",))
    machine.write(dict.fromkeys(machine.KINDS, Preferred("fp32", ("fp32",))))
    assert machine.preferred(cpu, "convolution") == Preferred("fp32", ("fp32",))
    stored = json.loads(machine.path().read_text())
    stored["machine"]["torch"] = "1.0"
    machine.path().write_text(json.dumps(stored))
    assert machine.preferred(cpu, "convolution").precision == "bf16"
    for damaged in ("{", "[]", '{"machine": 1}'):
        machine.path().write_text(damaged)
        assert machine.preferred(cpu, "convolution").precision == "bf16"


def test_saved_model_records_how_it_ran(pretrained, tmp_path):
    zoo.load(pretrained, "cpu").finetune(DATA, **QUICK, out=tmp_path / "model")
    found = json.loads((tmp_path / "model" / "zoo.json").read_text())["training"]["execution"]
    assert found.keys() == {"precision", "channels_last", "attention", "processor", "torch", "threads"}
    assert (found["precision"], found["threads"]) == ("fp32", torch.get_num_threads())


@pytest.mark.parametrize("strategy", ["full", "gradual"])
def test_run_that_a_time_limit_cut_is_repeated_exactly(pretrained, tmp_path, monkeypatch, capsys, strategy):
    settings = QUICK | {"strategy": strategy, "max_time": 60}
    monkeypatch.setattr(time_budget, "seconds_of_step", lambda backbone, job: 6.0)
    steps = iter(range(100))
    real = gradients.backward

    def slow(*arguments):
        if next(steps) == 4:
            clock.passed = 100.0  # the fifth step takes longer than the whole budget
        return real(*arguments)

    clock = SimpleNamespace(passed=0.0)
    now = time.monotonic
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: now() + clock.passed)
        patch.setattr(gradients, "backward", slow)
        cut = zoo.load(pretrained, "cpu").finetune(DATA, **settings | {"steps": 50, "evals": 2}, out=tmp_path / "cut")
    printed = capsys.readouterr().out
    assert (cut.recipe.steps > 5, cut.recipe.stop_after) == (True, 5)
    options = printed.rpartition("the same run again: ")[2].splitlines()[0]
    fields = dict(part.removeprefix("--set ").split("=") for part in options.replace("--set ", "").split())
    again = zoo.load(pretrained, "cpu").finetune(
        DATA, **QUICK | {"strategy": strategy} | {name: int(value) for name, value in fields.items()}
    )
    assert again.history == cut.history
    assert weights_of(again, tmp_path / "again") == weights_of(cut, tmp_path / "cut-again")


def test_stop_after_is_checked():
    with pytest.raises(RecipeError, match="stop_after=0 is not a whole number above 0"):
        zoo.Recipe(stop_after=0)


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


def test_resumed_run_keeps_its_execution():
    known = SimpleNamespace(decisions={"execution": {"precision": "bf16", "channels_last": False}})
    assert execution.choose(None, None, known) == Execution("bf16", channels_last=False)
