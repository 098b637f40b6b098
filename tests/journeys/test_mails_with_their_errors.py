"""Journey: mails classified, measured, and their errors read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import words
from commands import run

import zoo

DATA = words.reviews(80)
HELD = words.reviews(60, seed=5)


def folder(name: str, rows: list[tuple[str, str]]) -> str:
    for number, (text, label) in enumerate(rows):
        Path(name, label).mkdir(parents=True, exist_ok=True)
        Path(name, label, f"{number:03}.eml").write_text(text)
    return name


@pytest.fixture
def net(distribution, tmp_path) -> str:
    return words.pretrained(distribution, tmp_path / "weights")


def test_mails_with_their_errors(net):
    mails, held = folder("mails", DATA), folder("held", HELD)
    out = run("finetune", net, mails, "--out", "runs/probe", "--strategy", "probe", "--set", "l2=0.001")
    assert "result    accuracy 0.875 [0.640, 0.965], macro-F1 0.875   (majority class 0.500)" in out

    model = zoo.load("runs/probe")
    answers = [answer.label for answer in model.predict([text for text, _ in HELD])]
    wrong = {(text, label, answer) for (text, label), answer in zip(HELD, answers, strict=True) if answer != label}
    good_for_bad = sum(answer == "good" for _, _, answer in wrong)
    out = run("evaluate", "runs/probe", held, "--errors", "errors.csv", "--confusion")
    assert f"accuracy  {1 - len(wrong) / 60:.4f}  [0.8193, 0.9639]" in out
    assert "(60 examples, majority class 0.500; in brackets: 95 % confidence interval, Wilson's)" in out
    assert f"bad  {30 - good_for_bad:>4}  {good_for_bad:>4}" in out
    assert f"{len(wrong)} of 60 wrong, worst first -> errors.csv" in out
    with open("errors.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(Path(row["input"]).read_text(), row["truth"], row["answer"]) for row in rows} == wrong
    assert all(Path(row["input"]).parent == Path("held", row["truth"]) for row in rows)
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True)

    found = model.errors(held)
    assert [(str(mistake.input), mistake.index) for mistake in found] == [(r["input"], int(r["index"])) for r in rows]
    assert found[0].probability == pytest.approx(float(rows[0]["probability"]))

    document = json.loads(run("evaluate", "runs/probe", held, "--errors", "errors.jsonl", "--confusion", "--json"))
    assert document["wrong"] == len(wrong)
    assert sum(count for _, _, count in document["confusion"]) == 60
    assert set(document["intervals"]) == {"accuracy"}
    assert len(Path("errors.jsonl").read_text().splitlines()) == len(wrong)
