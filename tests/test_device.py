"""Devices: which one "auto" is, and what differs between them."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from zoo.cli import main
from zoo.errors import RecipeError, ZooError
from zoo.finetune.network import Network, autocast
from zoo.finetune.runtime import distributed, machine, memory
from zoo.finetune.runtime.determinism import deterministic
from zoo.finetune.training.best_weights import average
from zoo.finetune.training.train_step import TrainStep
from zoo.model.device import resolve_device

META, CUDA = torch.device("meta"), torch.device("cuda:0")
PROBES = {"cuda": "torch.cuda.is_available", "xpu": "torch.xpu.is_available", "mps": "torch.backends.mps.is_available"}


@pytest.fixture
def available(monkeypatch):
    """Return a function that makes PyTorch report these kinds of GPUs and no others."""

    def report(*kinds: str, count: int = 2) -> None:
        for kind, probe in PROBES.items():
            monkeypatch.setattr(probe, lambda found=kind in kinds: found)
            if kind != "mps":
                monkeypatch.setattr(f"torch.{kind}.device_count", lambda found=kind in kinds: count * found)

    return report


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ((), "cpu"),
        (("mps",), "mps"),
        (("xpu", "mps"), "xpu:0"),
        (("cuda",), "cuda:0"),
        (("cuda", "xpu", "mps"), "cuda:0"),
    ],
)
def test_auto_takes_the_first_kind_of_gpu_there_is(available, kinds, expected):
    available(*kinds)
    assert str(resolve_device("auto")) == expected


@pytest.mark.parametrize(("kind", "expected"), [("cuda", "cuda:1"), ("xpu", "xpu:1"), ("mps", "cpu")])
def test_each_launched_process_has_a_gpu_of_its_own(available, monkeypatch, kind, expected):
    """A Mac has one GPU, which two processes cannot share in a process group."""
    available(kind)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert str(resolve_device("auto")) == expected


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
@pytest.mark.parametrize("name", ["auto", None])
def test_process_without_a_gpu_of_its_own_raises(available, monkeypatch, kind, name):
    available(kind, count=1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ZooError, match=rf"LOCAL_RANK=1\) has no GPU: {kind} has 1\nfix: torchrun --nproc-per-node 1 "):
        resolve_device(name or kind)


@pytest.mark.parametrize(("device", "on_cpu"), [("cpu", True), ("meta", True), ("cuda:1", False), ("xpu:1", False)])
def test_process_group_communicates_on_the_device_of_the_model(available, monkeypatch, device, on_cpu):
    """A GPU of the machine does not matter: a model on the CPU has no tensors for NCCL."""
    import accelerate

    available("cuda", "xpu")
    started = []
    monkeypatch.setattr(accelerate, "PartialState", lambda cpu: started.append(cpu))
    monkeypatch.setattr("atexit.register", lambda function: None)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with distributed.process_group(torch.device(device)):
        assert started == [on_cpu]


def test_gpu_of_another_process_raises(available, monkeypatch):
    available("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    fix = r'fix: --device cuda   \(device="cuda", without a number\)'
    with (
        pytest.raises(ZooError, match=rf"LOCAL_RANK=1\) is on cuda:0, .*\n{fix}"),
        distributed.process_group(torch.device("cuda:0")),
    ):
        pass


@pytest.mark.parametrize("name", ["xpu", "mps", "nonsense"])
def test_device_that_is_not_there_raises(available, name):
    available()
    with pytest.raises(ZooError, match=rf"device='{name}' cannot be used: .*\nfix: device=\"auto\", or \"cpu\""):
        resolve_device(name)


@pytest.mark.parametrize(
    "message",
    [
        "MPS backend out of memory (MPS allocated: 5.56 GB, other allocations: 1.10 GB, max allowed: 6.80 GB)",
        "Invalid buffer size: 9.75 GB",
        "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    ],
)
def test_out_of_memory_of_other_gpus_is_recognised(message):
    assert memory.is_out_of_memory(RuntimeError(message))


def test_released_memory_returns_to_the_device(available, monkeypatch):
    available("mps")
    emptied = []
    for kind in PROBES:
        monkeypatch.setattr(f"torch.{kind}.empty_cache", lambda kind=kind: emptied.append(kind))
    memory.release()
    assert emptied == ["mps"]


def test_doctor_names_an_apple_gpu(available):
    available("mps")
    assert "Apple GPU (mps)" in CliRunner().invoke(main, ["doctor"]).output


def test_average_of_resumed_weights_is_on_the_device_of_the_first():
    """A resumed run reads earlier candidates to the CPU; later ones are on the device of the network."""
    found = average([{"w": torch.zeros(2, device=META)}, {"w": torch.ones(2)}])
    assert found["w"].device == META


def test_resumed_optimizer_state_is_on_the_device_of_its_parameter():
    """The step count is a scalar; a fused optimizer needs it beside the parameter."""
    step = TrainStep.__new__(TrainStep)
    step.local = Network(nn.Linear(2, 3, device=META), nn.Linear(3, 2, device=META))
    step.optimizer, step.scaler = torch.optim.AdamW(step.local.parameters()), torch.amp.GradScaler("cpu", enabled=False)
    step.load({"optimizer.step.head.weight": torch.tensor(3.0)})
    assert step.optimizer.state[step.local.head.weight]["step"].device == META


def test_resumed_loss_scale_is_that_of_the_checkpoint():
    def step(scale):
        made = TrainStep.__new__(TrainStep)
        made.local = Network(nn.Linear(2, 3), nn.Linear(3, 2))
        made.optimizer = torch.optim.AdamW(made.local.parameters())
        made.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        made.scaler.scale(torch.ones(()))
        return made

    before, after = step(1024.0), step(8.0)
    before.scaler.update(512.0)
    after.load(before.state())
    after.scaler.scale(torch.ones(()))
    assert after.scaler.get_scale() == 512


@pytest.mark.parametrize(
    ("bf16", "hip", "capability", "expected"),
    [
        (True, None, (8, 0), "bf16"),
        (False, None, (7, 5), "fp16"),
        (False, None, (6, 1), "fp32"),
        (False, "6.4", (9, 0), "fp32"),
    ],
)
def test_gpu_without_bf16_runs_in_fp16_where_it_has_tensor_cores(monkeypatch, bf16, hip, capability, expected):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    monkeypatch.setattr("torch.version.hip", hip)
    assert machine.preferred(CUDA, "convolution").precision == expected


def test_fp16_is_fp32_where_a_cpu_predicts():
    with autocast(torch.device("cpu"), "fp16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("requested", [False, True])
def test_deterministic_kernels_are_restored(requested):
    with deterministic(META, requested):
        assert torch.are_deterministic_algorithms_enabled() == requested
        assert torch.backends.cudnn.deterministic == requested
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic


def test_operation_without_a_deterministic_kernel_is_named():
    what = r"deterministic=True: put_ has no deterministic kernel on meta\nfix: deterministic=False"
    with pytest.raises(RecipeError, match=what), deterministic(META, True):
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_cpu_is_deterministic_without_the_switch():
    with deterministic(torch.device("cpu"), True):
        assert not torch.are_deterministic_algorithms_enabled()
