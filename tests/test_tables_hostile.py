"""zoo.data tables: contradictory, expanding and damaged ones raise a DataError."""

from __future__ import annotations

import json
import os
import re

import pyarrow
import pytest
from pyarrow import parquet
from test_tables import attempt, text

from zoo.data.files import read_table
from zoo.errors import DataError


@pytest.mark.parametrize("value", ["NaN", "nan", "NA", "inf", "-Infinity", "null", "?"])
def test_a_numeric_column_with_an_undefined_value_raises(value, tmp_path):
    path = tmp_path / "data.csv"
    path.write_text(f"text,label\na,1.5\nb,{value}\nc,2\n")
    with pytest.raises(DataError, match=rf"data.csv:3 has '{re.escape(value)}' in label, where all other rows have"):
        text(path)


@pytest.mark.parametrize(
    "metadata",
    [
        *("null", "[]", "1", "{", '{"info": null}', '{"info": {"features": [1]}}', "[" * 50_000),
        *(json.dumps({"info": {"features": {"label": kind}}}) for kind in (None, [], {"_type": "ClassLabel"})),
        *(
            json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}})
            for names in (None, [1], "ab")
        ),
    ],
    ids=range(13),
)
def test_invalid_metadata_of_a_parquet_file_is_ignored(metadata, tmp_path):
    table = pyarrow.table({"text": ["a", "b"], "label": [0, 1]}).replace_schema_metadata({"huggingface": metadata})
    parquet.write_table(table, tmp_path / "data.parquet")
    assert text(tmp_path / "data.parquet").labels == [0, 1]


def test_a_parquet_file_of_few_bytes_and_very_many_rows_raises(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.data.files.FEW_ROWS", 1000)
    parquet.write_table(pyarrow.table({"text": ["a"] * 100_000}), tmp_path / "data.parquet")
    with pytest.raises(DataError, match=r"has 100,000 rows and [0-9,]+ bytes of values in a file of [0-9,]+ bytes"):
        text(tmp_path / "data.parquet")


def test_equal_texts_of_a_parquet_file_are_one_object(tmp_path):
    parquet.write_table(pyarrow.table({"text": ["a long text", None, "a long text"]}), tmp_path / "data.parquet")
    first, missing, last = read_table(tmp_path / "data.parquet").column("text")
    assert (first, missing) == ("a long text", None)
    assert first is last


def test_a_wide_table_is_read_in_linear_time(tmp_path):
    names = [f"column{number}" for number in range(20_000)]
    (tmp_path / "data.csv").write_text(",".join([*names, "text", "label"]) + "\n" + "1," * 20_000 + "some text,x\n")
    assert text(tmp_path / "data.csv").labels == ["x"]


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "name"])
def test_only_regular_files_are_read(kind, tmp_path):
    path = tmp_path / ("x" * 300 if kind == "name" else "data.csv")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind != "name":
        path.symlink_to("/dev/zero" if kind == "device" else path)
    with pytest.raises(DataError, match=r"is not a regular file|cannot be read: (too many levels|file name too long)"):
        text(path)


def test_a_parquet_file_with_a_changed_byte_has_a_label_for_each_input(tmp_path):
    path = tmp_path / "data.parquet"
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": [1, 2]}), path, write_statistics=False)
    content = path.read_bytes()
    for place in range(4, 80):
        path.write_bytes(content[:place] + bytes([content[place] ^ 6]) + content[place + 1 :])
        found = attempt(path, "text")
        assert isinstance(found, str) or len(found.inputs) == len(found.labels) > 0
