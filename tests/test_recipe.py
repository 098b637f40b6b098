"""Recipe and defaults: fields are validated when created, and resolved from backbone and data."""

from __future__ import annotations

import dataclasses
import typing

import pytest

import zoo
from zoo.errors import RecipeError
from zoo.finetune import defaults
from zoo.finetune.defaults import Hyperparameters, Setting, resolve
from zoo.finetune.recipe import CHOICES, OTHER_NAMES, RULES, Recipe, RecipeFields, make, seconds, to_dict


def resolved(recipe: Recipe, *, train=100, image_size=224, pretrained=True) -> Hyperparameters:
    return resolve(recipe, Setting(train, image_size=image_size, pretrained=pretrained))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strategy": "prob"}, r"strategy='prob' is not one of auto, .*\nfix: strategy=\"probe\""),
        ({"optimizer": "adam"}, r"optimizer='adam' is not one of adamw, sgd\nfix: optimizer=\"adamw\""),
        ({"mixup": "cutmix2"}, "mixup='cutmix2' is not one of"),
        ({"steps": 0}, r"steps=0 is not a whole number above 0\nfix: give a whole number above 0, or leave it out"),
        ({"steps": 1.5}, r"steps=1\.5 is not a whole number"),
        ({"steps": True}, r"steps=True is not a whole number"),
        ({"batch_size": None}, r"batch_size=None is not .*\n.*or leave it out: batch_size=32"),
        ({"lr": float("nan")}, r"lr=nan is not a number above 0"),
        ({"lr": "fast"}, r"lr='fast' is not a number above 0"),
        ({"layer_decay": 2}, "layer_decay=2 is not a share above 0 up to 1"),
        ({"warmup_ratio": 2}, r"warmup_ratio=2 is not a share from 0 to 1"),
        ({"dropout": "on"}, r"dropout='on' is not true or false"),
        ({"skip_bad": 1}, r"skip_bad=1 is not true or false"),
        ({"max_time": "soon"}, r"max_time='soon' is not a duration\nfix: max_time=\"90s\""),
        ({"max_time": 0}, "max_time=0 is not a duration"),
        ({"steps": 5, "epochs": 1}, r"steps=5 and epochs=1 both set the length"),
        ({"learning_rat": 1}, r"'learning_rat' is not a field of the recipe\nfix: use one of: lr"),
        ({"learning_rate": 1}, r"'learning_rate' is not a field of the recipe\nfix: use lr=0.001$"),
        ({"class_weights": "balanced"}, 'fix: use class_balance="weights"$'),
        ({"early_stopping": True}, r"fix: use patience=5 \(evaluations without a better one"),
        ({"mixup": 0.2}, 'mixup=0.2 is not one of .*\n?fix: mixup="mixup", "cutmix" or "both"$'),
        ({"validation_split": 0.1}, "fix: use valid=0.2, an argument of finetune$"),
        ({"Transforms": None}, r'fix: use augment="randaugment", or a function'),
        ({"step": 1}, r"'step' is not a field .*\n?fix: use one of: steps"),
    ],
)
def test_invalid_field_raises_with_fix(fields, message):
    with pytest.raises(RecipeError, match=message):
        make(fields)


class Flip:
    """An augmentation that is an object."""

    def __call__(self, image):
        return image.flip(-1)


def test_fields_override_those_of_a_recipe():
    assert make({"lr": 0.1}, Recipe(lr=1.0, steps=7)) == Recipe(lr=0.1, steps=7)


def test_make_inverts_to_dict():
    recipe = make({"strategy": "full", "steps": 7, "lr": 0.1})
    assert make(to_dict(recipe)) == recipe


def test_durations_are_parsed_to_seconds():
    assert [seconds(span) for span in (None, 5, "5", "90s", "5m", "1.5h")] == [None, 5, 5, 90, 300, 5400]


def test_typed_keywords_match_the_recipe():
    assert typing.get_type_hints(RecipeFields) == typing.get_type_hints(Recipe)


def test_names_of_other_libraries_lead_to_fields():
    assert set(OTHER_NAMES.values()) <= {field.name for field in dataclasses.fields(Recipe)}
    assert not set(OTHER_NAMES) & {field.name for field in dataclasses.fields(Recipe)}


def test_a_function_is_recorded_by_its_name_and_code():
    names = [to_dict(make({"augment": function}))["augment"] for function in (lambda x: x, lambda x: x + 1, Flip())]
    assert names[0] != names[1]
    assert names[0].startswith("function ")
    assert names[2].endswith("test_recipe.Flip object>")
    with pytest.raises(RecipeError, match="reads texts"):
        resolved(Recipe(augment=Flip()), image_size=None)


def test_every_field_has_a_check_and_a_description():
    names = {field.name for field in dataclasses.fields(Recipe)}
    assert CHOICES.keys() | RULES.keys() | {"max_time"} == names
    described = {line[4:].partition("  ")[0] for line in Recipe.__doc__.splitlines()[2:]} - {""}
    assert described == names


