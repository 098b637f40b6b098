"""Journey: real mails classified by MiniLM, measured, and their errors read from a file."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from zoo.cli import main

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import real_data

pytestmark = pytest.mark.real
MINILM = "hf/sentence-transformers/all-MiniLM-L6-v2"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_mails_with_their_errors(hub):
    train, held = real_data.mail_split()
    for name, rows in (("mails.csv", train[:200]), ("held.csv", held[:300])):
        with open(name, "w", newline="", errors="backslashreplace") as file:
            csv.writer(file).writerows([("text", "label"), *rows])
    out = run("finetune", MINILM, "mails.csv", "--strategy", "probe", "--set", "max_length=64", "--folds", "4")
    print(out)
    assert "mean of 4 folds, majority class" in out
    out = run("evaluate", "runs/mails-all-MiniLM-L6-v2", "held.csv", "--errors", "errors.csv", "--confusion")
    print(out)
    with open("errors.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    (accuracy,) = [line.split() for line in out.splitlines() if line.startswith("accuracy")]
    assert len(rows) == round(300 * (1 - float(accuracy[1])))
    assert float(accuracy[1]) > 0.85
    truths = dict(held[:300])
    assert all(row["truth"] == truths[row["input"]] != row["answer"] for row in rows)
    assert float(rows[0]["probability"]) > 0.5
    (saved,) = json.loads(run("runs", "--json"))
    low, high = saved["intervals"].get("valid", {}).get("accuracy", (0.0, 1.0))
    assert low <= float(accuracy[1]) <= high
