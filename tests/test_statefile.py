"""Safetensors files: round trip, atomic writes, damaged files, and pickles that are never unpickled."""

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zoo.errors import WeightsError
from zoo.weights.safetensors_file import read_state, write_state


def test_a_written_state_is_read_back(tmp_path):
    path = tmp_path / "a.safetensors"
    whole = torch.arange(12.0).reshape(3, 4)
    state = {
        "whole": whole,
        "twin": whole,
        "turned": whole.T,
        "part": whole[1:],
        "none": torch.ones(0),
        "one": torch.tensor(1),
    }
    write_state(path, state | {"parameter": nn.Parameter(whole)}, {"zoo": "1"})
    back, metadata = read_state(path)
    assert metadata == {"zoo": "1"}
    assert back.keys() == state.keys() | {"parameter"}
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert [p.name for p in tmp_path.glob("*.*")] == ["a.safetensors"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask(tmp_path)


def _umask(folder):
    (folder / "probe").touch()
    return 0o666 & ~(folder / "probe").stat().st_mode


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    write_state(path, {"a": torch.ones(1)}, {})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_state(path, {"a": torch.ones(2)}, {"zoo": 1})
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"a.safetensors", "work"}


def test_writing_to_a_missing_folder_raises(tmp_path):
    with pytest.raises(WeightsError, match="cannot be written") as caught:
        write_state(tmp_path / "no" / "a.safetensors", {"a": torch.ones(1)}, {})
    assert "choose another folder" in caught.value.fix


def test_a_path_that_is_not_a_regular_file_is_not_overwritten(tmp_path):
    with pytest.raises(WeightsError, match="not a regular file"):
        write_state(tmp_path, {"a": torch.ones(1)}, {})


def _damaged(good):
    length = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + length])
    header["a"]["dtype"] = "F99"
    other = json.dumps(header).encode()
    return {
        b"": "0 bytes",
        good[:5]: "5 bytes",
        good[:20]: "or truncated",
        good[:-1]: "its header describes",
        good + b"x": "its header describes",
        (10**9).to_bytes(8, "little") + good[8:]: "or truncated",
        good[:8] + b"[" * length + good[8 + length :]: "not a safetensors file",
        good[:8] + b"{" * length + good[8 + length :]: "invalid header",
        len(other).to_bytes(8, "little") + other + good[8 + length :]: "is damaged",
    }


@pytest.mark.parametrize("index", range(9))
def test_a_damaged_file_raises_with_its_path(tmp_path, index):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(3)}, path)
    content, message = list(_damaged(path.read_bytes()).items())[index]
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_state(path)
    assert str(path) in caught.value.what
    assert message in caught.value.what
    assert caught.value.fix.startswith(f"rm -f '{path}', then pull it again (zoo pull NAME)")


class Bomb:
    """Exits the process when unpickled."""

    def __reduce__(self):
        import os

        return os._exit, (1,)


@pytest.mark.parametrize("kind", ["pickle", "old torch", "torch", "zip"])
def test_a_pickle_named_safetensors_is_never_unpickled(tmp_path, kind):
    path = tmp_path / "a.safetensors"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data.pkl", pickle.dumps(Bomb()))
    else:
        torch.save(Bomb(), path, _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(WeightsError, match=r"a Python pickle|a zip archive") as caught:
        read_state(path)
    assert f"zoo convert '{path}' model.safetensors" in caught.value.fix


def test_the_convert_command_in_the_fix_works(tmp_path):
    import shlex

    from click.testing import CliRunner

    from zoo.cli import main

    torch.save({"a": torch.ones(3)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError) as caught:
        read_state(tmp_path / "a.safetensors")
    command = shlex.split(caught.value.fix.partition("   (")[0])
    assert CliRunner().invoke(main, command[1:]).exit_code == 0
    assert torch.equal(read_state(Path("model.safetensors"))[0]["a"], torch.ones(3))


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"), (b"<!doctype html>", "web page")],
)
def test_other_file_formats_are_recognised(tmp_path, content, kind):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=kind) as caught:
        read_state(path)
    assert "zoo pull NAME" in caught.value.fix


def test_a_missing_file_raises(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        read_state(tmp_path / "none.safetensors")
