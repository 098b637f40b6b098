"""zoo.data.tables: CSV, TSV, JSONL, Parquet, DataFrames and Datasets; which column is what, and what is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import datasets
import pandas as pd
import pytest
from hub_datasets import DatasetHub
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoo.data.examples import Columns, read, read_one
from zoo.errors import DataError

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r", exclude_categories=["Cs"]), min_size=1)
ROWS = st.lists(st.tuples(WORDS.filter(str.strip), st.sampled_from(["good", "bad", "so, so"])), min_size=1, max_size=8)
QUIET = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def text(data, **names):
    return read(data, modality="text", columns=Columns.of(names.get("input"), names.get("label")))[0]


def write(frame: pd.DataFrame, path):
    kind = path.suffix
    if kind == ".parquet":
        frame.to_parquet(path)
    elif kind == ".jsonl":
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == ".tsv" else ",")
    return path


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl", ".parquet"])
@given(rows=ROWS)
@QUIET
def test_what_is_written_is_read(kind, rows, tmp_path_factory):
    path = write(pd.DataFrame(rows, columns=["text", "label"]), tmp_path_factory.mktemp("table") / f"data{kind}")
    found = text(path)
    assert list(zip(found.inputs, found.labels, strict=True)) == rows


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2], [1, 2]),
        ([0.5, 2.0], [0.5, 2.0]),
        (["1", "x"], ["1", "x"]),
        ([["a"], ["b", "c"]], [("a",), ("b", "c")]),
        ([True, False], ["True", "False"]),
    ],
)
def test_labels_keep_their_kind(values, expected, tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(json.dumps({"text": "x", "label": value}) for value in values))
    assert text(path).labels == expected


@pytest.mark.parametrize(
    ("written", "read_"),
    [
        ("1 2", [1, 2]),
        ("-1 0", [-1, 0]),
        ("1 2.5", [1.0, 2.5]),
        ("1e3 2", [1000.0, 2.0]),
        ("007 008", ["007", "008"]),
        ("1 x", ["1", "x"]),
        ("NA nan", ["NA", "nan"]),
        ("True False", ["True", "False"]),
    ],
)
def test_labels_of_a_csv_file_are_numbers_where_all_are(written, read_, tmp_path):
    (tmp_path / "data.csv").write_text("text,label\n" + "".join(f"7,{label}\n" for label in written.split()))
    assert text(tmp_path / "data.csv").labels == read_
    assert text(tmp_path / "data.csv").inputs == ["7", "7"]


@pytest.mark.parametrize(
    ("names", "input_", "label"),
    [
        (["id", "review", "sentiment"], "review", "sentiment"),
        (["Text", "Label", "id"], "Text", "Label"),
        (["what", "label"], "what", "label"),
        (["text", "kind"], "text", "kind"),
    ],
)
def test_columns_are_found_by_their_usual_names(names, input_, label, tmp_path):
    frame = pd.DataFrame([[f"{name} {i}" for name in names] for i in range(3)], columns=names)
    found = text(write(frame, tmp_path / "data.csv"))
    assert found.inputs == [f"{input_} {i}" for i in range(3)]
    assert found.labels == [f"{label} {i}" for i in range(3)]


def test_columns_may_be_named(tmp_path):
    path = write(pd.DataFrame({"a": ["x"], "b": ["y"], "c": ["z"]}), tmp_path / "data.csv")
    found = text(path, input="a,c", label="b")
    assert (found.inputs, found.labels) == ([("x", "z")], ["y"])


def test_a_well_known_pair_is_a_pair():
    found = text(pd.DataFrame({"premise": ["it rains"], "hypothesis": ["it is wet"], "label": [1]}))
    assert found.inputs == [("it rains", "it is wet")]


def test_a_table_of_texts_alone_has_no_labels(tmp_path):
    assert text(write(pd.DataFrame({"text": ["a", "b"]}), tmp_path / "data.csv")).labels == [None, None]


def test_classes_of_a_dataset_go_by_their_names():
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["ham", "spam"])}
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    assert text(data).labels == ["spam", "ham"]


def test_words_and_tags_of_a_dataset():
    tags = datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER"]))
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "ner_tags": tags})
    rows = {"tokens": [["Ann", "sings"]], "ner_tags": [[1, 0]]}
    found = text(datasets.Dataset.from_dict(rows, features=features))
    assert (found.inputs, found.labels) == ([["Ann", "sings"]], [("B-PER", "O")])


def test_a_dataset_in_parts_brings_its_validation_data():
    part = datasets.Dataset.from_dict({"text": ["a"], "label": ["x"]})
    other = datasets.Dataset.from_dict({"text": ["b"], "label": ["y"]})
    train, valid = read(datasets.DatasetDict({"train": part, "validation": other}), modality="text")
    assert (train.labels, valid.labels) == (["x"], ["y"])


def test_a_folder_of_tables_is_read_in_parts(tmp_path):
    for name in ("train", "valid", "test"):
        write(pd.DataFrame({"text": [name], "label": [name]}), tmp_path / f"{name}.csv")
    train, valid = read(tmp_path, modality="text")
    assert (train.inputs, valid.inputs) == (["train"], ["valid"])
    assert read_one(tmp_path, modality="text").inputs == ["test"]


def test_paths_of_images_are_relative_to_their_table(tmp_path):
    path = write(pd.DataFrame({"file": ["a/b.png"], "label": ["x"]}), tmp_path / "data.csv")
    assert read(path)[0].inputs == [tmp_path / "a/b.png"]


def test_semicolons_and_a_byte_order_mark_are_seen(tmp_path):
    (tmp_path / "data.csv").write_bytes("\ufefftext;label\nschön, ja;gut\n".encode())
    found = text(tmp_path / "data.csv")
    assert (found.inputs, found.labels) == (["schön, ja"], ["gut"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.csv", "", "data.csv is empty"),
        ("data.csv", "text,label\n", "has no rows"),
        ("data.csv", "text,label\na,x\nb,\n", r"row 2 of .*data.csv has nothing in label"),
        ("data.csv", "text,label\na,x\n,y\n", r"row 2 of .*data.csv has nothing in text"),
        ("data.csv", "a,b,c\n1,2,3\n", r"not clear which column is the input: a, b, c\nfix: .*--input NAME"),
        ("data.csv", "text,b,c\n1,2,3\n", r"not clear which column is the label.*\nfix: .*--label NAME"),
        ("data.jsonl", '{"text": "a", ', r"data.jsonl:1: "),
        ("data.csv", "text,text\na,b\n", "has two columns called 'text'"),
        ("data.csv", "text,label\na,b,c\n", "row 1 of .*data.csv has 3 values, and the header names 2 columns"),
        ("data.csv", 'text,label\n"a,b\n', "data.csv cannot be read: unexpected end of data"),
        ("data.json", "[1]", "holds something else than objects"),
        ("data.parquet", "no parquet", "data.parquet cannot be read"),
        ("data.xlsx", "x", "is a file, not a folder, a table"),
    ],
)
def test_a_bad_table_is_told(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        text(tmp_path / name)


def test_a_column_that_is_not_there_is_told():
    with pytest.raises(DataError, match="has no column 'body'; it has text, label"):
        text(pd.DataFrame({"text": ["a"], "label": ["x"]}), input="body")


def test_texts_in_folders_and_files(tmp_path):
    for label, raw in (("ham", "grüße".encode()), ("spam", "grüße".encode("cp1252"))):
        (tmp_path / "mails" / label).mkdir(parents=True)
        (tmp_path / "mails" / label / "0001.abc").write_bytes(b"other kinds are left out")
        (tmp_path / "mails" / label / "0001.txt").write_bytes(raw)
    found = text(tmp_path / "mails")
    assert (found.inputs, found.labels) == (["grüße", "grüße"], ["ham", "spam"])
    (tmp_path / "book.txt").write_text("a book")
    assert text(tmp_path / "book.txt").labels == [None]


def test_a_binary_file_is_no_text(tmp_path):
    (tmp_path / "book.txt").write_bytes(b"\0\1\2")
    with pytest.raises(DataError, match=r"book.txt is no text"):
        text(tmp_path / "book.txt")


READ_HUB = """
from zoo.data.examples import read, read_one
train, valid = read("hf:tiny/films", modality="text")
print(train.inputs, train.labels, valid, read_one("hf:tiny/films", modality="text").labels)
"""


def hub_process(code, hub, tmp_path):
    """Run code in a process of its own: the library reads the address of the Hub when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


def test_a_data_set_of_the_hub_brings_parts_and_names_of_classes(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    parts = {"train": (["a dull film", "a great film"], [0, 1]), "test": (["the plot"], [1])}
    files = {}
    for part, (texts, labels) in parts.items():
        data = datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)
        data.to_parquet(tmp_path / f"{part}.parquet")
        files[f"data/{part}-00000-of-00001.parquet"] = (tmp_path / f"{part}.parquet").read_bytes()
    with DatasetHub({"tiny/films": files}) as hub:
        done = hub_process(READ_HUB, hub, tmp_path)
    assert done.stdout == "['a dull film', 'a great film'] ['bad', 'good'] None ['good']\n", done.stderr


def test_a_data_set_that_is_not_there_is_told(tmp_path):
    code = "from zoo.data.examples import read\ntry:\n    read('hf:tiny/owls', modality='text')\n"
    code += "except Exception as error:\n    print(type(error).__name__, error)"
    with DatasetHub({}) as hub:
        done = hub_process(code, hub, tmp_path)
    assert done.stdout.startswith("DataError hf:tiny/owls cannot be read: "), done.stderr
