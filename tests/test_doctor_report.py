"""The doctors on a real run of a tiny net: findings of planted faults, and the round of fixes.csv."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from pathlib import Path

import pictures
import pytest
import torch
import words
from click.testing import CliRunner
from PIL import Image

import zoo
from zoo.cli import main
from zoo.data.examples import Examples
from zoo.data.fixes import apply, read
from zoo.errors import DataError
from zoo.evidence.report import facts
from zoo.evidence.report.doctor import fixes
from zoo.evidence.report.doctor.diagnosis import CONFIDENCE, KINDS, diagnose
from zoo.evidence.report.doctor.examination import Examination
from zoo.model.model import Model


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder of photos with a mislabelled copy and a blank image, and a model fine-tuned on it."""
    root = tmp_path_factory.mktemp("doctor")
    pictures.folder(root / "photos", 10)
    shutil.copy(root / "photos" / "red" / "020.png", root / "photos" / "blue" / "copy.png")
    Image.new("RGB", (16, 16), "white").save(root / "photos" / "green" / "blank.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("ZOO_HOME", str(root / "store"))
        patch.setenv("ZOO_CONFIG_HOME", str(root / "config"))
        model = zoo.load(pictures.catalogue(root), "cpu")
        model.finetune("photos", strategy="scratch", steps=20, quiet=True)
        model.save(root / "model")
    return root


@pytest.fixture
def model(home, monkeypatch) -> Model:
    monkeypatch.chdir(home)
    monkeypatch.setenv("ZOO_HOME", str(home / "store"))
    monkeypatch.setenv("ZOO_CONFIG_HOME", str(home / "config"))
    return zoo.load(home / "model", "cpu")


def test_findings_are_ranked_and_about_planted_faults(model):
    collected = facts.collect(model)
    found = diagnose(collected)
    names: dict[str, set[str]] = {}
    for finding in found:
        inputs = [collected.parts[item.part].whole.examples.inputs[item.index] for item in finding.items]
        names[finding.kind] = {path.name for path in inputs}
    assert names["conflicting-labels"] == {"020.png", "copy.png"}
    assert names["blank"] == {"blank.png"}
    order = [(CONFIDENCE.index(one.confidence), KINDS.index(one.kind)) for one in found]
    assert order == sorted(order)
    assert all(one.what and one.evidence and one.fix for one in found)
    assert found == diagnose(collected)
    commands = {one.fix[one.fix.index("zoo finetune") :] for one in found if "zoo finetune" in one.fix}
    for command in sorted(one for one in commands if "--fixes" not in one):
        done = CliRunner().invoke(main, [*shlex.split(command)[1:], "--dry-run"])
        assert done.exit_code == 0, (command, done.output)


@pytest.mark.parametrize(("second", "conflicts"), [(10.1, 0), (19.0, 2)])
def test_copies_contradict_each_other_where_their_numbers_are_far_apart(model, second, conflicts):
    images = [image for image, _ in pictures.pairs(7)]
    data = [(image, float(number)) for number, image in enumerate(images)] + [(images[10], second)]
    model.finetune(data, task="regress", strategy="probe", l2=1.0, quiet=True)
    found = [finding for finding in diagnose(facts.collect(model, data)) if finding.kind == "conflicting-labels"]
    assert sum(len(finding.items) for finding in found) == conflicts


def test_fixes_are_written_edited_and_applied(model, home):
    target = home / "fixes.csv"
    done = CliRunner().invoke(main, ["report", "model", "--out", "r.html", "--fixes", "fixes.csv", "--json"])
    assert done.exit_code == 0, done.output
    assert {"conflicting-labels", "blank"} <= {one["kind"] for one in json.loads(done.stdout)["findings"]}
    rows = {row["input"]: row for row in csv.DictReader(target.open())}
    assert rows["green/blank.png"]["action"] == "drop"
    assert rows["blue/copy.png"]["action"] == ""
    assert "conflicting-labels" in rows["blue/copy.png"]["reason"]
    rows["blue/copy.png"] |= {"action": "relabel", "suggested": "red"}
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, next(iter(rows.values())))
        writer.writeheader()
        writer.writerows(rows.values())
    again = zoo.load("tiny/net", "cpu").finetune("photos", strategy="scratch", steps=2, fixes="fixes.csv", quiet=True)
    assert (again.summary.train + again.summary.valid, again.training["fixes"]["dropped"]) == (31, 1)
    assert again.summary.fingerprint != model.summary.fingerprint
    again.save(home / "fixed")
    target.unlink()  # what was decided is in the saved model
    found = facts.collect(zoo.load(home / "fixed", "cpu"))
    assert sum(map(len, found.parts.values())) == 31
    assert not {"conflicting-labels", "blank"} & {finding.kind for finding in diagnose(found)}
    zoo.report(home / "fixed", out="f.html", fixes="second.csv")
    with (home / "second.csv").open() as file:
        kept = [row for row in csv.DictReader(file) if row["action"]]
    assert {row["input"]: row["action"] for row in kept} == {"blue/copy.png": "relabel", "green/blank.png": "drop"}


