"""Journey: mails classified, measured, and their errors read; two runs compared."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import words
from click.testing import CliRunner

import zoo
from zoo.cli import main

DATA = words.reviews(80)
HELD = words.reviews(60, seed=5)


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def table(name: str, rows: list[tuple[str, str]]) -> str:
    with open(name, "w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return name


@pytest.fixture
def net(distribution, tmp_path) -> str:
    return words.pretrained(distribution, tmp_path / "weights")


def test_mails_with_their_errors(net):
    mails, held = table("mails.csv", DATA), table("held.csv", HELD)
    out = run("finetune", net, mails, "--out", "runs/probe", "--strategy", "probe")
    assert "result    accuracy 0.750 [0.505, 0.898], macro-F1 0.750   (majority class 0.500)" in out

    model = zoo.load("runs/probe")
    answers = [answer.label for answer in model.predict([text for text, _ in HELD])]
    wrong = {(text, label, answer) for (text, label), answer in zip(HELD, answers, strict=True) if answer != label}
    good_for_bad = sum(answer == "good" for _, _, answer in wrong)
    out = run("evaluate", "runs/probe", held, "--errors", "errors.csv", "--confusion")
    assert f"accuracy  {1 - len(wrong) / 60:.4f}  0.7" in out
    assert "(60 examples; to: 95 % confidence interval, Wilson's score interval)" in out
    assert f"bad  {30 - good_for_bad:>4}  {good_for_bad:>4}" in out
    assert f"{len(wrong)} of 60 wrong, worst first -> errors.csv" in out
    with open("errors.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["input"], row["truth"], row["answer"]) for row in rows} == wrong
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True)

    found = model.errors(held)
    assert [(mistake.input, mistake.index) for mistake in found] == [(r["input"], int(r["index"])) for r in rows]
    assert found[0].probability == pytest.approx(float(rows[0]["probability"]))

    document = json.loads(run("evaluate", "runs/probe", held, "--errors", "errors.jsonl", "--confusion", "--json"))
    assert document["wrong"] == len(wrong)
    assert sum(count for _, _, count in document["confusion"]) == 60
    assert set(document["intervals"]) == {"accuracy"}
    assert len(Path("errors.jsonl").read_text().splitlines()) == len(wrong)


def test_two_runs_compared(net):
    mails = table("mails.csv", DATA)
    for strategy, *options in (("probe",), ("full", "--set", "steps=4", "--seed", "1")):
        run("finetune", net, mails, "--out", f"runs/{strategy}", "--strategy", strategy, *options)
    Path("runs/full/zoo.json").touch()  # the newest
    listed = run("runs").splitlines()
    assert [line.split()[0] for line in listed] == ["model", "runs/full", "runs/probe", "2"]
    assert "accuracy 0.750 [0.505, 0.898]" in listed[2]

    compared = run("runs", "runs/probe", "runs/full")
    rows = dict(line.split(maxsplit=1) for line in compared.partition("differs")[2].splitlines() if line[:1].strip())
    assert rows["strategy"].split() == ["probe", "full"]
    assert "the validation data differ" in compared  # another seed holds out other examples

    documents = json.loads(run("runs", "--json"))
    assert [row["folder"] for row in documents] == ["runs/full", "runs/probe"]
    one = json.loads(run("info", "runs/probe", "--json"))
    assert one == documents[1]
    assert one["intervals"]["valid"]["accuracy"] == pytest.approx([0.505, 0.898], abs=1e-3)
    shown = run("info", "runs/probe")
    assert "validation     accuracy 0.750 [0.505, 0.898]" in shown
    assert "zoo predict runs/probe INPUT" in shown
