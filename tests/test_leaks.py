"""Overlap of training, validation and test data: what is refused, what is reported, and where."""

from __future__ import annotations

import shutil

import pictures
import pytest

import zoo
from zoo.errors import DataError

QUICK = {"strategy": "probe", "views": 1}


@pytest.fixture
def model(pretrained):
    return zoo.load(pretrained, "cpu")


def test_test_data_that_is_the_training_data_raises(model, isolated):
    data = pictures.folder(isolated / "colours", 6)
    message = r"colours is the training data: 15 of 18 test examples are identical to training examples\nfix: test=0\.2"
    with pytest.raises(DataError, match=message):
        model.finetune(data, test=data, valid=0.2, **QUICK)


def test_test_data_that_is_the_validation_data_raises(model, isolated):
    for part, seed in (("train", 1), ("valid", 2)):
        pictures.folder(isolated / "colours" / part, 3, seed=seed)
    with pytest.raises(DataError, match=r"valid is the validation data: 9 of 9 test examples are identical to valid"):
        model.finetune(isolated / "colours", test=isolated / "colours", **QUICK)


def test_test_split_beside_the_training_split_is_new(model, isolated, capsys):
    for seed, part in enumerate(("train", "valid", "test")):
        pictures.folder(isolated / "colours" / part, 3, seed=seed)
    model.finetune(isolated / "colours", test=isolated / "colours", **QUICK)
    assert model.summary.test_duplicates == 0
    assert "(9 test examples, not used for any choice)" in capsys.readouterr().out


def test_partial_overlap_of_test_data_is_reported_and_recorded(model, isolated, capsys):
    data, test = pictures.folder(isolated / "colours", 6, seed=1), pictures.folder(isolated / "new", 3, seed=2)
    shutil.copy(data / "red" / "012.png", test / "red" / "copy.png")
    model.finetune(data, valid=0, test=test, out=isolated / "model", **QUICK)
    said = capsys.readouterr().out
    assert "leak      1 of 10 test examples have a near-duplicate in the training data, 1 of them identical" in said
    assert "copy.png ~ " in said
    assert "(10 test examples, 1 of them near-duplicates of training or validation data)" in said
    assert "not used for any choice" not in said
    assert zoo.load(isolated / "model", "cpu").summary.test_duplicates == 1
    card = (isolated / "model" / "README.md").read_text()
    assert "1 test example has a near-duplicate in the training or validation data." in card


def test_duplicates_across_a_held_out_share_are_reported(model, capsys):
    pairs = pictures.pairs(8)
    model.finetune(pairs + pairs, valid=0, test=0.25, **QUICK)
    assert model.summary.test_duplicates > 6
    assert "of them near-duplicates of training or validation data)" in capsys.readouterr().out


def test_labels_that_only_the_test_data_has_raise_before_training(model, capsys):
    test = [(image, "pink") for image, _ in pictures.pairs(2, seed=9)]
    with pytest.raises(DataError, match="labels that this model does not know: pink"):
        model.finetune(pictures.pairs(6), test=test, **QUICK)
    assert "probe " not in capsys.readouterr().out


def test_class_whose_files_are_all_missing_is_reported_with_their_names(model, isolated):
    pictures.folder(isolated, 4, ("blue",))
    rows = [f"blue/{index:03}.png,blue" for index in range(4)] + [f"lost/{index}.png,red" for index in range(5)]
    (isolated / "table.csv").write_text("\n".join(["image,label", *rows]))
    message = (
        r"one class only, 'blue'.*; 5 inputs are missing or unreadable and were left out: \S*lost/0\.png, "
        r"\S*lost/1\.png, \S*lost/2\.png and 2 more\nfix: restore these files, or correct their paths"
    )
    with pytest.raises(DataError, match=message):
        model.finetune(isolated / "table.csv", skip_bad=True, **QUICK)
