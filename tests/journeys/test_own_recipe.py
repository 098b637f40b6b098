"""Journey: a recipe of one's own: names from other libraries, a dry run, an augmentation, callbacks."""

from __future__ import annotations

import json
from pathlib import Path

import pictures
import pytest
import torch
from commands import run

import zoo
from zoo.errors import RecipeError

QUICK = {"strategy": "full", "steps": 6, "evals": 3, "batch_size": 8}
DATA = pictures.pairs(8)


def flip(image: torch.Tensor) -> torch.Tensor:
    return image.flip(-1) if torch.rand(()) < 0.5 else image


class Recorder:
    """Keeps what it is told, and ends the training after a number of steps."""

    def __init__(self, last: int = 1000) -> None:
        self.last, self.steps, self.rows = last, [], []

    def on_step(self, step: int, loss: torch.Tensor) -> bool:
        self.steps.append((step, float(loss)))
        return step >= self.last

    def on_evaluation(self, row) -> None:
        self.rows.append(row)


def test_own_recipe_on_the_command_line(pretrained):
    data = pictures.folder(Path("colours"), 8)
    start = ("finetune", pretrained, data, "--strategy", "full", "--set", "steps=6", "--device", "cpu")
    assert "fix: use lr=0.001" in run(*start, "--set", "learning_rate=0.01", code=1)
    assert "fix: use patience=5 (evaluations" in run(*start, "--set", "early-stopping=true", code=1)

    out = run(*start, "--lr", "0.01", "--dry-run")
    assert "recipe    lr 0.01 head, 0.001 backbone, adamw, weight decay 0.05, cosine after 10% warm-up" in out
    assert "\n          augment shift, mixup none, 6 evaluations, patience 5, seed 0\n" in out
    assert "6 steps of" in out
    assert "by timing one batch; nothing was trained" in out
    plan = json.loads(run(*start, "--dry-run", "--json"))["plan"]
    assert plan["recipe"]["steps"] == 6
    assert 0 < plan["step"] < plan["seconds"]
    assert not Path("runs").exists()


def test_a_plan_leaves_the_model_as_it_was(pretrained):
    model = zoo.load(pretrained, "cpu")
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    for strategy in ("probe", "lp-ft", "lora"):
        plan = model.plan(DATA, strategy=strategy)
        assert plan.hp.strategy == strategy
        assert plan.memory > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())
    assert model.recipe.strategy == "scratch"


def test_own_augmentation_is_seeded_and_recorded(pretrained, tmp_path):
    runs = [zoo.load(pretrained, "cpu").finetune(DATA, augment=flip, quiet=True, **QUICK) for _ in range(2)]
    runs.append(zoo.load(pretrained, "cpu").finetune(DATA, augment="none", quiet=True, **QUICK))
    logits = [model.logits([DATA[0][0]]) for model in runs]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
    saved = zoo.load(runs[0].save(tmp_path / "saved"))
    assert saved.recipe.augment.startswith("function ")
    assert "flip" in saved.recipe.augment


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (lambda image: image[:, :8], r"augment returned torch.uint8 \(3, 8, 16\) for an image \(3, 16, 16\)\nfix: "),
        (lambda image: image / 100, r"augment returned floats from .*\nfix: .*leave out Normalize"),
        (lambda image: image.int(), r"augment returned torch.int32\nfix: augment takes a uint8 tensor"),
        (lambda image: None, r"augment returned NoneType"),
        (lambda image: image.missing(), r"augment=<lambda> raised AttributeError: .*\nfix: augment takes"),
    ],
)
def test_an_augmentation_that_fails_is_named(pretrained, augment, message):
    with pytest.raises(RecipeError, match=message):
        zoo.load(pretrained, "cpu").finetune(DATA, augment=augment, quiet=True, **QUICK)


def test_callbacks_are_told_of_steps_and_evaluations(pretrained, capsys):
    told = Recorder()
    model = zoo.load(pretrained, "cpu").finetune(DATA, callbacks=[told], quiet=True, **QUICK)
    assert [step for step, _ in told.steps] == [1, 2, 3, 4, 5, 6]
    assert told.rows == model.history[1:]  # the first is that of the pretrained head, before the training
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("strategy", ["full", "gradual"])
def test_a_callback_ends_the_training(pretrained, strategy):
    told = Recorder(last=1)
    options = QUICK | {"strategy": strategy, "augment": "none"}
    model = zoo.load(pretrained, "cpu").finetune(DATA, callbacks=told, quiet=True, **options)
    assert len(told.steps) == 1
    assert model.recipe.stop_after == model.history[-1]["step"] == 1
    assert model.metrics


def test_callbacks_of_other_libraries_are_refused(pretrained):
    with pytest.raises(
        RecipeError, match="callbacks: object has no method on_step, on_evaluation or on_end\nfix: def on_eval"
    ):
        zoo.load(pretrained, "cpu").finetune(DATA, callbacks=[object()])
