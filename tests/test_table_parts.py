"""zoo.data.table_parts: a large table is read in parts, with the values and lines of one that is read as a whole."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from zoo.data import items, table_parts
from zoo.data.items import Reading
from zoo.errors import DataError

TEXT = Reading("text")


@pytest.fixture
def large(monkeypatch):
    """Read every table in parts of two rows."""

    def enable():
        monkeypatch.setattr(table_parts, "LARGE", 0)
        monkeypatch.setattr(table_parts, "ROWS", 2)

    return enable


def listed(path, how=TEXT):
    found, _ = items.of_path(path, how)
    return [(item.name, item.value, item.error and item.error.what) for item in found]


def test_parts_hold_the_rows_of_the_whole(tmp_path, large):
    frame = pd.DataFrame({"id": range(5), "text": ["a", "b, c", "d\ne", "", "ü"], "label": ["x"] * 5})
    frame.to_csv(tmp_path / "t.csv", index=False, sep=";")
    frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    frame.to_csv(tmp_path / "w.csv", index=False, encoding="utf-16")
    paths = [tmp_path / name for name in ("t.csv", "t.jsonl", "t.parquet", "w.csv")]
    whole = [[(name, value) for name, value, _ in listed(path)] for path in paths]
    large()
    for path, expected in zip(paths, whole, strict=True):
        parts, count = table_parts.read(path)
        assert [part.rows for part in parts] == [2, 2, 1]
        assert count == (5 if path.suffix == ".parquet" else None)
        assert [(name, value) for name, value, _ in listed(path)] == expected
    assert listed(paths[0])[3][2] == f"{paths[0]}:6 has no value"


def test_damaged_rows_of_a_large_table_have_no_value(tmp_path, large):
    large()
    (tmp_path / "t.csv").write_text("text,label\na,x\nb, c,x\nd,x\n")
    assert [error for _, _, error in listed(tmp_path / "t.csv")] == [None, f"{tmp_path}/t.csv:3 has no value", None]
    lines = [json.dumps({"text": "a"}), "{", "[1]", json.dumps({"text": "b"})]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert [value for _, value, _ in listed(tmp_path / "t.jsonl")] == ["a", None, None, "b"]


def test_tables_without_rows_or_with_an_open_quote_raise(tmp_path, large):
    large()
    (tmp_path / "t.csv").write_text("text,label\n")
    with pytest.raises(DataError, match=r"t\.csv has no rows"):
        listed(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text('text,label\na,x\nb,x\n"c,x\n')
    with pytest.raises(DataError, match=r"t\.csv:4: unclosed quote\nfix: double a quote"):
        listed(tmp_path / "t.csv")
    with pytest.raises(DataError, match=r"none\.csv does not exist"):
        listed(tmp_path / "none.csv")
    (tmp_path / "p.csv").write_text("text,label\na,x\n")
    with pytest.raises(DataError, match="no column 'mail'; it has text, label"):
        listed(tmp_path / "p.csv", Reading("text", ("mail",)))
