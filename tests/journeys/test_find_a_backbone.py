"""Journey: find a backbone by task, size, accuracy, cost and licence."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

import zoo
from zoo.cli import main
from zoo.errors import NameNotFound


def run(*words):
    return CliRunner().invoke(main, words)


def test_the_most_accurate_backbone_that_fits_comes_first():
    words = ("list", "timm/", "--task", "classify", "--max-params", "6M", "--license", "apache-2.0", "--json")
    found = json.loads(run(*words, "--sort", "accuracy").stdout)
    top1 = [row.get("metrics", {}).get("imagenet_top1") for row in found]
    known = [value for value in top1 if value is not None]
    assert known == sorted(known, reverse=True)
    assert known[0] > 77
    assert top1 == known + [None] * (len(top1) - len(known))  # unknown ones are listed, at the end
    assert None in top1
    assert all(row["params"] <= 6_000_000 for row in found if "params" in row)


@pytest.mark.parametrize("key", ["gmacs", "params", "name"])
def test_cost_size_and_name_sort_from_the_smallest(key):
    def value(entry):
        return {"gmacs": entry.metrics.get("gmacs"), "params": entry.params, "name": entry.name}[key]

    found = [value(entry) for entry in zoo.list("resnet", sort=key)]
    known = [each for each in found if each is not None]
    assert found == sorted(known) + [None] * (len(found) - len(known))


def test_backbones_of_unknown_size_are_listed_apart():
    output = run("list", "hf/*bert*", "--max-params", "70M").stdout
    known, unknown = output.split("\n\nnot known, listed apart:\n")
    header, *rows = known.splitlines()
    assert header.split()[:5] == ["name", "params", "MB", "GMACs", "accuracy"]
    assert [row.split()[:3] for row in rows] == [["hf/distilbert/distilbert-base-uncased", "66.4M", "265"]]
    assert "hf/google-bert/bert-base-cased" in unknown
    assert "hf/google-bert/bert-base-uncased" not in output  # 109M


def test_a_row_has_accuracy_and_cost():
    row = run("list", "native/resnet18.tv_in1k").stdout.splitlines()[1]
    assert row.split()[:5] == ["native/resnet18.tv_in1k", "11.2M", "44.7", "1.82", "69.8"]


@pytest.mark.parametrize(
    ("option", "value", "known", "fix"),
    [
        ("--task", "clasify", "causal-lm, classify, masked-lm, multilabel, regress, tag", "classify"),
        ("--plugin", "tim", "hf, native, timm", "timm"),
        ("--license", "apache2", "apache-2.0, ", "apache-2.0"),
    ],
)
def test_a_mistyped_filter_is_an_error_with_the_known_values(option, value, known, fix):
    result = run("list", option, value)
    assert result.exit_code == 1
    assert f"error: unknown {option[2:]} '{value}'; known: {known}" in result.stderr
    assert f"fix: zoo list {option} {fix}\n" in result.stderr
    assert result.stdout == ""


def test_a_mistyped_filter_raises_in_python():
    with pytest.raises(NameNotFound, match="unknown modality 'images'; known: image, text"):
        zoo.list(modality="images")
    with pytest.raises(NameNotFound, match="unknown sort 'size'; known: accuracy, gmacs, name, params"):
        zoo.list(sort="size")


def test_head_ends_the_list_quietly():
    command = [sys.executable, "-m", "zoo", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(64)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0
