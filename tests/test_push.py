"""zoo push with the real client against a loopback Hub, and the way back: zoo pull and zoo.load."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pictures
import pytest
from click.testing import CliRunner
from hub_upload import UploadHub

import zoo
from zoo.cli import main
from zoo.errors import StoreError
from zoo.model import artefact, pushed_model
from zoo.store import home, maintenance, model_folders

PIXELS = [pictures.array("red", 3), pictures.array("blue", 4)]


@pytest.fixture
def hub(monkeypatch):
    with UploadHub({}) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield served


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def test_a_pushed_model_comes_back_the_same(hub, pretrained):
    result = CliRunner().invoke(main, ["push", str(pretrained), "me/colours"])
    assert result.exit_code == 0, result.output
    assert "without files for other libraries" in result.output  # no other library has this net
    assert result.output.splitlines()[-1].startswith("pushed    hf://me/colours, ")
    served = hub.repos["me/colours"]
    assert {path: hashlib.sha256(content).hexdigest() for path, content in served.items() if path != "README.md"} == {
        f"zoo/{name}": digest for name, digest in digests(pretrained).items()
    }
    expected = zoo.load(pretrained, "cpu")
    for name in ("hf/me/colours", "hf://me/colours"):
        model = zoo.load(name, "cpu")
        assert model.task.labels == ("blue", "green", "red")
        assert model.logits(PIXELS).equal(expected.logits(PIXELS))
    pulled = CliRunner().invoke(main, ["pull", "hf/me/colours"])
    assert pulled.exit_code == 0, pulled.output


def test_gc_and_rm_remove_the_folders_of_pulled_models(hub, pretrained, tmp_path):
    pushed_model.push(pretrained, "me/colours")
    zoo.load("hf/me/colours", "cpu")
    (linked,) = model_folders.parent().iterdir()
    size = sum(path.stat().st_size for path in linked.rglob("*") if path.is_file())
    assert maintenance.collect() == 0
    assert linked.is_dir()
    stale = model_folders.parent() / ".part-killed"
    stale.mkdir()
    (stale / "half").write_bytes(b"12345")
    assert maintenance.collect() == 0  # may be in the making
    os.utime(stale, (0, 0))
    assert maintenance.collect() == 5
    assert maintenance.remove(["hf/me/colours"]) == size
    assert list(model_folders.parent().iterdir()) == []
    zoo.load("hf/me/colours", "cpu")
    (home() / "lock.toml").unlink()
    assert maintenance.collect() == size
    assert list(model_folders.parent().iterdir()) == []


def test_an_interrupted_push_changes_nothing_and_is_repeated(hub, pretrained):
    hub.cut_commits = 1
    with pytest.raises(StoreError, match=r"me/colours cannot be written(.|\n)*fix: "):
        pushed_model.push(pretrained, "me/colours")
    assert hub.repos["me/colours"] == {}
    assert len(hub.puts) == 1
    pushed_model.push(pretrained, "me/colours")
    assert len(hub.puts) == 1  # what had arrived was not sent again
    pushed_model.push(pretrained, "me/colours")
    assert zoo.load("hf/me/colours", "cpu").task.labels == ("blue", "green", "red")


def test_dry_run_and_bad_names_open_no_connection(hub, pretrained):
    result = CliRunner().invoke(main, ["push", str(pretrained), "me/colours", "--dry-run"])
    assert {"zoo/zoo.json", f"zoo/{artefact.WEIGHTS}", "README.md"} <= set(result.output.splitlines())
    with pytest.raises(StoreError, match=r"'colours' is not the name of a repository\nfix: zoo push MODEL organ"):
        pushed_model.push(pretrained, "colours")
    assert hub.requests == []


def test_a_repository_that_may_not_be_written_names_the_login(hub, pretrained):
    hub.status = 403
    with pytest.raises(StoreError, match=r"the Hub answers 403: .*\nfix: hf auth login"):
        pushed_model.push(pretrained, "me/colours")
