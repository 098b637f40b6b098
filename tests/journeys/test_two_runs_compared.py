"""Journey: two fine-tuned models side by side, and one of them in detail."""

from __future__ import annotations

import json
from pathlib import Path

import pictures
import pytest
from click.testing import CliRunner
from commands import run

from zoo import tasks
from zoo.cli import main, saved_model


def test_two_runs_compared(pretrained):
    data = pictures.folder(Path("colours"), 5)
    settings = ("--strategy", "full", "--set", "steps=2", "--set", "evals=1")
    run("finetune", pretrained, data, "--out", "runs/a", *settings, "--test", "0.2")
    run("finetune", pretrained, data, "--out", "runs/b", *settings, "--seed", "1", "--lr", "0.002")
    Path("runs/b/zoo.json").touch()  # the newest
    listed = run("runs").splitlines()
    assert [line.split()[0] for line in listed] == ["model", "runs/b", "runs/a", "2"]
    assert "accuracy 1.000 [0.439, 1.000]" in listed[2]

    compared = run("runs", "runs/a", "runs/b")
    rows = dict(line.split(maxsplit=1) for line in compared.partition("differs")[2].splitlines()[1:])
    assert rows["lr"].split()[1] == "0.002"
    assert rows["seed"].split() == ["0", "1"]
    assert "strategy" not in rows
    assert "the validation data differ" in compared  # another seed holds out other examples

    documents = json.loads(run("runs", "--json"))
    assert [row["folder"] for row in documents] == ["runs/b", "runs/a"]
    one = json.loads(run("info", "runs/a", "--json"))
    assert one == documents[1]
    assert one["intervals"]["valid"]["accuracy"] == pytest.approx([0.439, 1], abs=1e-3)
    assert one["intervals"]["test"]["accuracy"][1] == 1
    shown = run("info", "runs/a")
    assert "validation     accuracy 1.000 [0.439, 1.000]" in shown
    assert "zoo predict runs/a INPUT" in shown


def test_damaged_and_unfinished_runs_are_told_apart(pretrained):
    for name in ("a", "b.unfinished/saved", ".hidden"):
        Path("runs", name).mkdir(parents=True)
        Path("runs", name, "zoo.json").write_text("{}")
    result = CliRunner().invoke(main, ["runs"])
    assert (result.exit_code, result.stdout) == (0, "0 saved models below runs\n")
    assert "note: runs/a/zoo.json is not the manifest of a saved model" in result.stderr
    assert "hidden" not in result.stderr
    assert "unfinished" not in result.stderr


def test_manifest_of_others_is_shown_safely(pretrained):
    manifest = json.loads((pretrained / "zoo.json").read_text())
    manifest["training"]["intervals"] = {"valid": {"accuracy": ["a", None]}, "test": 3}
    manifest["entry"]["name"] = "x\x1b[31m"
    Path("odd").mkdir()
    Path("odd/zoo.json").write_text(json.dumps(manifest))
    for shown in (run("runs", "odd"), run("info", "odd")):
        assert "accuracy 1.000" in shown
        assert "[0." not in shown
        assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("key", "value"),
    [("metrics", {"accuracy": 10**400}), ("task", {"name": "classify", "labels": 3}), ("task", {"name": ["x"]})],
)
def test_manifest_with_odd_values_gives_no_traceback(pretrained, key, value):
    manifest = json.loads((pretrained / "zoo.json").read_text())
    Path("odd").mkdir()
    Path("odd/zoo.json").write_text(json.dumps(manifest | {key: value}))
    for arguments in (("runs", "odd"), ("info", "odd"), ("runs", "odd", "--json")):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code in (0, 1)
        assert result.exception is None or isinstance(result.exception, SystemExit)


def test_missing_folders_are_errors():
    assert "error: nowhere is not a folder\nfix: zoo runs" in run("runs", "nowhere", code=1)
    assert "error: nowhere does not exist" in run("info", "./nowhere", code=1).replace("./", "")
    assert run("runs") == "0 saved models below runs\n"


@pytest.mark.parametrize("name", ["classify", "multilabel", "regress"])
def test_the_metric_shown_first_is_the_main_metric_of_the_task(name):
    assert saved_model.MAIN_METRICS.get(name, "accuracy") == tasks.KINDS[name].main_metric


SETTINGS = ("--strategy", "full", "--set", "steps=2", "--set", "evals=1", "--valid", "0.5")


def test_difference_of_two_runs_is_tested_on_the_same_items(pretrained):
    data = pictures.folder(Path("colours"), 6)
    more = pictures.folder(Path("more"), 4, seed=7)
    run("finetune", pretrained, data, "--out", "runs/a", *SETTINGS)
    run("finetune", pretrained, data, "--out", "runs/b", *SETTINGS, "--lr", "0.5")
    run("finetune", pretrained, data, "--out", "runs/other-split", *SETTINGS, "--seed", "1")

    shown = run("runs", "runs/a", "runs/b", "--on", data)
    assert shown.startswith("accuracy on the same 9 validation items of all")
    assert " ".join(shown.split()).count("95 % interval") == 2  # of the scores, and of the difference
    document = json.loads(run("runs", "runs/a", "runs/b", "--on", data, "--json"))
    assert (document["items"], document["validation"]) == (9, True)
    for name in ("runs/a", "runs/b"):
        assert document["scores"][name]["mean"] == pytest.approx(
            json.loads(run("info", name, "--json"))["metrics"]["accuracy"]
        )
    (pair,) = document["pairs"]
    assert pair["difference"] == pytest.approx(
        document["scores"]["runs/a"]["mean"] - document["scores"]["runs/b"]["mean"]
    )
    assert pair["low"] <= pair["difference"] <= pair["high"]

    assert run("runs", "runs/a", "runs/b", "--on", more).startswith("accuracy on the same 12 items")
    wrong = run("runs", "runs/a", "runs/other-split", "--on", data, code=1)
    assert "error: runs/a was trained on colours, and the models do not hold out the same part of it" in wrong
    assert "fix: data that none was trained on" in wrong
    assert "one model is not compared" in run("runs", "runs/a", "--on", data, code=1)
