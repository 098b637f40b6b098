"""zoo plugin new: what it writes works at once, and the example is that, grown up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pictures
import pytest
from click.testing import CliRunner

from zoo.cli import main
from zoo.errors import PluginError
from zoo.testing import scaffold

EXAMPLE = Path(__file__).parents[1] / "plugins" / "example"


@pytest.fixture
def owl(tmp_path):
    """Write a plugin, and give back how to run Python where it is installed."""
    result = CliRunner().invoke(main, ["plugin", "new", "owl"])
    assert result.exit_code == 0, result.output
    info = tmp_path / "site" / "owl_zoo-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: owl-zoo\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[zoo.plugins]\nowl = owl_zoo:plugin\n")
    path = os.pathsep.join([str(Path("owl-zoo").absolute()), str(info.parent), *sys.path])

    def run(*words, cwd="."):
        environ = {**os.environ, "PYTHONPATH": path}
        command = [sys.executable, "-m", *words]
        return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=300)

    return run


def test_its_own_tests_pass_at_once(owl):
    result = owl("pytest", "-q", "-p", "no:cacheprovider", cwd="owl-zoo")
    assert result.returncode == 0, result.stdout
    assert "3 passed" in result.stdout


def test_its_backbone_is_listed_and_learns(owl, tmp_path):
    assert "owl/tiny" in owl("zoo", "list", "owl/").stdout
    data = pictures.folder(tmp_path / "data", 4)
    words = ("--strategy", "scratch", "--set", "steps=2", "--out", "model")
    result = owl("zoo", "finetune", "owl/tiny", str(data), *words)
    assert result.returncode == 0, result.stderr
    assert Path("model", "zoo.json").exists()


def test_its_code_keeps_the_rules_of_this_project(owl):
    root = Path(__file__).parents[1]
    for words in (("ruff", "check", "--extend-ignore", "I"), ("ruff", "format", "--check")):
        result = owl(*words, "--config", str(root / "pyproject.toml"), "owl-zoo/owl_zoo")
        assert result.returncode == 0, result.stdout


def test_the_example_has_the_same_files():
    ours = {
        scaffold._named(path.relative_to(scaffold.TEMPLATE), "acme").as_posix()
        for path in scaffold.TEMPLATE.rglob("*.txt")
    }
    theirs = {path.relative_to(EXAMPLE).as_posix() for path in EXAMPLE.rglob("*") if path.is_file()}
    assert ours <= theirs


@pytest.mark.parametrize("name", ["", "Owl", "3owls", "an owl", "../owl", "class", "_owl", "öwl", "o" * 41])
def test_a_name_that_cannot_be_one_is_refused(name):
    with pytest.raises(PluginError, match="cannot be the name of a plugin"):
        scaffold.new(name)
    assert list(Path.cwd().iterdir()) == []


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(PluginError, match="is installed already") as caught:
        scaffold.new("timm")
    assert caught.value.fix == "zoo plugin new my_timm"


def test_a_folder_that_is_there_is_left_alone():
    Path("owl-zoo").mkdir()
    with pytest.raises(PluginError, match="is there already"):
        scaffold.new("owl")
    assert list(Path("owl-zoo").iterdir()) == []
    assert scaffold.new("owl", Path("a/b")) == Path("a/b")


def test_a_disk_that_fails_leaves_nothing(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(PluginError, match="owl-zoo cannot be written: No space left on device"):
        scaffold.new("owl")
    assert list(Path.cwd().iterdir()) == []
