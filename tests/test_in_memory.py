"""X with y, iterators, DataLoaders, multi-hot targets and columns, CoNLL files: data as people have it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset, WeightedRandomSampler

from zoo.data.examples import Columns
from zoo.data.in_memory import paired
from zoo.data.reading import read, read_one
from zoo.errors import DataError

NAMES = ["a.png", "b.png", "c.png"]
PIXELS = np.zeros((3, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("inputs", "labels"),
    [
        (NAMES, [1, 2, 2]),
        (np.array(NAMES), np.array([1, 2, 2])),
        (pd.Series(NAMES, index=[7, 8, 9]), pd.Series([1, 2, 2])),
        (pd.DataFrame({"path": NAMES}), pd.DataFrame({"y": [1, 2, 2]})),
        (iter(NAMES), (n for n in (1, 2, 2))),
        (NAMES, torch.tensor([[1], [2], [2]])),
    ],
    ids=["lists", "arrays", "series", "frames", "iterators", "column"],
)
def test_x_and_y_become_pairs(inputs, labels):
    train, _ = read(paired(inputs, labels))
    assert [str(path) for path in train.inputs] == NAMES
    assert train.labels == [1, 2, 2]


def test_arrays_and_tensors_of_images_are_inputs():
    for images in (PIXELS, torch.zeros(3, 3, 8, 8)):
        assert len(read(paired(images, ["x", "y", "y"]))[0].inputs) == 3
        assert read_one((images, np.array([0, 1, 1]))).labels == [0, 1, 1]


@pytest.mark.parametrize("target", [np.array, torch.tensor, pd.DataFrame])
def test_a_multi_hot_y_gives_the_labels_of_each_row(target):
    labels = read(paired(NAMES, target([[1, 0, 1], [0, 0, 0], [0, 1, 0]])))[0].labels
    names = list("012") if target is pd.DataFrame else [0, 1, 2]
    assert labels == [(names[0], names[2]), (), (names[1],)]


def test_a_one_hot_y_gives_classes():
    one_hot = np.eye(3)
    assert read(paired(NAMES, one_hot))[0].labels == [0, 1, 2]
    assert read(paired(NAMES, one_hot, task="multilabel"))[0].labels == [(0,), (1,), (2,)]
    dataset = TensorDataset(torch.zeros(3, 3, 8, 8), torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]))
    assert read(dataset)[0].labels == [(0,), (0, 1), ()]


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (NAMES, [1, 2], "X has 3 inputs, and y has 2 labels\nfix: give one label per input"),
        ("photos", [1, 2], "X is 'photos', and labels of their own go with inputs in memory\nfix: finetune"),
        (pd.DataFrame({"a": NAMES, "b": NAMES}), [1, 2, 3], "X is a DataFrame with the columns a, b\nfix: X is one"),
        (
            NAMES,
            np.array([["a", "b"]] * 3),
            r"row 0 of y, of shape \(3, 2\), is \['a', 'b'\], not numbers alone\nfix: ",
        ),
        (NAMES, 3, "y is int, not a sequence\nfix: "),
    ],
)
def test_x_and_y_that_do_not_fit_raise(inputs, labels, message):
    with pytest.raises(DataError, match=message):
        paired(inputs, labels)


def test_iterators_are_read_to_their_end():
    assert read(zip(NAMES, "xyy", strict=True))[0].labels == ["x", "y", "y"]
    rows = ({"text": f"text {n}", "label": n} for n in range(3))
    assert read(rows, modality="text")[0].labels == [0, 1, 2]


def test_a_loader_stands_for_its_examples():
    dataset = TensorDataset(torch.zeros(6, 3, 8, 8), torch.arange(6))
    assert read(DataLoader(dataset, batch_size=4, shuffle=True))[0].labels == list(range(6))
    assert read(DataLoader(Subset(dataset, [4, 5]), batch_size=2))[0].labels == [4, 5]
    assert read(DataLoader(dataset, sampler=SubsetRandomSampler([3, 1])))[0].labels == [1, 3]
    with pytest.raises(DataError, match=r"draws by a WeightedRandomSampler.*\nfix: pass its examples"):
        read(DataLoader(dataset, sampler=WeightedRandomSampler([1.0] * 6, 6)))


def test_multi_hot_columns_are_labels(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("text,red,round,note\nsome text,1,0,x\nmore text,True,1.0,x\nno label,0,false,x\n")
    for label in ("red,round", ["red", "round"]):
        train, _ = read(table, modality="text", columns=Columns.of(None, label))
        assert train.labels == [("red",), ("red", "round"), ()]
        assert train.inputs == ["some text", "more text", "no label"]
    with pytest.raises(DataError, match=r"no column 'blue'; it has text, red, round, note\nfix: --label"):
        read(table, modality="text", columns=Columns.of(None, "red,blue"))
    with pytest.raises(DataError, match=r"t\.csv:2 has 'x' in note, neither 0 nor 1\nfix: .*--task regress"):
        read(table, modality="text", columns=Columns.of(None, "red,note"))


def test_an_empty_cell_of_a_multilabel_column_is_no_label(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("text,tags\na b,red|round\nc d,\ne f,red\n")
    labels = read(table, modality="text", columns=Columns(task="multilabel"))[0].labels
    assert labels == ["red|round", (), "red"]
    with pytest.raises(DataError, match=r"t\.csv:3 has no value in tags\nfix: .*--task multilabel"):
        read(table, modality="text")


@pytest.mark.parametrize(
    "name", ["photo_path", "img", "filename", "imageFile", "Image Path", "file_names", "IMG", "picture_uri", "png"]
)
def test_columns_of_images_are_found_by_name(name):
    rows = {"patient": list("pqr"), name: NAMES, "age": [1, 2, 3], "weight": [1.5, 2.5, 3.5]}
    train, _ = read(rows, columns=Columns.of(None, "weight"))
    assert [path.name for path in train.inputs] == NAMES


def test_a_column_of_image_files_is_found_by_its_values():
    rows = {"patient": list("pqr"), "where": NAMES, "age": [1, 2, 3], "weight": [1.5, 2.5, 3.5]}
    assert [path.name for path in read(rows, columns=Columns.of(None, "age"))[0].inputs] == NAMES


def test_groups_are_read_from_a_column():
    rows = {"image": NAMES, "label": list("xyx"), "patient": [1, 1, 2]}
    assert read(rows, columns=Columns(groups="patient"))[0].groups == ["1", "1", "2"]
    with pytest.raises(DataError, match=r"no column 'person'; it has image, label, patient\nfix: --groups"):
        read(rows, columns=Columns(groups="person"))
    with pytest.raises(DataError, match=r"is the name of a column, and .* is no table\nfix: pass a table"):
        read(list(zip(NAMES, "xyx", strict=True)), columns=Columns(groups="patient"))
    with pytest.raises(DataError, match=r"row 2 of .* has no value in patient"):
        read(rows | {"patient": [1, None, 2]}, columns=Columns(groups="patient"))


CONLL = "-DOCSTART- -X- -X- O\n\nAnna NNP B-NP B-PER\nsleeps VBZ B-VP O\n\n\nParis NNP B-NP B-LOC\n"


def test_conll_files_are_sentences_with_tags(tmp_path):
    for name in ("train.conll", "train.txt", "train.iob2"):
        (tmp_path / name).write_text(CONLL)
        train, _ = read(tmp_path / name, modality="text")
        assert train.inputs == [["Anna", "sleeps"], ["Paris"]]
        assert train.labels == [("B-PER", "O"), ("B-LOC",)]
    pos, _ = read(tmp_path / "train.conll", modality="text", columns=Columns.of(None, "pos_tags"))
    assert pos.labels == [("NNP", "VBZ"), ("NNP",)]


def test_words_of_a_conll_file_may_hold_spaces_and_hashes(tmp_path):
    (tmp_path / "t.conll").write_text("# id 1\nNew York\tB-LOC\n#\tO\n\nhe\u2028re\tO\n")
    assert read(tmp_path / "t.conll", modality="text")[0].inputs == [["New York", "#"], ["he\u2028re"]]


def test_conllu_files_have_parts_of_speech(tmp_path):
    rows = ["# text = Don't", "1-2\tDon't" + "\t_" * 8, "1\tDo\tdo\tAUX" + "\t_" * 6, "2\tn't\tnot\tPART" + "\t_" * 6]
    (tmp_path / "t.conllu").write_text("\n".join(rows) + "\n\n")
    train, _ = read(tmp_path / "t.conllu", modality="text")
    assert (train.inputs, train.labels) == ([["Do", "n't"]], [("AUX", "PART")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "Anna B-PER\nsleeps\n",
            r"t\.conll:2 has 1 columns, and 2 are expected: a word, then its tags\nfix: edit line 2",
        ),
        ("\n\n", r"t\.conll holds no sentences\nfix: write a word and its tag"),
    ],
)
def test_broken_conll_files_raise(tmp_path, text, message):
    (tmp_path / "t.conll").write_text(text)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "t.conll", modality="text")
