"""zoo finetune: output with a test set, with leaked validation data and with --resume."""

from __future__ import annotations

import json

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
    "--set",
    "autotune=false",
]


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
