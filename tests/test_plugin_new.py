"""zoo plugin new: the created plugin works without edits, and has the same files as plugins/example."""

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
    """Create the plugin owl and return a function that runs Python modules with it installed."""
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


@pytest.mark.real
def test_the_tests_of_a_new_plugin_pass(owl):
    result = owl("pytest", "-q", "-p", "no:cacheprovider", cwd="owl-zoo")
    assert result.returncode == 0, result.stdout
    assert "3 passed" in result.stdout


def test_the_backbone_of_a_new_plugin_is_listed_and_can_be_finetuned(owl, tmp_path):
    assert "owl/tiny" in owl("zoo", "list", "owl/").stdout
    data = pictures.folder(tmp_path / "data", 4)
    words = ("--strategy", "scratch", "--set", "steps=2", "--out", "model")
    result = owl("zoo", "finetune", "owl/tiny", str(data), *words)
    assert result.returncode == 0, result.stderr
    assert Path("model", "zoo.json").exists()


def test_the_code_of_a_new_plugin_passes_ruff(owl):
    root = Path(__file__).parents[1]
    for words in (("ruff", "check", "--extend-ignore", "I"), ("ruff", "format", "--check")):
        result = owl(*words, "--config", str(root / "pyproject.toml"), "owl-zoo/owl_zoo")
        assert result.returncode == 0, result.stdout


def test_the_example_has_the_same_files():
    ours = {
        scaffold._target_path(path.relative_to(scaffold.TEMPLATE), "acme").as_posix()
        for path in scaffold.TEMPLATE.rglob("*.txt")
    }
    theirs = {path.relative_to(EXAMPLE).as_posix() for path in EXAMPLE.rglob("*") if path.is_file()}
    assert ours <= theirs


@pytest.mark.parametrize("name", ["", "Owl", "3owls", "an owl", "../owl", "class", "_owl", "öwl", "o" * 41])
def test_an_invalid_name_raises(name):
    with pytest.raises(PluginError, match="is not a valid plugin name"):
        scaffold.new(name)
    assert list(Path.cwd().iterdir()) == []


def test_an_installed_name_raises():
    with pytest.raises(PluginError, match="is already installed") as caught:
        scaffold.new("timm")
    assert caught.value.fix == "zoo plugin new my_timm"


def test_an_existing_folder_is_not_modified():
    Path("owl-zoo").mkdir()
    with pytest.raises(PluginError, match="already exists"):
        scaffold.new("owl")
    assert list(Path("owl-zoo").iterdir()) == []
    assert scaffold.new("owl", Path("a/b")) == Path("a/b")


def test_a_failed_write_leaves_no_files(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(PluginError, match="owl-zoo cannot be written: No space left on device"):
        scaffold.new("owl")
    assert list(Path.cwd().iterdir()) == []
