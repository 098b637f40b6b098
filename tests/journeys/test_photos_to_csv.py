"""Photos to CSV: a folder of photos, some of them unreadable, becomes a table of labels and probabilities."""

from __future__ import annotations

import csv
import json

import numpy as np
import pictures
import pytest
from click.testing import CliRunner
from pyarrow import parquet

from zoo.cli import main
from zoo.errors import DataError
from zoo.model import result_files


def run(*arguments: object, text: str | None = None):
    result = CliRunner().invoke(main, [str(a) for a in arguments], input=text)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def photos(isolated):
    """Nine photos in folders of any name, and a file that is no image."""
    folder = pictures.folder(isolated / "holiday", 3)
    (folder / "red" / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not a photo")
    return folder


def test_a_folder_becomes_a_table_with_a_row_for_each_photo(pretrained, photos):
    done = run("predict", pretrained, "holiday", "--out", "answers.csv")
    assert done.exit_code == 1
    assert "10 inputs, 1 of them unreadable -> answers.csv" in done.stdout
    assert "1 of 10 inputs cannot be read; the first: holiday/red/broken.jpg is not a readable image" in done.stderr
    assert "fix: replace or remove those with an error in answers.csv" in done.stderr
    with open("answers.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["input", "label", "probability", "p_blue", "p_green", "p_red", "error"]
    answers = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert answers["holiday/red/006.png"]["label"] == "red"
    assert answers["holiday/red/006.png"]["probability"] == answers["holiday/red/006.png"]["p_red"]
    assert sum(float(answers["holiday/blue/000.png"][name]) for name in header[3:6]) == pytest.approx(1, abs=1e-5)
    broken = answers["holiday/red/broken.jpg"]
    assert (broken["label"], broken["p_red"]) == ("", "")
    assert "not a readable image" in broken["error"]
    assert [path.name for path in photos.parent.iterdir() if path.name.startswith(".")] == []


def test_the_same_answers_as_json_lines_parquet_and_on_the_screen(pretrained, photos):
    (photos / "red" / "broken.jpg").unlink()
    for name in ("answers.jsonl", "answers.parquet"):
        assert run("predict", pretrained, "holiday", "--out", name).exit_code == 0
    with open("answers.jsonl") as file:
        lines = [json.loads(line) for line in file]
    table = parquet.read_table("answers.parquet").to_pylist()
    assert (
        [row["label"] for row in lines] == [row["label"] for row in table] == ["blue"] * 3 + ["green"] * 3 + ["red"] * 3
    )
    assert [row["p_red"] for row in lines] == pytest.approx([row["p_red"] for row in table], rel=1e-6)
    shown = run("predict", pretrained, "-", text="holiday/red/006.png\n\nholiday/blue/000.png\nlost.png\n")
    assert [line.split()[:2] for line in shown.stdout.splitlines()[:2]] == [
        ["holiday/red/006.png", "red"],
        ["holiday/blue/000.png", "blue"],
    ]
    assert "lost.png" in shown.stdout.splitlines()[2]
    assert "error: lost.png does not exist" in shown.stdout
    assert shown.exit_code == 1


def test_a_table_of_paths_keeps_its_order_and_its_empty_cells(pretrained, photos):
    rows = ["blue/000.png,3", "lost.png,4", ",5", "red/006.png,6"]
    (photos / "list.csv").write_text("\n".join(["photo_of_it,price", *rows]))
    done = run("predict", pretrained, "holiday/list.csv", "--input", "photo_of_it", "--json")
    assert done.exit_code == 1
    answers = json.loads(done.stdout)
    assert [answer["input"] for answer in answers] == ["blue/000.png", "lost.png", "", "red/006.png"]
    assert [answer.get("label") for answer in answers] == ["blue", None, None, "red"]
    assert answers[2]["error"] == "holiday/list.csv:4 has no value"


def test_embeddings_become_an_array_or_a_table(pretrained, photos):
    assert run("embed", pretrained, "holiday", "--out", "all.npy", "--normalize").exit_code == 1
    assert run("embed", pretrained, "holiday", "--out", "all.parquet").exit_code == 1
    found, table = np.load("all.npy"), parquet.read_table("all.parquet").to_pylist()
    assert (found.shape, found.dtype) == ((10, 16), np.float32)
    broken = [row["input"] for row in table].index("holiday/red/broken.jpg")
    assert np.isnan(found).all(1).nonzero()[0].tolist() == [broken]
    assert table[broken]["embedding"] is None
    assert np.linalg.norm(np.delete(found, broken, 0), axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "fix"),
    [
        (["nowhere.png"], "nowhere.png does not exist", "check the path"),
        (["holiday", "--out", "answers.xlsx"], "none of the suffixes .csv, .jsonl, .parquet", "--out answers.csv"),
        (["holiday", "--out", "holiday/notes.csv"], "holiday/notes.csv exists already", "--out holiday/notes-2.csv"),
        (["holiday", "--out", "deep/answers.csv"], "the folder deep does not exist", "mkdir -p deep"),
        (["empty"], "empty holds no images", "pass the folder"),
        (["--text", "a red photo"], "--text is for text models", "give image files"),
        (["holiday", "--top", "0"], "--top 0 is not a whole number", "--top 1"),
    ],
)
def test_mistakes_end_with_a_fix_and_write_nothing(pretrained, photos, arguments, error, fix):
    (photos.parent / "empty").mkdir()
    (photos / "notes.csv").write_text("kept")
    before = sorted(photos.parent.rglob("*"))
    done = run("predict", pretrained, *arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert error in first
    assert fix in second
    assert sorted(photos.parent.rglob("*")) == before
    assert (photos / "notes.csv").read_text() == "kept"


def test_a_run_that_is_interrupted_leaves_no_file(pretrained, photos, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo.model.results.row", interrupt)
    assert run("predict", pretrained, "holiday", "--out", "answers.csv").exit_code == 130
    assert sorted(path.name for path in photos.parent.iterdir()) == ["holiday"]


def test_a_full_disk_ends_with_a_fix(pretrained, photos, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zoo.model.result_files.os.replace", full)
    done = run("predict", pretrained, "holiday/red/006.png", "--out", "answers.csv")
    assert done.exit_code == 1
    assert "error: answers.csv cannot be written: No space left on device" in done.stderr
    assert sorted(path.name for path in photos.parent.iterdir()) == ["holiday"]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.npy"])
def test_an_error_of_the_inputs_is_not_called_one_of_the_file(isolated, name):
    columns = {"embedding": 4}
    with pytest.raises(OSError, match="reset"), result_files.create(isolated / name, columns):
        raise OSError("connection reset")
    with pytest.raises(DataError, match=f"{name} cannot be written"), result_files.create(isolated / name, columns):
        (isolated / name).mkdir()
    assert [path.name for path in isolated.iterdir()] == [name]
