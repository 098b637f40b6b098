"""Cross-validation with `folds`: each example is held out once, and the final model trains on everything."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pictures
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import t

import zoo
from zoo.cli import main
from zoo.data import split
from zoo.data.examples import Examples
from zoo.errors import DataError, RecipeError
from zoo.tasks import intervals


def examples(labels: str, groups: str | None = None) -> Examples:
    return Examples(list(labels), list(labels), "letters", None if groups is None else list(groups))


def test_folds_hold_each_example_once_and_are_stratified():
    data = examples("a" * 20 + "b" * 11)
    found = split.folds(data, 5, stratify=True, seed=3)
    assert sorted(index for fold in found for index in fold) == list(range(31))
    assert {Counter(data.labels[i] for i in fold)["a"] for fold in found} == {4}
    assert {len(fold) for fold in found} == {6, 7}
    assert found == split.folds(data, 5, stratify=True, seed=3) != split.folds(data, 5, stratify=True, seed=4)


def test_folds_divide_no_group_and_hold_out_no_single_example():
    data = examples("ababababz", "112233445")
    found = split.folds(data, 2, stratify=True, seed=0)
    assert sorted(index for fold in found for index in fold) == list(range(8))
    assert all(fold[::2] == [i - 1 for i in fold[1::2]] for fold in found)
    with pytest.raises(DataError, match="has 4 groups, and 5 folds take at least 5"):
        split.folds(data, 5, stratify=True, seed=0)


def test_interval_is_the_corrected_resampled_t():
    assert [t.ppf(0.975, k - 1) for k in range(2, 11)] == pytest.approx(intervals.QUANTILES, abs=1e-4)
    low, high = intervals.corrected_t([0.8, 0.9, 1.0])
    assert (low + high) / 2 == pytest.approx(0.9)
    assert (high - low) / 2 == pytest.approx(t.ppf(0.975, 2) * 0.1 * (1 / 3 + 1 / 2) ** 0.5, abs=1e-4)


@pytest.mark.parametrize("settings", [{"strategy": "probe", "l2": 1.0}, {"strategy": "full", "steps": 2, "evals": 1}])
def test_folds_are_measured_apart_and_the_model_trains_on_everything(pretrained, settings, capsys):
    data = pictures.pairs(4, seed=3)
    model = zoo.load(pretrained, "cpu").finetune(data, folds=3, **settings)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fold")]
    assert [line.split()[1] for line in lines[:3]] == ["1/3", "2/3", "3/3"]
    assert lines[3].endswith("(mean of 3 folds, majority class 0.333; the model trains on all of them)")

    plain = zoo.load(pretrained, "cpu").finetune(data, valid=0, **settings)
    pixels = [pixels for pixels, _ in data]
    assert torch.equal(model.logits(pixels), plain.logits(pixels))

    folds, labels = model.training["folds"], [label for _, label in data]
    held_out = split.folds(Examples(labels, labels, "labels"), 3, stratify=True, seed=0)
    for score, held in zip(folds["scores"], held_out, strict=True):
        others = [pair for index, pair in enumerate(data) if index not in held]
        alone = zoo.load(pretrained, "cpu").finetune(others, valid=0, test=[data[i] for i in held], **settings)
        assert score == alone.tested
    assert folds["mean"]["accuracy"] == pytest.approx(sum(row["accuracy"] for row in folds["scores"]) / 3)


def test_folds_on_the_command_line(pretrained):
    data = pictures.folder(Path("colours"), 3)
    call = [
        "finetune",
        str(pretrained),
        str(data),
        "--strategy",
        "probe",
        "--set",
        "l2=1",
        "--folds",
        "3",
        "--out",
        "m",
        "--json",
    ]
    result = CliRunner().invoke(main, call)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert len(document["folds"]["scores"]) == 3
    assert json.loads(Path("m/zoo.json").read_text())["training"]["folds"]["mean"] == document["folds"]["mean"]
    assert "3 folds" in CliRunner().invoke(main, ["runs", "m"]).stdout


def test_folds_no_better_than_the_majority_class_are_reported(pretrained, capsys):
    data = [(pictures.array("grey", 1), label) for label in "ab" * 6]
    zoo.load(pretrained, "cpu").finetune(data, folds=2, strategy="probe", views=1, l2=1.0)
    assert "warning   no better than ignoring the inputs (majority class 0.500)" in capsys.readouterr().out


@pytest.mark.parametrize("folds", [1, 11, 2.5, "five"])
def test_invalid_number_of_folds(pretrained, folds):
    with pytest.raises(RecipeError, match="not a whole number from 2 to 10"):
        zoo.load(pretrained, "cpu").finetune(pictures.pairs(2), folds=folds)


def test_folds_and_a_share_for_validation_conflict(pretrained):
    with pytest.raises(RecipeError, match=r"valid=0\.3 and folds=3"):
        zoo.load(pretrained, "cpu").finetune(pictures.pairs(2), folds=3, valid=0.3)
