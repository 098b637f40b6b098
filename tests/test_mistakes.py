"""The mistakes, confused classes and scores of each label that a task reports, and how `zoo evaluate` shows them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pictures
import pytest
import torch
from commands import run
from PIL import Image

import zoo
from zoo.cli import evaluate
from zoo.data.examples import Examples
from zoo.errors import RecipeError
from zoo.finetune.inference import Outputs
from zoo.model.measurement import Measurement
from zoo.tasks import KINDS, Classify, Mistake
from zoo.tasks.regress import Regress


def test_misclassified_examples_come_highest_loss_first():
    outputs = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 3.0]])
    found = Classify(("a", "b")).mistakes(["w", "x", "y", "z"], outputs, torch.tensor([1, 1, 1, 1]))
    assert [(mistake.index, mistake.input, mistake.truth, mistake.answer) for mistake in found] == [
        (2, "y", "b", "a"),
        (0, "w", "b", "a"),
    ]
    assert found[0].probability == pytest.approx(1 / (1 + 2.718281828**-3))
    assert found[0].loss == pytest.approx(3.0486, abs=1e-4)


def test_multilabel_mistakes_name_both_sets_and_the_surest_wrong_decision():
    task = KINDS["multilabel"](("a", "b", "c"))
    outputs, targets = torch.tensor([[2.0, -2.0, 1.0], [3.0, -3.0, -3.0]]), torch.tensor([[1.0, 1, 0], [1, 0, 0]])
    (mistake,) = task.mistakes(["x", "y"], outputs, targets)
    assert (mistake.truth, mistake.answer) == (("a", "b"), ("a", "c"))
    assert mistake.probability == pytest.approx(0.8808, abs=1e-4)  # that b is absent
    assert task.per_class(outputs, targets)["a"] == {"precision": 1, "recall": 1, "f1": 1, "support": 2}


def test_numbers_come_largest_error_first_in_their_own_unit():
    outputs, targets = torch.tensor([[0.0], [1.0], [0.5]]), torch.tensor([[0], [0], [0.5]])
    found = Regress((10.0,), (2.0,)).mistakes(["x", "y", "z"], outputs, targets)
    assert [(m.input, m.truth, m.answer, m.probability, m.loss) for m in found] == [("y", 10.0, 12.0, None, 2.0)]


def test_wrong_words_and_the_f1_of_each_kind_of_entity():
    task = KINDS["tag"].of([("O", "B-PER", "B-LOC")])
    at = {label: index for index, label in enumerate(task.labels)}
    truths = [["B-PER", "O"], ["O", "B-LOC"]]
    answers = [["B-PER", "O"], ["O", "B-PER"]]
    targets = [torch.tensor([at[tag] for tag in row]) for row in truths]
    outputs = [5.0 * torch.nn.functional.one_hot(torch.tensor([at[tag] for tag in row]), 3) for row in answers]
    (mistake,) = task.mistakes([["Ann", "sings"], ["in", "Rome"]], outputs, targets)
    assert (mistake.index, mistake.truth, mistake.answer) == (1, ("Rome/B-LOC",), ("Rome/B-PER",))
    scores = task.per_class(outputs, targets)
    assert scores["PER"] == {"precision": 0.5, "recall": 1, "f1": pytest.approx(2 / 3), "support": 1}
    assert scores["LOC"] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
    assert ("B-LOC", "B-PER", 1) in task.confusion(outputs, targets)


def test_confusion_of_thousands_of_classes_holds_only_pairs_that_occur():
    task = Classify(tuple(range(50_000)))
    outputs = torch.zeros(3, 50_000)
    outputs[:, 7] = 1
    assert task.confusion(outputs, torch.tensor([7, 9, 9])) == [(7, 7, 1), (9, 7, 2)]


def test_tasks_without_classes_or_labels_say_so():
    with pytest.raises(RecipeError, match="confusion matrix needs one class"):
        Regress((0.0,), (1.0,)).confusion(None, None)
    with pytest.raises(RecipeError, match="no labels, so no example is wrong"):
        KINDS["masked-lm"]().mistakes([], None, None)


@pytest.fixture
def shuffled(pretrained) -> Path:
    """A folder of pictures in which two of three green ones are called red."""
    root = pictures.folder(Path("shuffled"), 3)
    for file in sorted((root / "green").iterdir())[:2]:
        file.rename(root / "red" / file.name)
    return root


def test_evaluate_names_the_wrong_files(pretrained, shuffled):
    out = run("evaluate", pretrained, shuffled, "--errors", "errors.csv", "--confusion")
    assert "red       0      2    3" in out
    assert "2 of 9 wrong, worst first -> errors.csv" in out
    with open("errors.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["input"] for row in rows} == {f"shuffled/red/{number:03}.png" for number in (3, 4)}
    assert {(row["truth"], row["answer"]) for row in rows} == {("red", "green")}


def test_many_classes_are_shown_as_pairs_and_written_beside_the_errors(pretrained, shuffled, monkeypatch):
    monkeypatch.setattr(evaluate, "FEW_CLASSES", 2)
    out = run("evaluate", pretrained, shuffled, "--errors", "errors.jsonl", "--confusion")
    assert "      2  red taken for green" in out
    assert json.loads(Path("errors.confusion.jsonl").read_text()) == {"truth": "red", "answer": "green", "count": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--errors", "errors.xls"), "--errors errors.xls has none of the suffixes .csv, .jsonl, .parquet"),
        (("--errors", "nowhere/errors.csv"), "the folder nowhere does not exist"),
        (("--errors", "old.csv"), "old.csv exists already"),
    ],
)
def test_file_that_cannot_be_written_is_an_error_before_the_model_is_loaded(isolated, arguments, message):
    Path("old.csv").write_text("kept")
    assert f"error: {message}" in run("evaluate", "no-model", "no-data", *arguments, code=1)
    assert [path.name for path in isolated.iterdir()] == ["old.csv"]
    assert Path("old.csv").read_text() == "kept"


def test_errors_in_python(pretrained):
    model = zoo.load(pretrained, "cpu")
    (mistake,) = model.errors([(pictures.array("red", 1), "blue"), (pictures.array("red", 2), "red")])
    assert (mistake.index, mistake.truth, mistake.answer) == (0, "blue", "red")
    report = model.measure(pictures.pairs(2))
    assert (len(report), report.errors, set(report.intervals)) == (6, [], {"accuracy"})


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_mistakes_of_every_task_are_written(isolated, suffix):
    cases = (
        (Classify((1, "b")), Mistake(0, Path("a.png"), 1, "b", 0.9, 2.0), "1", "b", "a.png"),
        (KINDS["multilabel"](("a", 2)), Mistake(1, ("a text", "another"), ("a", 2), (), 0.9, 2.0), "a|2", "", None),
        (Regress((0.0,), (1.0,)), Mistake(2, b"", 1.5, 2.0, None, 0.5), "1.5", "2.0", "image 2"),
        (
            KINDS["tag"](("O",)),
            Mistake(3, ["in", "Rome\n"], ("Rome/O",), ("Rome/B",), 0.9, 2.0),
            "Rome/O",
            "Rome/B",
            None,
        ),
    )
    for number, (task, mistake, truth, answer, name) in enumerate(cases):
        file = Path(f"{number}{suffix}")
        evaluate._write(file, task, [mistake])
        if suffix != ".csv":
            assert file.stat().st_size > 0
            continue
        with file.open(newline="") as lines:
            (row,) = csv.DictReader(lines)
        assert (row["index"], row["truth"], row["answer"]) == (str(number), truth, answer)
        assert row["input"] == name or name is None


def test_a_result_no_better_than_the_majority_class_is_said(pretrained, isolated):
    other = {"red": "green", "green": "blue", "blue": "red"}
    for label in other:
        Path("wrong", other[label]).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(pictures.array(label, number)).save(f"wrong/{other[label]}/{number}.png")
    said = run("evaluate", pretrained, "wrong", "--device", "cpu")
    assert "warning   no better than ignoring the inputs (majority class 0.333): --errors shows where it fails" in said
    pictures.folder(isolated / "right", 3)
    assert "warning" not in run("evaluate", pretrained, "right", "--device", "cpu")


def test_shown_mistakes_control_no_terminal(capsys):
    report = Measurement(Classify(("a", "b")), Examples(["x"], ["a"], "one"), Outputs(None, None), {})
    mistake = Mistake(0, "a\x1b[31m\nmail " + "x" * 500, "\x1b[1m", "b", 0.5, 1.0)
    evaluate._show_errors(report, [mistake], Path("errors\n.csv"))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 3
    assert max(map(len, out.splitlines())) < 120
