"""zoo convert: tensors of a PyTorch file become safetensors; code in it does not run, and nothing is half-written."""

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
def test_tensors_are_converted_and_the_rest_is_told(wrapper, old):
    state = OrderedDict(a=WEIGHT, turned=WEIGHT.T, twin=WEIGHT, half=WEIGHT.half(), one=torch.tensor(1))
    value = state if wrapper is None else {wrapper: state, "epoch": 3}
    told = here(saved(value, _use_new_zipfile_serialization=not old), TARGET)
    assert told == {"left_out": [] if wrapper is None else ["epoch"]}
    back, metadata = read_state(TARGET)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert metadata == {"converted_from": "pytorch_model.bin"}


def test_a_repository_of_a_pytorch_file_is_a_row_of_ones_own():
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


def test_code_in_a_file_does_not_run():
    for number, content in enumerate((pickle.dumps(Bomb(), protocol=2), pickle.dumps({"a": Bomb()}, protocol=2))):
        Path(f"bomb{number}.bin").write_bytes(content)
        assert "error" in here(Path(f"bomb{number}.bin"), TARGET)
    saved({"a": WEIGHT, "b": Bomb()}, "bomb.bin")
    with pytest.raises(WeightsError, match="is not converted") as caught:
        convert(Path("bomb.bin"), TARGET)
    assert caught.value.fix
    assert not Path("exploded").exists()
    assert not TARGET.exists()


def test_what_holds_no_tensors_is_refused():
    for value in ([WEIGHT], {"a": 1}, {1: WEIGHT}, "text", {}):
        assert here(saved(value), TARGET)["error"].partition("it holds ")[2]
    assert not TARGET.exists()


def test_a_file_that_is_cut_or_swells_is_refused():
    whole = saved({"a": WEIGHT}).read_bytes()
    Path("cut.bin").write_bytes(whole[: len(whole) // 2])
    with (
        zipfile.ZipFile("swells.bin", "w", zipfile.ZIP_DEFLATED) as archive,
        zipfile.ZipFile("pytorch_model.bin") as good,
    ):
        for name in good.namelist():
            content = bytes(1 << 28) if name.endswith("data.pkl") else good.read(name)
            archive.writestr(name, content)
    assert "error" in here(Path("cut.bin"), TARGET)
    with pytest.raises(WeightsError, match="is not converted"):
        convert(Path("swells.bin"), TARGET)
    assert not TARGET.exists()


def test_the_process_that_reads_has_no_credentials(monkeypatch):
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


def test_a_library_in_the_working_folder_is_not_taken_for_the_real_one():
    for name in ("json", "safetensors", "zoo"):
        Path(f"{name}.py").write_text("open('taken', 'w')\n")
    convert(saved({"a": WEIGHT}), TARGET)
    assert not Path("taken").exists()
    assert TARGET.exists()


def test_tensors_that_are_one_number_many_times_are_refused():
    told = here(saved({"a": torch.zeros(1).expand(1 << 30)}), TARGET)
    assert "its tensors have 4,294,967,296 bytes" in told["error"]
    assert not TARGET.exists()


def test_names_in_a_file_reach_no_terminal_as_they_are():
    told = here(saved({"a": WEIGHT, "\x1b[2J": 1}), TARGET)
    assert told == {"left_out": ["'\\x1b[2J'"]}


def test_the_command_says_what_it_did():
    saved({"model": {"a": WEIGHT}, "epoch": 1})
    result = CliRunner().invoke(main, ["convert", "pytorch_model.bin", "model.safetensors"])
    assert result.output == "model.safetensors: 1 tensor from pytorch_model.bin; left out: epoch\n"
    result = CliRunner().invoke(main, ["convert", "pytorch_model.bin", "model.safetensors"])
    assert "is there already" in result.output
    assert result.exit_code == 1
