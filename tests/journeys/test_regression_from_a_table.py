"""Journey: a number for each photo, from a table of paths, with the photos of one site kept together."""

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


@pytest.fixture
def table() -> Path:
    """A table of 48 grey photos of 12 sites: path, site, date, brightness in whole numbers."""
    Path("photos").mkdir()
    rows = []
    for number in range(48):
        level = 20 + 4 * number
        Image.fromarray(np.full((16, 16, 3), level, dtype=np.uint8)).save(f"photos/{number}.png")
        rows.append((f"photos/{number}.png", f"site {number % 12}", f"2020-01-{number % 28 + 1:02}", level))
    with open("photos.csv", "w", newline="") as file:
        csv.writer(file).writerows([("photo_path", "site", "date", "brightness"), *rows])
    return Path("photos.csv")


def test_regression_from_a_table(table, pretrained):
    start = ("finetune", pretrained, table, "--device", "cpu")
    assert "cannot infer the label column from: photo_path, site, date, brightness\nfix: name it" in run(*start, code=1)
    classes = (*start, "--label", "brightness", "--out", "classes")
    assert "each class of photos.csv (photo_path -> brightness) has one example only" in run(*classes, code=1)

    regress = (*start, "--label", "brightness", "--task", "regress", "--groups", "site", "--strategy", "probe")
    regress = (*regress, "--set", "l2=0.01")
    assert "no column 'place'; it has photo_path" in run(*regress, "--groups", "place", code=1)
    out = run(*regress, "--out", "run")
    assert "48 images -> regress; 20 % held out for validation (seed 0, whole groups)" in out
    assert "recipe    l2 0.01, seed 0" in out

    model = zoo.load("run")
    assert model.metrics["r2"] > 0.9
    assert json.loads(run("evaluate", "run", table, "--label", "brightness", "--json"))["metrics"]["r2"] > 0.9

    frame = pd.read_csv(table)
    other = zoo.load(pretrained, "cpu")
    other.finetune(frame["photo_path"], frame["brightness"].astype(float), strategy="probe", l2=0.01, quiet=True)
    assert other.task.name == "regress"
    assert abs(other.predict("photos/20.png").label - 100) < 30


def test_many_whole_numbers_are_questioned(table, pretrained, capsys):
    frame = pd.concat([pd.read_csv(table)] * 2)
    zoo.load(pretrained, "cpu").finetune(frame, label="brightness", strategy="probe", l2=0.1)
    asked = "task      48 whole-number classes, from 20 to 208; if they are quantities: --task regress"
    assert asked in capsys.readouterr().out
