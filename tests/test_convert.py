"""zoo convert: conversion to safetensors, and malicious, damaged or oversized PyTorch checkpoints."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from zoo.cli import main
from zoo.errors import WeightsError
from zoo.store.convert import convert, here
from zoo.weights.safetensors_file import read_state

TARGET = Path("model.safetensors")
WEIGHT = torch.arange(6.0).reshape(2, 3)


def saved(value: object, name: str = "pytorch_model.bin", **how: bool) -> Path:
    torch.save(value, name, **how)
    return Path(name)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_tensors_are_converted_and_other_entries_are_reported(wrapper, old):
    state = OrderedDict(a=WEIGHT, turned=WEIGHT.T, twin=WEIGHT, half=WEIGHT.half(), one=torch.tensor(1))
    value = state if wrapper is None else {wrapper: state, "epoch": 3}
    result = here(saved(value, _use_new_zipfile_serialization=not old), TARGET)
    assert result == {"left_out": [] if wrapper is None else ["epoch"]}
    back, metadata = read_state(TARGET)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert metadata == {"converted_from": "pytorch_model.bin"}


def test_a_converted_repository_loads_through_the_row_in_the_docs():
    import tiny
    from safetensors.torch import load

    import zoo

    Path("old-bert").mkdir()
    for name, content in tiny.files(tiny.model("bert"), text=True).items():
        Path("old-bert", name).write_bytes(content)
    weights = Path("old-bert", "model.safetensors")
    state = load(weights.read_bytes())
    weights.unlink()
    convert(saved(state, "old-bert/pytorch_model.bin"), weights)
    guide = (Path(__file__).parents[1] / "docs" / "store.md").read_text()
    row = guide.partition("```toml\n")[2].partition("```")[0]
    Path("zoo.toml").write_text(row.replace("/home/me", str(Path.cwd())).replace("512", "32"))
    found = zoo.load("mine/old-bert", "cpu").backbone.module.state_dict()
    assert torch.equal(found["net.embeddings.word_embeddings.weight"], state["bert.embeddings.word_embeddings.weight"])


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_pickled_code_is_not_executed():
    for number, content in enumerate((pickle.dumps(Bomb(), protocol=2), pickle.dumps({"a": Bomb()}, protocol=2))):
        Path(f"bomb{number}.bin").write_bytes(content)
        assert "error" in here(Path(f"bomb{number}.bin"), TARGET)
    saved({"a": WEIGHT, "b": Bomb()}, "bomb.bin")
    with pytest.raises(WeightsError, match="cannot be converted") as caught:
        convert(Path("bomb.bin"), TARGET)
    assert caught.value.fix
    assert not Path("exploded").exists()
    assert not TARGET.exists()


def test_a_checkpoint_that_is_not_a_dict_of_tensors_raises():
    for value in ([WEIGHT], {"a": 1}, {1: WEIGHT}, "text", {}):
        assert here(saved(value), TARGET)["error"].partition("it contains ")[2]
    assert not TARGET.exists()


def test_a_truncated_file_and_a_zip_bomb_raise():
    whole = saved({"a": WEIGHT}).read_bytes()
    Path("cut.bin").write_bytes(whole[: len(whole) // 2])
    with (
        zipfile.ZipFile("bomb.bin", "w", zipfile.ZIP_DEFLATED) as archive,
        zipfile.ZipFile("pytorch_model.bin") as good,
    ):
        for name in good.namelist():
            content = bytes(1 << 28) if name.endswith("data.pkl") else good.read(name)
            archive.writestr(name, content)
    assert "error" in here(Path("cut.bin"), TARGET)
    with pytest.raises(WeightsError, match="cannot be converted"):
        convert(Path("bomb.bin"), TARGET)
    assert not TARGET.exists()


def test_the_subprocess_has_no_credentials(monkeypatch):
    import subprocess

    from zoo.store import convert as module

    seen = {}

    def run(command, *, env, **rest):
        seen.update(env)
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(module.subprocess, "run", run)
    with pytest.raises(WeightsError, match="takes more than 600 seconds"):
        convert(saved({"a": WEIGHT}), TARGET)
    assert "hf_secret" not in str(seen)


def test_modules_in_the_working_directory_are_not_imported():
    for name in ("json", "safetensors", "zoo"):
        Path(f"{name}.py").write_text("open('imported', 'w')\n")
    convert(saved({"a": WEIGHT}), TARGET)
    assert not Path("imported").exists()
    assert TARGET.exists()


def test_an_expanded_tensor_larger_than_the_file_raises():
    result = here(saved({"a": torch.zeros(1).expand(1 << 30)}), TARGET)
    assert "its tensors have 4,294,967,296 bytes" in result["error"]
    assert not TARGET.exists()


def test_control_characters_in_names_are_escaped():
    result = here(saved({"a": WEIGHT, "\x1b[2J": 1}), TARGET)
    assert result == {"left_out": ["'\\x1b[2J'"]}


def test_the_command_reports_the_result_and_refuses_to_overwrite():
    saved({"model": {"a": WEIGHT}, "epoch": 1})
    result = CliRunner().invoke(main, ["convert", "pytorch_model.bin", "model.safetensors"])
    assert result.output == "model.safetensors: 1 tensor from pytorch_model.bin; skipped: epoch\n"
    result = CliRunner().invoke(main, ["convert", "pytorch_model.bin", "model.safetensors"])
    assert "already exists" in result.output
    assert result.exit_code == 1
