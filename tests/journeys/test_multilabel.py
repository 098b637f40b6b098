"""Journey: any number of labels for each photo, as columns of zeros and ones, cells with several, or arrays."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pictures
import pytest
from commands import run
from PIL import Image

import zoo

NAMES = ("blue", "green", "red")
SETS = [(), ("blue",), ("green",), ("red",), ("blue", "red"), ("green", "red")]


def photo(labels: tuple[str, ...], seed: int) -> np.ndarray:
    """Return a photo with a stripe for each label, grey elsewhere."""
    stripes = [pictures.array(name if name in labels else "grey", seed + k, (16, 6)) for k, name in enumerate(NAMES)]
    return np.concatenate(stripes, axis=1)[:, :16]


@pytest.fixture
def tables() -> tuple[Path, Path]:
    """The same photos with a column of zeros and ones for each label, and with all labels in one cell."""
    Path("photos").mkdir()
    hot, cells = [("filename", *NAMES)], [("filename", "tags")]
    for number in range(36):
        labels = SETS[number % len(SETS)]
        Image.fromarray(photo(labels, 10 * number)).save(f"photos/{number}.png")
        hot.append((f"photos/{number}.png", *(int(name in labels) for name in NAMES)))
        cells.append((f"photos/{number}.png", "|".join(labels)))
    for name, rows in (("hot.csv", hot), ("cells.csv", cells)):
        with open(name, "w", newline="") as file:
            csv.writer(file).writerows(rows)
    return Path("hot.csv"), Path("cells.csv")


def test_multilabel(tables, pretrained):
    hot, cells = tables
    start = ("finetune", pretrained, "--device", "cpu", "--strategy", "probe", "--set", "l2=0.01")
    out = run(*start, hot, "--label", "blue,green,red", "--out", "hot")
    assert "36 images, 3 labels -> multilabel" in out
    said = run(*start, cells, "--out", "none", code=1)
    assert "cells.csv:2 has no value in tags" in said
    assert "--task multilabel" in said
    out = run(*start, cells, "--task", "multilabel", "--out", "cells")
    assert "36 images, 3 labels -> multilabel" in out

    scores = [
        json.loads(run("evaluate", folder, data, "--json"))
        for folder, data in zip(("hot", "cells"), tables, strict=True)
    ]
    assert scores[0]["metrics"] == scores[1]["metrics"]
    assert scores[0]["metrics"]["map"] > 0.7

    model = zoo.load(pretrained, "cpu")
    photos = [photo(SETS[n % len(SETS)], 10 * n) / 255 for n in range(36)]  # floats in [0, 1]
    targets = np.array([[name in SETS[n % len(SETS)] for name in NAMES] for n in range(36)], dtype=int)
    model.finetune(photos, targets, strategy="probe", l2=0.01, quiet=True)
    assert model.task.labels == (0, 1, 2)
    assert model.task.name == "multilabel"
