"""zoo.model.restore: heads of any floating-point type, and labels that a file system or a table can hold."""

from __future__ import annotations

import json

import pictures
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import zoo
from zoo import tasks
from zoo.cli import main
from zoo.errors import ArtefactError
from zoo.finetune.heads import restored_head
from zoo.plugin import Backbone, ImageInput

BACKBONE = Backbone(torch.nn.Identity(), 4, ImageInput(8, (0.5,), (0.5,)), ())
TASK = tasks.from_dict({"name": "classify", "labels": ["a", "b"]})
HEAD = {"head.weight": torch.ones(2, 4), "head.bias": torch.zeros(2)}


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_a_head_is_restored_in_float32(kind):
    head = restored_head(BACKBONE, TASK, {name: tensor.to(kind) for name, tensor in HEAD.items()})
    assert torch.equal(head(torch.ones(1, 4)), torch.full((1, 2), 4.0))


@pytest.mark.parametrize(
    "change",
    [
        {"head.weight": torch.ones(2, 4, dtype=torch.int64)},
        {"head.weight": torch.ones(2, 4, dtype=torch.complex64)},
        {"head.bias": torch.tensor([0.0, float("nan")])},
        {"head.bias": torch.zeros(3)},
        {"head.more": torch.zeros(3)},
        {"more": torch.zeros(3)},
    ],
)
def test_a_head_that_does_not_fit_raises(change):
    with pytest.raises(ValueError, match=r"head|more"):
        restored_head(BACKBONE, TASK, HEAD | change)


@pytest.mark.parametrize(
    "saved",
    [
        {"name": "classify", "labels": "ab"},
        {"name": "classify", "labels": ["a", None]},
        {"name": "classify", "labels": [["a"], ["b"]]},
        {"name": "classify", "labels": ["a", "a"]},
        {"name": "classify", "labels": [1, True]},
        {"name": "classify", "labels": []},
        {"name": "causal-lm", "labels": ["a"]},
        {"name": "regress", "labels": ["value"], "mean": [0.0], "std": [0.0]},
        {"name": "regress", "labels": ["value"], "mean": [float("nan")], "std": [1.0]},
        {"name": "regress", "labels": ["a", "b"], "mean": [0.0], "std": [1.0]},
        {"name": "regress", "labels": ["a", "b"], "mean": [0.0, 0.0], "std": [1.0]},
        {"name": "regress", "labels": [1], "mean": [0.0], "std": [1.0]},
    ],
)
def test_a_damaged_task_raises(saved):
    with pytest.raises(ValueError):  # noqa: PT011  # restore() names the file
        tasks.from_dict(saved)


@pytest.mark.parametrize("labels", [(10**20, 10**21), ("caf\udce9", "\ud800"), ("\x1b[2J", "a\nb")])
def test_any_label_is_saved_and_predicted(isolated, labels):
    names = dict(zip(("blue", "red"), labels, strict=True))
    data = [(image, names[colour]) for image, colour in pictures.pairs(4, ("blue", "red"))]
    model = zoo.load(pictures.catalogue(isolated), "cpu").finetune(
        data, strategy="scratch", steps=1, valid=0, out="model"
    )
    again = zoo.load("./model", "cpu")
    assert again.task.labels == model.task.labels == tuple(sorted(labels))
    assert again.predict([data[0][0]])[0].label in labels
    Image.fromarray(data[0][0]).save("one.png")
    result = CliRunner().invoke(main, ["predict", "model", "one.png", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)[0]["label"] in labels


def test_a_label_that_is_too_long_to_save_raises_before_training(isolated, capsys):
    data = [(image, 10**2000 if label == "red" else 0) for image, label in pictures.pairs(4, ("blue", "red"))]
    with pytest.raises(ArtefactError, match=r"has more than 300 digits\nfix: rename the labels"):
        zoo.load(pictures.catalogue(isolated), "cpu").finetune(data, strategy="scratch", steps=1, valid=0, out="model")
    assert "tune" not in capsys.readouterr().out
    assert not (isolated / "model").exists()
