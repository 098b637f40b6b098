"""End-to-end runs on real data: digits, photos of any size with alpha, Fashion-MNIST; from package indexes."""

from __future__ import annotations

import csv
import json
import random
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import zoo

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import real_data

pytestmark = pytest.mark.real
LETTERS = "native/resnet14.letters"


def run(*arguments: object) -> dict:
    """Run the installed command with --json in a subprocess and return the parsed output."""
    command = [str(Path(sys.executable).with_name("zoo")), *map(str, arguments), "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_transfer_beats_scratch_on_real_digits_at_every_size(tmp_path):
    result = run("demo", "--out", tmp_path / "demo.png")
    for row in result["rows"]:
        gain = row["full"]["mean"] - row["scratch"]["mean"]
        error = (row["scratch"]["std"] ** 2 + row["full"]["std"] ** 2) ** 0.5 / result["seeds"] ** 0.5
        assert gain > (0.2 if row["per_class"] == 1 else error), row
    assert (tmp_path / "demo.png").stat().st_size > 10_000


def test_finetune_evaluate_and_predict_on_photos(tmp_path):
    photos = real_data.photos()
    fields = ["--set", "steps=12", "--set", "batch_size=16", "--set", "evals=2"]
    row = '["real/small"]\nplugin = "native"\nmodality = "image"\noptions = { arch = "resnet14" }\n'
    row += "input = { size = 64, mean = [0.5, 0.5, 0.5], std = [0.25, 0.25, 0.25], crop = 0.875 }\n"
    Path("zoo.toml").write_text(row)
    trained = run("finetune", "real/small", photos, "--out", tmp_path / "model", *fields)
    assert trained["strategy"] == "scratch"
    measured = run("evaluate", tmp_path / "model", photos)
    counts = Counter(path.parent.name for path in photos.glob("*/*.png"))
    assert measured["metrics"]["accuracy"] > max(counts.values()) / sum(counts.values())
    some = [next((photos / name).iterdir()) for name in sorted(counts)[:3]]
    answers = run("predict", tmp_path / "model", *some, "--top", 3)
    assert [answer["input"] for answer in answers] == [str(path) for path in some]
    assert all(label["label"] in counts for answer in answers for label in answer["top"])
    written = run("predict", tmp_path / "model", photos, "--out", tmp_path / "answers.csv")
    assert (written["inputs"], written["errors"]) == (sum(counts.values()), 0)
    with (tmp_path / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    hits = sum(row["label"] == Path(row["input"]).parent.name for row in rows)
    assert hits / len(rows) == pytest.approx(measured["metrics"]["accuracy"])


def test_letters_transfer_worse_to_clothes_than_to_digits():
    """Transfer between unrelated domains is weak: a probe on letters features is worse on clothes than on digits."""
    images, labels, _, _ = real_data.fashion_mnist()
    chosen = random.Random(0).sample(range(len(images)), 400)
    clothes = [(images[i], int(labels[i])) for i in chosen]
    from zoo.model.demo import digits

    pairs = random.Random(0).sample(digits(), 400)
    scores = {}
    for name, data in (("clothes", clothes), ("digits", pairs)):
        found = [zoo.load(LETTERS, "cpu").finetune(data, strategy="probe", seed=s).metrics["accuracy"] for s in (0, 1)]
        scores[name] = statistics.mean(found)
    assert scores["clothes"] < scores["digits"]
    assert scores["clothes"] > 0.5
