"""The public API on tiny nets: what `import zoo` offers, and every inference call with one and many inputs."""

from __future__ import annotations

import inspect
import typing

import numpy as np
import pandas as pd
import pictures
import pytest
import torch
import words
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

import zoo
from zoo.errors import DataError, RecipeError
from zoo.finetune.recipe import RecipeFields

DATA = pictures.pairs(6)
PIXELS = [pixels for pixels, _ in DATA[:5]]


@pytest.fixture(scope="module")
def colours(request):
    pretrained = request.getfixturevalue("pretrained")
    return zoo.load(pretrained, "cpu")


@pytest.fixture
def reviews(distribution, tmp_path):
    return zoo.load(words.pretrained(distribution, tmp_path / "weights"), "cpu")


class Pixels(Dataset):
    """A torch Dataset of (input, label), without __iter__."""

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int):
        return PIXELS[index], "some label"


def test_all_is_sorted_and_complete():
    assert zoo.__all__ == sorted(zoo.__all__)
    classes, functions = (
        {"Callback", "Model", "Prediction", "Recipe", "ZooError"},
        {"compare", "info", "list", "load", "pull", "rank", "report"},
    )
    assert set(zoo.__all__) == classes | functions
    assert all(getattr(zoo, name) is not None for name in zoo.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        zoo.nothing  # noqa: B018


def test_finetune_has_typed_keywords():
    hints = typing.get_type_hints(zoo.Model.finetune)
    assert typing.get_args(hints["fields"]) == (RecipeFields,)
    parameters = inspect.signature(zoo.Model.finetune).parameters
    assert [*parameters][1:4] == ["data", "labels", "recipe"]


def test_fields_override_the_recipe_argument(colours, pretrained):
    recipe = zoo.Recipe(strategy="full", steps=4, evals=1, batch_size=8)
    model = zoo.load(pretrained, "cpu").finetune(DATA, recipe, steps=2)
    assert (model.recipe.strategy, model.recipe.steps) == ("full", 2)


def test_one_input_gives_one_prediction(colours, tmp_path):
    pixels = pictures.array("red", 1)
    Image.fromarray(pixels).save(tmp_path / "red.png")
    tensor = torch.tensor(pixels).permute(2, 0, 1)
    for one in (pixels, Image.fromarray(pixels), tensor, tmp_path / "red.png", str(tmp_path / "red.png")):
        assert colours.predict(one).label == "red"
    assert colours.predict((tmp_path / "red.png").read_bytes()).label == "red"


@pytest.mark.parametrize(
    "many",
    [
        PIXELS,
        tuple(PIXELS),
        np.stack(PIXELS),
        torch.tensor(np.stack(PIXELS)).permute(0, 3, 1, 2),
        pd.Series(PIXELS),
        Pixels(),
        {"image": PIXELS},
    ],
    ids=["list", "tuple", "array", "tensor", "series", "dataset", "columns"],
)
def test_any_iterable_gives_a_list(colours, many):
    expected = [p.label for p in map(colours.predict, PIXELS)]
    assert [p.label for p in colours.predict(many)] == expected
    assert colours.embed(many).shape == (5, colours.backbone.dim)


def test_generators_give_a_list(colours):
    assert len(colours.predict(pixels for pixels in PIXELS)) == 5
    assert len(colours.predict(iter(PIXELS[:1]))) == 1


def test_other_inputs_raise(colours):
    with pytest.raises(DataError, match="inputs of type int are not understood"):
        colours.predict(3)
    with pytest.raises(DataError, match="list of inputs is empty"):
        colours.predict([])


def test_bad_arguments_raise_with_a_fix(colours):
    with pytest.raises(DataError, match="inputs of type dict are not understood"):
        colours.predict({"picture": PIXELS[0]})
    for call in (colours.predict, colours.logits, colours.embed, colours.evaluate):
        with pytest.raises(RecipeError, match=r"batch_size=0 is not a whole number above 0\nfix: batch_size=32"):
            call(DATA if call == colours.evaluate else PIXELS, batch_size=0)
    with pytest.raises(RecipeError, match=r"recipe='classify' is not a Recipe\nfix: recipe=zoo.Recipe"):
        colours.finetune(DATA, "classify")


def test_probabilities_are_the_softmax_of_the_logits(colours):
    logits, probabilities = colours.logits(PIXELS), colours.predict_proba(PIXELS)
    assert logits.shape == probabilities.shape == (5, len(colours.task.labels))
    torch.testing.assert_close(probabilities, logits.softmax(1))
    assert colours.predict_proba(PIXELS[0]).shape == (1, len(colours.task.labels))
    labels = [colours.task.labels[i] for i in probabilities.argmax(1).tolist()]
    assert labels == [p.label for p in colours.predict(PIXELS)]


def test_batch_size_does_not_change_predictions(colours):
    torch.testing.assert_close(colours.logits(PIXELS, batch_size=2), colours.logits(PIXELS), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(colours.embed(PIXELS, batch_size=1), colours.embed(PIXELS), atol=1e-5, rtol=1e-5)
    assert colours.predict(PIXELS, batch_size=3) is not None
    found = colours.evaluate(DATA, batch_size=5)
    assert found == pytest.approx(colours.evaluate(DATA))


def test_evaluate_per_class(colours):
    found = colours.evaluate(DATA, per_class=True)
    assert set(found["per_class"]) == set(colours.task.labels)
    assert sum(row["support"] for row in found["per_class"].values()) == len(DATA)


def test_module_maps_preprocessed_inputs_to_logits(colours):
    inputs = colours.preprocess(PIXELS)
    assert inputs.shape == (5, 3, colours.input.size, colours.input.size)
    assert inputs.dtype == torch.float32
    with torch.inference_mode():
        torch.testing.assert_close(colours.module(inputs), colours.logits(PIXELS), atol=1e-5, rtol=1e-5)


def test_module_trains_in_any_loop(pretrained):
    model = zoo.load(pretrained, "cpu")
    before = model.logits(PIXELS)
    optimizer = torch.optim.SGD(model.module.parameters(), lr=0.01)
    targets = torch.zeros(5, dtype=torch.long)
    nn.functional.cross_entropy(model.module.train()(model.preprocess(PIXELS)), targets).backward()
    optimizer.step()
    model.module.eval()
    assert not torch.allclose(model.logits(PIXELS), before)


def test_module_without_a_head_is_the_backbone():
    model = zoo.load("native/resnet14.letters", "cpu")
    with torch.inference_mode():
        assert model.module(model.preprocess(PIXELS)).pooled.shape == (5, model.backbone.dim)


def test_to_moves_backbone_and_head(pretrained):
    model = zoo.load(pretrained, "cpu")
    assert model.to("cpu") is model
    assert model.to("auto").device.type in ("cpu", "cuda")
    with pytest.raises(zoo.ZooError, match="device='nowhere' cannot be used"):
        model.to("nowhere")
    assert model.to("meta").device.type == model.head.weight.device.type == "meta"


def test_text_models_take_one_text_or_many(reviews):
    model = reviews.finetune(words.reviews(24), strategy="probe", valid=0)
    assert model.predict("a great film").label in ("good", "bad")
    assert len(model.predict(("a great film", "a dull film"))) == 2  # two texts: it was not trained on pairs
    assert len(model.predict(pd.Series(["a great film"]))) == 1
    assert len(model.predict(np.array(["a great film", "a dull film"]))) == 2
    inputs = model.preprocess(["a great film", "a dull film"])
    assert inputs["input_ids"].shape[0] == 2
    with torch.inference_mode():
        found = model.module(inputs)
    torch.testing.assert_close(found, model.logits(["a great film", "a dull film"]), atol=1e-5, rtol=1e-5)


def test_pairs_of_texts_are_single_inputs_of_a_model_of_pairs(reviews):
    pairs = [((text, text), "same") for text, _ in words.reviews(6)]
    pairs += [((text, text[::-1]), "different") for text, _ in words.reviews(6)]
    model = reviews.finetune(pairs, strategy="probe", valid=0)
    assert model.predict(("a great film", "a great film")).label in ("same", "different")
    assert len(model.predict([("a great film", "a great film")])) == 1


def test_regression_has_logits_but_no_probabilities(reviews):
    numbers = [(text, float(i % 3)) for i, (text, _) in enumerate(words.reviews(12))]
    model = reviews.finetune(numbers, valid=0, strategy="probe")
    assert model.logits(["a great film"]).shape == (1, 1)
    with pytest.raises(RecipeError, match=r"regress predicts no probabilities\nfix: model\.predict"):
        model.predict_proba(["a great film"])


def test_language_models_answer_one_prompt_or_many(reviews):
    assert isinstance(reviews.generate("the film", max_new_tokens=2), str)
    assert [type(text) for text in reviews.generate(["the film", "a"], max_new_tokens=2)] == [str, str]
    model = reviews.finetune([text for text, _ in words.reviews(20)], task="masked-lm", valid=0, steps=1)
    with pytest.raises(RecipeError, match=r"logits is for tasks with labels, and this is a masked-lm model"):
        model.logits(["the [MASK]"])
    assert model.module(model.preprocess(["the film"])).ndim == 3  # (N, T, V)
