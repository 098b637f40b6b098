"""The commands finetune, evaluate, predict and demo: output, JSON shapes, exit codes."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import pictures
import pytest
from click.testing import CliRunner

from zoo.cli import main, startup
from zoo.errors import ZooError


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def data(isolated) -> Path:
    pictures.catalogue(isolated)
    return pictures.folder(isolated / "colours", 8)


@pytest.fixture
def model(data) -> Path:
    code, _, _ = run("finetune", "tiny/net", data, "--out", "model", "--set", "steps=40", "--set", "batch_size=8")
    assert code == 0
    return Path("model")


def test_finetune_prints_one_line_per_stage(data):
    code, out, err = run("finetune", "tiny/net", data, "--set", "steps=4", "--device", "cpu")
    assert code == 0
    topics = [line.split()[0] for line in out.splitlines()]
    assert topics == ["data", "backbone", "strategy", "recipe", "augment", "tune", "result", "saved"]
    assert err == ""
    assert "saved     runs/colours-net/" in out


def test_a_class_with_one_example_is_trained_with_a_warning(data, pretrained):
    pictures.folder(data, 2, ("green",), seed=3)
    (data / "grey").mkdir()
    pictures.Image.fromarray(pictures.array("grey", 0)).save(data / "grey" / "0.png")
    code, out, _ = run("finetune", pretrained, data, "--strategy", "probe", "--out", "m", "--device", "cpu")
    assert code == 0
    assert "warning   1 class has one example, which stays in training and cannot be measured: 'grey'" in out


def test_second_run_saves_to_a_numbered_folder(data):
    for _ in range(2):
        assert run("finetune", "tiny/net", data, "--set", "steps=2")[0] == 0
    assert {p.name for p in Path("runs").iterdir()} == {"colours-net", "colours-net-2"}


def test_json_output_is_a_single_document(data):
    code, out, err = run("finetune", "tiny/net", data, "--out", "m", "--set", "steps=4", "--json")
    document = json.loads(out)
    assert code == 0
    assert set(document) == {"metrics", "strategy", "seconds", "out"}
    assert set(document["metrics"]) == {"accuracy", "macro_f1", "loss"}
    assert (document["strategy"], document["out"]) == ("scratch", "m")
    assert "backbone" in err


def test_evaluate_and_predict_use_the_saved_model(data, model):
    code, out, _ = run("evaluate", model, data, "--json")
    assert code == 0
    assert json.loads(out)["metrics"]["accuracy"] > 0.8
    files = [data / "red" / "016.png", data / "blue" / "000.png"]
    code, out, _ = run("predict", model, *files)
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()] == ["red", "blue"]
    code, out, _ = run("predict", model, files[0], "--top", 2, "--json")
    (answer,) = json.loads(out)
    assert answer["input"] == str(files[0])
    assert [set(label) for label in answer["top"]] == [{"label", "probability"}] * 2


def test_finetune_continues_from_a_saved_model(data, model):
    code, out, _ = run("finetune", model, data, "--strategy", "probe", "--out", "next")
    assert code == 0
    assert "strategy  probe" in out


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["tiny/nte", "colours"], "tiny/nte"),
        (["tiny/net", "nowhere"], "nowhere does not exist"),
        (["tiny/net", "colours", "--strategy", "fast"], "strategy='fast'"),
        (["tiny/net", "colours", "--set", "steps"], "--set 'steps' has no '='"),
        (["tiny/net", "colours", "--set", "step=3"], "'step' is not a field"),
        (["tiny/net", "colours", "--set", "steps=many"], "steps='many' is not a whole number"),
        (["tiny/net", "colours", "--valid", "2"], "valid=2.0 is not a share"),
        (["tiny/net", "colours", "--out", "colours"], "colours is not empty"),
        (["tiny/net", "colours", "--device", "abacus"], "device='abacus'"),
    ],
)
def test_invalid_input_exits_1_with_error_and_fix_and_writes_nothing(data, arguments, error):
    before = sorted(Path().rglob("*"))
    code, _, err = run("finetune", *arguments)
    lines = [line for line in err.splitlines() if line.startswith(("error:", "fix:"))]
    assert code == 1
    assert error in lines[0]
    assert lines[1].startswith("fix: ")
    assert sorted(Path().rglob("*")) == before


def test_error_with_json_is_a_document(data):
    code, out, _ = run("finetune", "tiny/net", "nowhere", "--json")
    assert code == 1
    assert set(json.loads(out)) == {"error", "fix"}


def test_garbage_collection_is_enabled_again_after_loading(monkeypatch):
    with pytest.raises(ZooError):
        startup.load("unknown/net", "cpu")
    assert gc.isenabled()
    monkeypatch.delitem(sys.modules, "torch")
    with startup.without_gc():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    gc.unfreeze()


def test_usage_error_exits_2():
    assert run("finetune")[0] == 2
    assert run("predict", "model")[0] == 2
