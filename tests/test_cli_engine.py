"""zoo finetune, predict and list: test sets, leaks, --resume, options, printed labels, closed pipes."""

from __future__ import annotations

import json
import subprocess
import sys

import pictures
from click.testing import CliRunner

from zoo.cli import main

BASE = [
    "--strategy",
    "full",
    "--set",
    "steps=4",
    "--set",
    "evals=2",
    "--set",
    "batch_size=8",
]
LABELS = (("red", "warm|bright"), ("green", "bright"), ("blue", "cold"))


def test_test_metrics_are_in_the_json_output_and_the_model_card(pretrained, isolated):
    pictures.folder(isolated / "colours", 8)
    done = CliRunner().invoke(main, ["finetune", str(pretrained), "colours", *BASE, "--test", "0.25", "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert set(document["test"]) == set(document["metrics"])
    card = (isolated / document["out"] / "README.md").read_text()
    assert "| metric | on 6 test examples |" in card
    assert "validation examples |" in card


def test_validation_duplicates_of_training_images_are_reported(pretrained, isolated):
    pictures.folder(isolated / "colours", 6)
    pictures.folder(isolated / "held", 2)  # the first two images of each class again
    done = CliRunner().invoke(main, ["finetune", str(pretrained), "colours", *BASE, "--valid", "held"])
    assert done.exit_code == 0, done.output
    assert "leak      6 of 6 validation examples have a near-duplicate in the training data" in done.output
    assert "6 of them identical" in done.output
    (card,) = (isolated / "runs").glob("*/README.md")
    assert "6 validation examples have a near-duplicate" in card.read_text()


def test_resume_without_a_checkpoint_starts_a_new_run(pretrained, isolated):
    pictures.folder(isolated / "colours", 6)
    done = CliRunner().invoke(main, ["finetune", str(pretrained), "colours", *BASE, "--resume"])
    assert done.exit_code == 0, done.output
    assert "steps are done" not in done.output


def test_lr_epochs_and_batch_size_are_options(pretrained, isolated):
    pictures.folder(isolated / "colours", 8)
    options = ["--strategy", "full", "--lr", "0.001", "--epochs", "2", "--batch-size", "6"]
    done = CliRunner().invoke(main, ["finetune", str(pretrained), "colours", *options, "--out", "m"])
    assert done.exit_code == 0, done.output
    recipe = json.loads((isolated / "m" / "zoo.json").read_text())["recipe"]
    assert (recipe["lr"], recipe["steps"], recipe["batch_size"]) == (0.001, 6, 6)  # 18 training images


def test_valid_share_beside_a_validation_folder_is_reported_as_unused(pretrained, isolated):
    pictures.folder(isolated / "data" / "train", 4)
    pictures.folder(isolated / "data" / "valid", 2, seed=1)
    done = CliRunner().invoke(main, ["finetune", str(pretrained), "data", *BASE, "--valid", "0.4"])
    assert "valid     valid=0.4 is not used: data/train comes with validation data, data/valid" in done.output
    assert "data/train: 12 images, 3 classes -> classify; validation on data/valid, 6" in done.output


def test_predicted_labels_of_a_multilabel_model_are_printed(pretrained, isolated):
    folder = pictures.folder(isolated / "p", 3)
    paths = {colour: sorted(folder.glob(f"{colour}/*.png")) for colour, _ in LABELS}
    rows = [f"{path},{label}" for colour, label in LABELS for path in paths[colour]]
    (isolated / "data.csv").write_text("\n".join(["image,label", *rows]))
    options = ["--task", "multilabel", "--strategy", "probe", "--valid", "0", "--out", "m"]
    assert CliRunner().invoke(main, ["finetune", str(pretrained), "data.csv", *options]).exit_code == 0
    shown = CliRunner().invoke(main, ["predict", "m", *(str(paths[colour][0]) for colour, _ in LABELS)]).output
    assert [line.split("  ")[-1].strip() for line in shown.splitlines()] == ["bright warm", "bright", "cold"]
    ranked = CliRunner().invoke(main, ["predict", "m", str(paths["red"][0]), "--top", "2"]).output
    assert "  bright " in ranked
    assert "  warm " in ranked


def test_closed_pipe_ends_quietly():
    command = f"{sys.executable} -m zoo list | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("name")