def test_a_table_of_fixes_is_not_replaced(model, home):
    (home / "own.csv").write_text("mine")
    with pytest.raises(DataError, match=r"own\.csv exists already"):
        zoo.report(model, fixes="own.csv", out="r.html")
    assert (home / "own.csv").read_text() == "mine"


def several_labels(count: int) -> tuple[list, set[int]]:
    """Return texts with two labels each, and those of which one was taken away."""
    data = [(text, ("all", label)) for text, label in words.reviews(count)]
    planted = {7, 31, 58}
    return [(text, ("all",) if i in planted else names) for i, (text, names) in enumerate(data)], planted


def tags(count: int) -> tuple[list, set[int]]:
    """Return lists of words with tags, and those of which one tag was changed."""
    texts = [text.split() for text, _ in words.reviews(count)]
    data = [(text, ["GOOD" if word in words.GOOD else "O" for word in text]) for text in texts]
    planted = set()
    for number, (_, names) in enumerate(data[5::19]):
        if "GOOD" in names:
            names[names.index("GOOD")] = "O"
            planted.add(5 + 19 * number)
    return [(text, tuple(names)) for text, names in data], planted


@pytest.mark.parametrize(("task", "planted"), [("multilabel", several_labels), ("tag", tags)])
def test_wrong_labels_of_several_and_of_words_are_found_and_fixed(task, planted, distribution, isolated):
    data, wrong = planted(80)
    assert wrong
    model = zoo.load(words.pretrained(distribution, isolated / "weights"), "cpu")
    model.finetune(data, task=task, valid=0.3, strategy="probe", l2=1e-4, quiet=True)
    collected = facts.collect(model, data)
    findings = diagnose(collected)
    (finding,) = [one for one in findings if one.kind == "label-issues"]
    inputs = [collected.parts[item.part].whole.examples.inputs[item.index] for item in finding.items]
    places = {next(i for i, (text, _) in enumerate(data) if text == item) for item in inputs}
    assert wrong <= places
    assert len(places) <= 2 * len(wrong) + 2
    fixes.write(isolated / "fixes.csv", collected, findings)
    rows = list(csv.DictReader((isolated / "fixes.csv").open()))
    chosen = [row | {"action": "relabel"} for row in rows if "label-issues" in row["reason"] and row["suggested"]]
    examples = Examples([text for text, _ in data], [names for _, names in data], "memory")
    (changed,), applied = apply(read(chosen), [examples])
    assert applied.relabelled >= len(wrong)
    assert all(changed.labels[i] != examples.labels[i] for i in wrong)


def test_features_of_a_backbone_that_was_fine_tuned_before_the_probe_are_not_blind(distribution, isolated):
    model = zoo.load(words.pretrained(distribution, isolated / "weights"), "cpu")
    data = words.reviews(24)
    probe = {"strategy": "probe", "l2": 1e-2, "quiet": True}
    model.finetune(data, **probe)
    first = Examination(facts.collect(model, data))
    assert torch.equal(first.pooled["train"], first.parts["train"].features)
    model.finetune(data, strategy="full", steps=2, lr=0.01, quiet=True).finetune(data, **probe)
    again = Examination(facts.collect(model, data))
    assert first.is_blind
    assert again.is_blind  # by the pretrained weights, which are at hand
    assert torch.equal(again.pooled["train"], first.pooled["train"])
    assert not torch.equal(again.pooled["train"], again.parts["train"].features)


def test_what_a_small_test_part_cannot_show_is_said_last(model, home, tmp_path):
    other = pictures.folder(tmp_path / "other", 7, seed=5)
    found = diagnose(facts.collect(model, other))
    assert [one.kind for one in found].index("undetectable") == len(found) - 1
    assert "drift of the test data" in found[-1].what
    assert "80% power" in found[-1].evidence