def test_hyperparameters_are_fields_of_the_recipe():
    names = {field.name for field in dataclasses.fields(Hyperparameters)}
    assert names == {field.name for field in dataclasses.fields(Recipe)} - {"epochs", "save_every"}


@pytest.mark.parametrize(
    ("train", "pretrained", "strategy"),
    [(100, True, "probe"), (5_000, True, "lp-ft"), (100, False, "scratch"), (10**6, False, "scratch")],
)
def test_auto_strategy_depends_on_weights_and_size(train, pretrained, strategy):
    assert resolved(Recipe(), train=train, pretrained=pretrained).strategy == strategy


@pytest.mark.parametrize(
    ("train", "per_token", "strategy"), [(99, False, "probe"), (100, False, "lp-ft"), (20, True, "lp-ft")]
)
def test_auto_probes_few_texts_unless_each_token_has_a_label(train, per_token, strategy):
    assert resolve(Recipe(), Setting(train, max_tokens=64, per_token=per_token)).strategy == strategy


def test_probe_without_pretrained_weights_raises():
    with pytest.raises(RecipeError, match=r'strategy="probe" needs pretrained weights.*\n?fix: strategy="scratch"'):
        resolved(Recipe(strategy="probe"), pretrained=False)


def test_resolving_leaves_no_field_open():
    hp = resolved(Recipe())
    assert "auto" not in dataclasses.asdict(hp).values()
    unset = {name for name, value in dataclasses.asdict(hp).items() if value is None}
    optional = {"l2", "head_stages", "views", "max_length", "max_time", "shuffle_buffer", "stop_after", "workers"}
    assert unset == optional
    assert (hp.steps, hp.lr, hp.backbone_lr) == (300, 3e-3, pytest.approx(3e-4))


def test_hyperparameters_of_a_saved_model_are_validated():
    saved = dataclasses.asdict(resolved(Recipe()))
    assert defaults.restore(saved) == resolved(Recipe())
    with pytest.raises(TypeError, match="steps not resolved"):
        defaults.restore({**saved, "steps": None})
    with pytest.raises(RecipeError, match="batch_size=-1"):
        defaults.restore({**saved, "batch_size": -1})


def test_resolved_recipe_can_be_repeated():
    hp = resolved(Recipe(strategy="full", epochs=3))
    assert resolved(Recipe(**dataclasses.asdict(hp))) == hp


def test_epochs_become_steps():
    assert resolved(Recipe(epochs=2.5), train=100).steps == 10  # 4 batches of 32 an epoch
    assert resolved(Recipe(epochs=0.001), train=100).steps == 1


def test_batchnorm_statistics_are_frozen_on_small_data():
    assert resolved(Recipe(strategy="full")).batchnorm == "frozen"
    assert resolved(Recipe(strategy="full"), train=30_000).batchnorm == "train"
    assert resolved(Recipe(strategy="full", batch_size=8), train=30_000).batchnorm == "frozen"
    assert resolved(Recipe(strategy="scratch")).batchnorm == "train"


def test_small_images_are_not_flipped():
    assert resolved(Recipe(), image_size=28).augment == "shift"
    assert resolved(Recipe(), image_size=224).augment == "crop-flip"


def test_layer_decay_defaults_to_vision_transformers_only():
    vit = Setting(500, image_size=224, stages=14, batchnorm=False)
    assert resolve(Recipe(strategy="full"), vit).layer_decay == 0.75
    assert resolve(Recipe(strategy="full", layer_decay=0.9), vit).layer_decay == 0.9
    assert resolve(Recipe(strategy="full"), Setting(500, image_size=224)).layer_decay == 1.0


def test_views_of_few_photos_are_cross_validated():
    assert resolved(Recipe(), train=142).views is None
    assert resolved(Recipe(), train=142).most_views == 2
    assert resolved(Recipe(views=1), train=142).views == 1
    assert resolved(Recipe(augment="none"), train=142).views == 1
    assert resolved(Recipe(), train=5_000).views == 1
    assert resolved(Recipe(), train=142, image_size=28).views == 1


def test_large_sets_of_photos_get_randaugment_and_mixup():
    many, few = resolved(Recipe(strategy="full"), train=50_000), resolved(Recipe(strategy="full"), train=500)
    assert (many.augment, many.mixup) == ("randaugment", "both")
    assert (few.augment, few.mixup) == ("crop-flip", "none")


def test_help_of_the_command_names_every_field():
    from click.testing import CliRunner

    from zoo.cli import main

    shown = CliRunner().invoke(main, ["finetune", "--help"]).output
    assert all(f"  {field.name} " in shown for field in dataclasses.fields(Recipe))
    assert zoo.Recipe is Recipe
