"""zoo.model.results and result_files: the columns of every task, in each format; texts on the command line."""

from __future__ import annotations

import csv
import json

import pandas as pd
import pytest
import torch
import words
from click.testing import CliRunner
from pyarrow import parquet

import zoo
from zoo.cli import main
from zoo.data.items import Item
from zoo.errors import DataError
from zoo.model import result_files, results
from zoo.model.answers import Answer, Result
from zoo.tasks.classify import Classify
from zoo.tasks.multilabel import Multilabel
from zoo.tasks.regress import Regress
from zoo.tasks.tag import Tag

FAILED = Answer(Item("lost", error=DataError("lost does not exist", fix="find it")), error=DataError("gone", fix="-"))


def answered(task, outputs, value="a"):
    """Return the answer of a task for the outputs of one input."""
    (found,) = task.decode(outputs, 1)
    shares = None if task.name == "regress" else task.probabilities(outputs)[0]
    return Answer(Item(value, value), Result(found, shares))


def written(tmp_path, task, answer):
    """Return the rows of an answer and a failure in each format, read again."""
    rows = [results.row(task, each) for each in (answer, FAILED)]
    for suffix in result_files.TABLES:
        with result_files.create(tmp_path / f"r{suffix}", results.columns(task)) as write:
            write(rows)
    with open(tmp_path / "r.csv", newline="") as file:
        table = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    return table, lines, parquet.read_table(tmp_path / "r.parquet").to_pylist()


def test_whole_number_classes_stay_whole_numbers(tmp_path):
    table, lines, found = written(tmp_path, Classify((3, 12)), answered(Classify((3, 12)), torch.tensor([[0.0, 9.0]])))
    assert (table[0]["label"], lines[0]["label"], found[0]["label"]) == ("12", 12, 12)
    assert list(table[0]) == list(found[0]) == ["input", "label", "probability", "p_3", "p_12", "error"]
    assert table[1] == {**dict.fromkeys(table[0], ""), "input": "lost", "error": "gone"}
    assert (lines[1]["label"], lines[1]["error"], found[1]["p_3"]) == (None, "gone", None)
    assert "error" not in lines[0]


def test_multilabel_has_labels_and_each_probability(tmp_path):
    task = Multilabel(("cold", "warm", "wet"))
    table, lines, found = written(tmp_path, task, answered(task, torch.tensor([[-9.0, 9.0, 9.0]])))
    assert (table[0]["labels"], lines[0]["labels"], found[0]["labels"]) == (
        "warm|wet",
        ["warm", "wet"],
        ["warm", "wet"],
    )
    assert list(table[0]) == ["input", "labels", "p_cold", "p_warm", "p_wet", "error"]
    assert float(table[0]["p_cold"]) == pytest.approx(found[0]["p_cold"], rel=1e-6)


def test_several_numbers_have_a_column_each(tmp_path):
    task = Regress((10.0, 0.0), (2.0, 1.0), ("height", "error"))
    table, lines, _ = written(tmp_path, task, answered(task, torch.tensor([[1.5, 4.0]])))
    assert list(table[0]) == ["input", "height", "error_value", "error"]
    assert (lines[0]["height"], lines[0]["error_value"]) == (13, 4)


def test_regression_has_a_value(tmp_path):
    task = Regress((10.0,), (2.0,))
    table, lines, found = written(tmp_path, task, answered(task, torch.tensor([[1.5]])))
    assert (float(table[0]["value"]), lines[0]["value"], found[0]["value"]) == (13, 13, 13)
    assert list(table[0]) == ["input", "value", "error"]


def test_tags_come_with_words_spans_and_merged_entities(tmp_path):
    task = Tag(("O", "B-PER", "I-PER"))
    outputs = [torch.eye(3)[[1, 2, 0, 0]] * 9]  # (4, 3)
    table, lines, found = written(tmp_path, task, answered(task, outputs, "Ada  Byron wrote."))
    entity = {"kind": "PER", "text": "Ada  Byron", "start": 0, "end": 10}
    assert lines[0]["words"] == ["Ada", "Byron", "wrote", "."]
    assert lines[0]["tags"] == ["B-PER", "I-PER", "O", "O"]
    assert lines[0]["spans"] == [[0, 3], [5, 10], [11, 16], [16, 17]]
    assert lines[0]["entities"] == found[0]["entities"] == json.loads(table[0]["entities"]) == [entity]
    assert all(0.99 < p < 1 for p in found[0]["probabilities"])
    row = results.row(task, answered(task, outputs, ["Ada", "Byron", "wrote", "."]))
    assert row["entities"] == [{**entity, "text": "Ada Byron", "end": 9}]


def test_any_text_can_be_written(tmp_path):
    task = Classify(("caf\udce9", "b"))
    answer = answered(task, torch.tensor([[9.0, 0.0]]), "line\nbreak, \udce9 and \x00")
    table, lines, found = written(tmp_path, task, answer)
    assert lines[0]["label"] == "caf\udce9"
    assert found[0]["label"] == table[0]["label"] == "caf\\udce9"


def test_texts_are_given_as_such_as_files_as_a_table_and_by_lines(distribution, tmp_path, isolated):
    model = zoo.load(words.pretrained(distribution, tmp_path / "weights"), "cpu")
    model.finetune(words.reviews(24), strategy="probe", valid=0, out="m")
    (isolated / "one.txt").write_text("a great film")
    (isolated / "binary.txt").write_bytes(b"\0\1")
    pd.DataFrame({"text": ["a great film", ""], "label": ["x", "y"], "n": 1}).to_csv("mails.csv", index=False)

    def run(*arguments, text=None):
        result = CliRunner().invoke(main, ["predict", "m", *arguments], input=text)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    shown = run("--text", "a great film", "one.txt", "-", text="a great film\n").stdout
    assert len({line.split("  ", 1)[1].strip() for line in shown.splitlines()}) == 1
    assert [line.split("  ")[0] for line in shown.splitlines()] == ["a great film", "one.txt", "a great film"]
    assert run("mails.csv", "binary.txt", "--out", "r.csv").exit_code == 1
    assert [row["error"] for row in csv.DictReader(open("r.csv"))] == [  # noqa: SIM115
        "",
        "mails.csv:3 has no value",
        "binary.txt is not a text file: it contains NUL bytes",
    ]
    assert run("-", text=b"a great \xff film\r\n").exit_code == 0
    wrong = run("a great film")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert "error: a great film does not exist" in wrong.stderr
    assert "--text 'a great film'" in wrong.stderr
