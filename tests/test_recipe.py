"""zoo.finetune.recipe: settings that are checked when made, and settled from the data."""

from __future__ import annotations

import pytest

from zoo.errors import RecipeError
from zoo.finetune.defaults import Situation, settle
from zoo.finetune.recipe import Recipe, make, to_dict


def settled(recipe: Recipe, *, examples=100, image_size=224, pretrained=True) -> Recipe:
    return settle(recipe, Situation(examples, image_size, pretrained=pretrained))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strategy": "prob"}, r"strategy='prob' is not one of auto, .*\nfix: strategy=\"probe\""),
        ({"optimizer": "adam"}, r"optimizer='adam' is not one of adamw, sgd\nfix: optimizer=\"adamw\""),
        ({"steps": 0}, r"steps=0 is not a whole number above 0\nfix: give a whole number above 0, or leave it out"),
        ({"steps": 1.5}, r"steps=1\.5 is not a whole number"),
        ({"steps": True}, r"steps=True is not a whole number"),
        ({"batch_size": None}, r"batch_size=None is not .*\n.*or leave it out: batch_size=32"),
        ({"lr": float("nan")}, r"lr=nan is not a number above 0"),
        ({"lr": "fast"}, r"lr='fast' is not a number above 0"),
        ({"warmup": 2}, r"warmup=2 is not a share from 0 to 1"),
        ({"skip_bad": 1}, r"skip_bad=1 is not true or false"),
        ({"steps": 5, "epochs": 1}, r"steps=5 and epochs=1 both set the length"),
        ({"learning_rat": 1}, r"'learning_rat' is not a field of the recipe\nfix: use one of: "),
        ({"step": 1}, r"'step' is not a field .*\n?fix: use one of: steps"),
    ],
)
def test_a_bad_setting_is_told_with_its_fix(fields, message):
    with pytest.raises(RecipeError, match=message):
        make(fields)


def test_make_takes_back_what_to_dict_gives():
    recipe = make({"strategy": "full", "steps": 7, "lr": 0.1})
    assert make(to_dict(recipe)) == recipe


@pytest.mark.parametrize(
    ("examples", "pretrained", "strategy"),
    [(100, True, "probe"), (5_000, True, "lp-ft"), (100, False, "scratch"), (10**6, False, "scratch")],
)
def test_auto_goes_by_weights_and_size(examples, pretrained, strategy):
    assert settled(Recipe(), examples=examples, pretrained=pretrained).strategy == strategy


def test_a_probe_needs_pretrained_weights():
    with pytest.raises(RecipeError, match=r'strategy="probe" needs pretrained weights.*\n?fix: strategy="scratch"'):
        settled(Recipe(strategy="probe"), pretrained=False)


def test_everything_is_settled():
    done = settled(Recipe())
    assert [name for name, value in to_dict(done).items() if value == "auto"] == ["precision"]  # is timed
    assert (done.steps, done.lr, done.backbone_lr) == (300, 3e-3, pytest.approx(3e-4))


def test_epochs_become_steps():
    assert settled(Recipe(epochs=2.5), examples=100).steps == 10  # 4 batches of 32 an epoch
    assert settled(Recipe(epochs=0.001), examples=100).steps == 1


def test_batchnorm_statistics_are_frozen_on_small_data_only():
    assert settled(Recipe(strategy="full")).norm == "frozen"
    assert settled(Recipe(strategy="full"), examples=30_000).norm == "batch"
    assert settled(Recipe(strategy="full", batch_size=8), examples=30_000).norm == "frozen"
    assert settled(Recipe(strategy="scratch")).norm == "batch"


def test_small_images_are_not_mirrored():
    assert settled(Recipe(), image_size=28).augment == "shift"
    assert settled(Recipe(), image_size=224).augment == "crop-flip"
