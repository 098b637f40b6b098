"""zoo.data tables: file formats, column inference, label parsing and errors."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import datasets
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zoo.data import table
from zoo.data.examples import Columns
from zoo.data.reading import read, read_one
from zoo.errors import DataError

CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"])
WORDS = st.text(CHARACTERS, min_size=1)
KINDS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
QUIET = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def columns(names):
    return Columns.of(names.get("input"), names.get("label"))


def text(data, **names):
    return read(data, modality="text", columns=columns(names))[0]


def write(rows, path):
    """Write rows (dicts) with the usual library for the file format."""
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("kind", KINDS)
@given(pairs=st.lists(st.tuples(WORDS, st.sampled_from(["good", "bad", "so, so"])), min_size=1, max_size=8))
@QUIET
def test_tables_round_trip(kind, pairs, tmp_path_factory):
    rows = [{"text": text, "label": label} for text, label in pairs]
    found = text(write(rows, tmp_path_factory.mktemp("table") / f"data{kind}"))
    assert list(zip(found.inputs, found.labels, strict=True)) == pairs


def attempt(path, modality):
    try:
        return read_one(path, modality=modality)
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("kind", KINDS)
@given(content=st.binary(max_size=60) | st.text('abc,;\t"\n[]{}:1', max_size=60).map(str.encode))
@QUIET
def test_any_file_content_is_read_or_raises_a_data_error_with_its_path(kind, content, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / f"data{kind}"
    path.write_bytes(content)
    for modality in ("text", "image"):
        found = attempt(path, modality)
        if isinstance(found, str):
            assert str(path) in found
        else:
            assert len(found.inputs) == len(found.labels) > 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2], [1, 2]),
        ([0.5, 2.0], [0.5, 2.0]),
        (["1", "x"], ["1", "x"]),
        ([["a"], ["b", "c"], []], [("a",), ("b", "c"), ()]),
        ([True, False], ["True", "False"]),
    ],
)
@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_labels_keep_their_type(kind, values, expected, tmp_path):
    path = write([{"text": "x", "label": value} for value in values], tmp_path / f"data{kind}")
    assert text(path).labels == expected


@pytest.mark.parametrize(
    ("cells", "read_"),
    [
        ("1 2", [1, 2]),
        ("-1 0", [-1, 0]),
        ("1 2.5", [1.0, 2.5]),
        ("1e3 2", [1000.0, 2.0]),
        ("007 008", ["007", "008"]),
        ("1 x", ["1", "x"]),
        ("NA nan", ["NA", "nan"]),
        ("True False", ["True", "False"]),
        ("a|b c", ["a|b", "c"]),
        ('["a","b"] []', [("a", "b"), ()]),
        ("123456789012345678901 12", ["123456789012345678901", "12"]),
        ("9" * 5000 + " 1", ["9" * 5000, "1"]),
        ("123456789012345678901 0.5", [123456789012345678901.0, 0.5]),
        ("[" * 50_000 + "]" * 50_000 + " x", ["[" * 50_000 + "]" * 50_000, "x"]),
        ("[1,0] [0]", [(1, 0), (0,)]),
    ],
)
def test_csv_labels_are_parsed_if_all_are_numbers_or_lists(cells, read_, tmp_path):
    path = write([{"text": "7", "label": label} for label in cells.split()], tmp_path / "data.csv")
    assert text(path).labels == read_
    assert text(path).inputs == ["7", "7"]


def test_csv_words_and_tags_are_json_lists(tmp_path):
    rows = [{"words": '["Ann", "sings"]', "tags": '["PER", "O"]'}]
    found = text(write(rows, tmp_path / "data.csv"))
    assert (found.inputs, found.labels) == ([["Ann", "sings"]], [("PER", "O")])


@pytest.mark.parametrize(
    ("names", "input_", "label"),
    [
        (["id", "review", "sentiment"], "review", "sentiment"),
        (["Text", "Label", "id"], "Text", "Label"),
        (["what", "label"], "what", "label"),
        (["text", "kind"], "text", "kind"),
        (["", "text", "kind"], "text", "kind"),
        (["title", "body", "rating", "label"], "body", "label"),
        (["label", "label_name", "text"], "text", "label"),
    ],
)
def test_columns_are_inferred_by_common_names(names, input_, label, tmp_path):
    rows = [{name: f"{name} {i}" for name in names} for i in range(3)]
    found = text(write(rows, tmp_path / "data.csv"))
    assert found.inputs == [f"{input_} {i}" for i in range(3)]
    assert found.labels == [f"{label} {i}" for i in range(3)]
    assert found.origin == f"{tmp_path}/data.csv ({input_} -> {label})"


def test_of_two_columns_the_one_with_repeated_values_is_the_label():
    kind, what = ["x", "y"] * 3, [f"thing {i}" for i in range(6)]
    for frame in (pd.DataFrame({"kind": kind, "what": what}), pd.DataFrame(zip(what, kind, strict=True))):
        found = text(frame)
        assert (found.inputs, found.labels) == (what, kind)


def test_of_two_columns_the_one_with_image_paths_is_the_input(tmp_path):
    path = write([{"which": "x", "where": "a/b.PNG"}, {"which": "y", "where": "c.jpg"}], tmp_path / "data.csv")
    assert read(path)[0].inputs == [tmp_path / "a/b.PNG", tmp_path / "c.jpg"]


def test_columns_are_selected_by_arguments(tmp_path):
    path = write([{"a": "x", "b": "y", "id": "z"}], tmp_path / "data.csv")
    found = text(path, input="a,id", label="b")
    assert (found.inputs, found.labels) == ([("x", "z")], ["y"])
    assert text(path, input="a", label="").labels == [None]


@pytest.mark.parametrize("pair", [("premise", "hypothesis"), ("Question", "Passage")])
def test_common_pairs_of_columns_are_text_pairs(pair):
    found = text(pd.DataFrame({pair[1]: ["it is wet"], pair[0]: ["it rains"], "label": [1]}))
    assert found.inputs == [("it rains", "it is wet")]


@pytest.mark.parametrize("names", [["text"], ["id", "text"], ["what"]])
def test_a_table_of_texts_alone_has_no_labels(names, tmp_path):
    path = write([dict.fromkeys(names, "a"), dict.fromkeys(names, "b")], tmp_path / "data.csv")
    assert (text(path).inputs, text(path).labels) == (["a", "b"], [None, None])


def test_class_ids_of_a_dataset_become_names(tmp_path):
    kinds = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["ham", "spam"])}
    rows = {"text": ["a", "b"], "label": [1, 0]}
    data = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    assert text(data).labels == text(data.with_format("torch")).labels == ["spam", "ham"]
    data.to_parquet(tmp_path / "data.parquet")
    assert text(tmp_path / "data.parquet").labels == ["spam", "ham"]


def test_words_and_tags_of_a_dataset(tmp_path):
    tags = datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER"]))
    kinds = {"tokens": datasets.Sequence(datasets.Value("string")), "ner_tags": tags}
    rows = {"tokens": [["Ann", "sings"]], "ner_tags": [[1, 0]]}
    data = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    data.to_parquet(tmp_path / "data.parquet")
    for found in (text(data), text(tmp_path / "data.parquet"), text(pd.read_parquet(tmp_path / "data.parquet"))):
        assert found.inputs == [["Ann", "sings"]]
    assert text(data).labels == text(tmp_path / "data.parquet").labels == [("B-PER", "O")]


def dataset_dict(**labels):
    """Return a DatasetDict with one text per label in each split; -1 is a missing label."""
    kinds = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
    made = {
        part: datasets.Dataset.from_dict({"text": [part] * len(row), "label": row}, features=kinds)
        for part, row in labels.items()
    }
    return datasets.DatasetDict(made)


def test_a_dataset_dict_has_validation_data():
    train, valid = read(dataset_dict(train=[0, 1], validation=[1], unsupervised=[-1]), modality="text")
    assert (train.labels, valid.labels) == (["bad", "good"], ["good"])


def test_evaluation_skips_a_split_without_labels():
    data = dataset_dict(train=[0], validation=[0, 1], test=[-1, -1])
    assert read_one(data, modality="text").inputs == ["validation"] * 2
    with pytest.raises(DataError, match=r"DatasetDict\[test\] has no values in label"):
        read_one(dataset_dict(test=[-1, -1]), modality="text")


def test_a_folder_of_tables_is_read_by_split(tmp_path):
    for name in ("train", "Dev", "test"):
        write([{"text": name, "label": name}], tmp_path / f"{name}.csv")
    train, valid = read(tmp_path, modality="text")
    assert (train.inputs, valid.inputs) == (["train"], ["Dev"])
    assert read_one(tmp_path, modality="text").inputs == ["test"]


def test_evaluation_skips_a_test_table_without_labels(tmp_path):
    for name, rows in (("train", {"label": "x"}), ("valid", {"label": "y"}), ("test", {})):
        write([{"id": "1", "text": name} | rows], tmp_path / f"{name}.csv")
    for names in ({}, {"label": "label"}):
        assert read_one(tmp_path, modality="text", columns=columns(names)).inputs == ["valid"]


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".parquet"])
def test_paths_of_images_are_relative_to_their_table(kind, tmp_path):
    path = write([{"file": "a/b.png", "label": "x"}, {"file": "/c.png", "label": "x"}], tmp_path / f"data{kind}")
    assert list(map(str, read(path)[0].inputs)) == [f"{tmp_path}/a/b.png", "/c.png"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "\ufefftext;label\nschön, ja;gut\n".encode(), "schön, ja"),
        ("a.csv", "text|label\nschön, ja|gut\n".encode(), "schön, ja"),
        ("a.csv", "text,label\nschön,gut\n".encode("utf-16"), "schön"),
        ("a.csv", b'"text; long";label\r\n"a; b\r\nc";gut\r\n', "a; b\r\nc"),
        ("a.csv", b'text, label\n"a, b", gut\n\n,\n', "a, b"),
        ("a.csv", b"text,label,,\na,gut,,\n,,,\n", "a"),
        ("a.tsv", b'text\tlabel\n"Oh" he said\tgut\n', '"Oh" he said'),
        ("a.tsv", b'text\tlabel\n"a ""quote"" and\na line"\tgut\n', 'a "quote" and\na line'),
        ("a.json", b'{"text": ["a"],\n "label": ["gut"]}', "a"),
        ("a.json", b'{"text": "a",\n "label": "gut"}', "a"),
        ("a.json", b'{"text": "a", "label": "gut"}\n{"text": "b", "label": "gut"}', "a"),
        ("a.jsonl", '\n{"text": "a", "label": "gut"}\n'.encode("utf-16"), "a"),
    ],
)
def test_common_dialects_and_encodings_are_read(name, content, expected, tmp_path):
    (tmp_path / name).write_bytes(content)
    found = text(tmp_path / name)
    assert (found.inputs[0], found.labels[0]) == (expected, "gut")


def test_a_quote_in_an_unquoted_tsv_file_is_literal(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\n"Never again\tbad\nI liked it\tgood\nhe said "wow"\tgood\n')
    assert text(tmp_path / "a.tsv").inputs == ['"Never again', "I liked it", 'he said "wow"']


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.csv", b"", r"data.csv is empty\nfix: write a table"),
        ("data.csv", b"text,label\n", "has no rows"),
        ("data.csv", b'text,label\n"a\nb",x\nc,\n', r"data.csv:4 has no value in label\nfix: add one"),
        ("data.csv", b"text,label\na,x\n,y\n", "data.csv:3 has no value in text"),
        ("data.csv", b"text,label\na,\nb,\n", r"has no values in label\nfix: name the label column"),
        ("data.csv", b"a,b,c\n1,2,3\n", r"cannot infer the input column from: a, b, c\nfix: .*--input NAME"),
        ("data.csv", b"a,b\nx,x\nx,x\n", r"cannot infer the input column from: a, b\n"),
        ("data.csv", b"text,b,c\n1,2,3\n", r"cannot infer the label column from.*\nfix: .*--label NAME"),
        (
            "data.csv",
            b"ham,see you\nham,hello\nspam,win\n",
            r"seems to have no header.*\nfix: add a header",
        ),
        ("data.csv", b"great,1\nbad,0\n", "seems to have no header; its first line is: great, 1"),
        ("data.csv", b"text,text\na,b\n", "has two columns called 'text'"),
        ("data.csv", b"text,label\na,b\na,b,c\n", "data.csv:3 has 3 values, but the header has 2 columns"),
        ("data.csv", b'text,label\na,b\n"a,b\n', "data.csv:3: unclosed quote"),
        ("data.csv", b'text,label\n"a"b,c\n', r"data.csv:2: ',' expected after '\"'\nfix: double a quote"),
        ("data.csv", "text,label\na,b\nschön,b\n".encode("cp1252"), r"data.csv:3 is not valid UTF-8\nfix: iconv"),
        ("data.csv", "text,label\na,b\n".encode("utf-16-le"), "data.csv is not a text file: it contains NUL bytes"),
        (
            "data.csv",
            b"text,label\na,\"['b', 'c']\"\n",
            r"data.csv:2 has \['b', 'c'\] in label, a Python list",
        ),
        ("data.jsonl", b'\n{"text": "a", ', "data.jsonl:2 is not valid JSON: "),
        ("data.jsonl", b'{"text": 3, "label": 1}', r"data.jsonl:1 has 3 \(int\) where a text is expected"),
        ("data.jsonl", b'{"text": "\\ud800", "label": 1}', "data.jsonl:1 contains a lone surrogate"),
        ("data.jsonl", b'{"text": ["a", null], "label": [1, 2]}', "data.jsonl:1 has no value where a text"),
        (
            "data.jsonl",
            b'{"text": "a", "label": {"b": "1"}}',
            r"label of .*data.jsonl:1 is \{'b': '1'\} \(dict\), not str",
        ),
        ("data.json", b'[{"text": "a"},\n 2 3]', "data.json cannot be read: Expecting ',' delimiter: line 2"),
        ("data.json", b"[1]", "holds values that are not objects"),
        ("data.json", b'{"text": ["a"], "label": []}', "columns of .*data.json differ in length: text 1, label 0"),
        ("data.parquet", b"no parquet", "data.parquet cannot be read"),
        ("data.xlsx", b"x", r"is a file, not a folder, a table.*\nfix: save a table as CSV"),
    ],
)
def test_an_invalid_table_raises_with_its_location(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        text(tmp_path / name)


def test_ambiguous_label_columns_raise():
    with pytest.raises(DataError, match=r'the label column from: text, rating, mood, sentiment\nfix: .*--label ""'):
        text(pd.DataFrame({"text": ["a"], "rating": [1], "mood": ["x"], "sentiment": ["y"]}))


@pytest.mark.parametrize("names", [{"input": "body"}, {"label": "body"}])
def test_an_unknown_column_raises_with_the_known_ones(names):
    with pytest.raises(DataError, match="has no column 'body'; it has text, label"):
        text(pd.DataFrame({"text": ["a"], "label": ["x"]}), **names)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pd.DataFrame({"text": pd.array(["a", pd.NA], dtype="string")}), "row 2 of a DataFrame of 2 rows has no value"),
        (pd.DataFrame({"text": ["a", "b"], "label": [1, None]}), "row 2 of .* has no value in label"),
        (pd.DataFrame({"text": ["a", "b"], "label": pd.array([None, 1], dtype="Int64")}), "row 1 .* no value in label"),
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), "two columns called 'text'"),
        (pd.DataFrame({"text": ["a"], "label": [pd.Timestamp("2020-01-01")]}), r"label of row 1 .*\(Timestamp\)"),
        (datasets.DatasetDict(), "has no splits"),
        ({"text": ["a"], "label": []}, "differ in length"),
        ([{}], "1 examples in memory has no columns"),
    ],
)
def test_invalid_tables_in_memory_raise(data, message):
    with pytest.raises(DataError, match=message):
        text(data)


def test_streams_are_no_tables():
    stream = datasets.Dataset.from_dict({"text": ["a"]}).to_iterable_dataset()
    assert table.in_memory(stream) is None
    assert table.in_memory(datasets.IterableDatasetDict({"train": stream})) is None


def test_an_empty_text_in_memory_is_valid():
    assert text(pd.DataFrame({"text": ["", "b"], "label": [1, 2]})).inputs == ["", "b"]


def test_lists_of_dicts_and_dicts_of_lists_are_tables():
    rows = [{"text": "a", "label": 1}, {"label": 2, "text": "b"}]
    for data in (rows, {"text": ["a", "b"], "label": [1, 2]}):
        assert (text(data).inputs, text(data).labels) == (["a", "b"], [1, 2])


def test_a_polars_frame_is_a_table():
    class DataFrame(pd.DataFrame):
        """The common API of both libraries: columns, a length, frame[name].to_list()."""

    DataFrame.__module__ = "polars.dataframe.frame"
    found = text(DataFrame({"tokens": [["a"], ["b", "c"]], "tags": [[1], [2, 3]]}))
    assert (found.inputs, found.labels) == ([["a"], ["b", "c"]], [(1,), (2, 3)])


def test_reading_a_csv_file_imports_no_dataframe_library(tmp_path):
    write([{"text": "a", "label": "b"}], tmp_path / "data.csv")
    code = f"import sys; from zoo.data.reading import read; read({str(tmp_path / 'data.csv')!r}, modality='text')"
    code += "; print(*({'pandas', 'pyarrow', 'datasets', 'numpy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
