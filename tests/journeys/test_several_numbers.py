"""Journey: several numbers for each photo, from columns of a table or a 2-D y."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import run
from PIL import Image

import zoo
from zoo.errors import DataError

PROBE = ("--strategy", "probe", "--set", "l2=0.01", "--device", "cpu")


@pytest.fixture
def table() -> Path:
    """A table of 48 photos with the share of red, in percent, and the blue, as a whole number."""
    Path("photos").mkdir()
    rows = []
    for number in range(48):
        red, blue = 40 + 4 * number, 20 + 37 * number % 200
        Image.new("RGB", (16, 16), (red, 100, blue)).save(f"photos/{number}.png")
        rows.append((f"photos/{number}.png", f"2020-01-{number % 28 + 1:02}", red / 2.55, blue))
    with open("photos.csv", "w", newline="") as file:
        csv.writer(file).writerows([("photo", "date", "red", "blue"), *rows])
    return Path("photos.csv")


def test_several_columns_of_numbers(table, pretrained):
    said = run("finetune", pretrained, table, "--label", "red,blue", *PROBE, "--out", "run")
    assert "48 images, 2 numbers each -> regress; 20 % held out" in said
    assert "the means are off by" in said
    assert "\n          red: r2 0." in said

    answers = run("predict", "run", "photos/3.png", "photos/40.png", "--device", "cpu")
    assert [line.split()[1:4:2] for line in answers.splitlines()] == [["red", "blue"]] * 2
    document = json.loads(run("predict", "run", "photos/3.png", "--json", "--device", "cpu"))
    assert list(document[0]["label"]) == ["red", "blue"]
    run("predict", "run", table, "--out", "answers.csv", "--device", "cpu")
    found, truth = pd.read_csv("answers.csv"), pd.read_csv(table)
    assert list(found.columns) == ["input", "red", "blue", "error"]
    assert np.corrcoef(found["blue"], truth["blue"])[0, 1] > 0.9

    shown = run("evaluate", "run", table, "--errors", "errors.csv", "--device", "cpu")
    assert "\nvalue     r2" in shown
    worst = pd.read_csv("errors.csv")
    assert list(worst.columns[2:6]) == ["truth_red", "truth_blue", "answer_red", "answer_blue"]
    assert worst["loss"].is_monotonic_decreasing

    # the columns are known by name: in another order, as in the model's own
    other = json.loads(run("evaluate", "run", table, "--label", "blue,red", "--json", "--device", "cpu"))
    same = json.loads(run("evaluate", "run", table, "--json", "--device", "cpu"))
    assert other["metrics"] == same["metrics"]
    assert set(same["per_class"]) == {"red", "blue"}
    assert "not 2 finite numbers" in run("evaluate", "run", table, "--label", "red", code=1)


def test_two_dimensional_y(table, pretrained):
    frame = pd.read_csv(table)
    model = zoo.load(pretrained, "cpu")
    model.finetune(frame["photo"], frame[["red", "blue"]].to_numpy(), strategy="probe", l2=0.01, quiet=True)
    assert model.task.labels == ("value_0", "value_1")
    assert model.predict("photos/3.png").label == pytest.approx((frame["red"][3], frame["blue"][3]), abs=40)
    model.save("run")
    assert zoo.load("run", "cpu").predict("photos/3.png") == model.predict("photos/3.png")

    model.finetune(frame["photo"], frame[["red", "blue"]], strategy="probe", l2=0.01, quiet=True)
    assert model.task.labels == ("red", "blue")
    pairs = list(zip(frame["photo"], frame[["blue", "red"]].to_dict("records"), strict=True))
    by_name = model.evaluate(pairs, per_class=True)
    assert by_name == model.evaluate((frame["photo"], frame[["red", "blue"]].to_numpy()), per_class=True)
    assert by_name["r2"] == pytest.approx(np.mean([row["r2"] for row in by_name["per_class"].values()]))
    with pytest.raises(DataError, match=r"example 0 has the numbers red, not red, blue\nfix: .*--label red,blue"):
        model.evaluate([("photos/3.png", {"red": 1})])


def test_zeros_and_ones_are_numbers_where_the_task_says_so(table, pretrained):
    frame = pd.read_csv(table).assign(bright=lambda rows: (rows["red"] > 50).astype(int))
    with pytest.raises(DataError, match=r"has 15.* in red, neither 0 nor 1\nfix: .*--task regress"):
        zoo.load(pretrained, "cpu").finetune(frame, label="red,bright")
    model = zoo.load(pretrained, "cpu").finetune(
        frame, label="red,bright", task="regress", l2=0.01, strategy="probe", quiet=True
    )
    assert model.task.labels == ("red", "bright")
    frame.loc[7, "red"] = np.nan
    with pytest.raises(DataError, match=r"row 8 of .* has no value in red, no finite number"):
        zoo.load(pretrained, "cpu").finetune(frame, label="red,bright", task="regress")
