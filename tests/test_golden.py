"""Saved models of every format version load and answer as on the day they were saved (tests/golden/)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pictures
import pytest
import torch

import zoo
from zoo.errors import ArtefactError
from zoo.model import artefact

GOLDEN = Path(__file__).with_name("golden")
FORMATS = sorted(GOLDEN.glob("format-*"))
IMAGE = pictures.array("red", 7, (40, 40))
TEXT = "the plot was great and the cast poor"
ANSWERS = {
    "images": lambda model: model.logits([IMAGE])[0],
    "numbers": lambda model: torch.tensor([model.predict(TEXT).label]),
    "tags": lambda model: model.logits([TEXT.split()])[0],
}


@pytest.mark.parametrize("folder", sorted(GOLDEN.glob("*/*/")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_saved_models_of_every_format_answer_as_before(folder):
    expected = json.loads((GOLDEN / "answers.json").read_text())[f"{folder.parent.name}/{folder.name}"]
    found = ANSWERS[folder.name](zoo.load(folder, "cpu"))
    torch.testing.assert_close(found.double(), torch.tensor(expected).double(), atol=1e-4, rtol=0)


def test_every_format_has_golden_models():
    assert [folder.name for folder in FORMATS] == [f"format-{n}" for n in range(1, artefact.FORMAT + 1)]
    for number, folder in enumerate(FORMATS, 1):
        assert {artefact.read(path)["format"] for path in folder.iterdir()} == {number}


def test_a_newer_format_is_refused(tmp_path):
    shutil.copytree(FORMATS[-1] / "images", tmp_path / "model")
    path = tmp_path / "model" / "zoo.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": artefact.FORMAT + 1}))
    with pytest.raises(ArtefactError, match=r"has format 4, but this version reads .* 3\nfix: pip install --upgrade"):
        zoo.load(tmp_path / "model")


def test_transformers_refuses_a_saved_model_instead_of_opening_random_weights():
    from transformers import AutoModelForTokenClassification

    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        AutoModelForTokenClassification.from_pretrained(FORMATS[-1] / "tags")
