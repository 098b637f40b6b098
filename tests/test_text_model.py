"""Six tasks on texts, end to end on a tiny net: fine-tune, measure, predict, save, load again."""

from __future__ import annotations

import json
import random

import pytest
import torch
import words
from click.testing import CliRunner

import zoo
from zoo.cli import main
from zoo.errors import DataError, RecipeError

REVIEWS = words.reviews(60)
FAST = {"steps": 150, "batch_size": 8, "lr": 2e-2, "backbone_lr": 1e-2, "evals": 3}


@pytest.fixture
def name(distribution, tmp_path):
    return words.pretrained(distribution, tmp_path / "weights")


def tagged(count=40):
    """Return (words, tags): good words are B-GOOD, bad ones B-BAD, and "very" before them I-…"""
    kinds = {**dict.fromkeys(words.GOOD, "B-GOOD"), **dict.fromkeys(words.BAD, "B-BAD")}
    texts = [text.split() for text, _ in words.reviews(count, seed=5)]
    return [(text, [kinds.get(word, "O") for word in text]) for text in texts]


def liking(count=120):
    """Return (text, number): how many more good words than bad ones there are."""
    shuffled = random.Random(0).sample(words.reviews(count, seed=9), count)
    texts = [f"{a} {b}" for (a, _), (b, _) in zip(words.reviews(count), shuffled, strict=True)]
    score = {**dict.fromkeys(words.GOOD, 1.0), **dict.fromkeys(words.BAD, -1.0)}
    return [(text, sum(score.get(word, 0.0) for word in text.split())) for text in texts]


def topics(count=120):
    texts = [text for text, _ in words.reviews(count, seed=2)]
    return [(text, [word for word in ("plot", "cast", "music") if word in text.split()]) for text in texts]


CORPUS = [text for text, _ in words.reviews(80, seed=4)]
CASES = {
    "classify": (REVIEWS, {}, "accuracy", 0.9),
    "multilabel": (topics(), {}, "map", 0.9),
    "regress": (liking(), {}, "r2", 0.6),
    "tag": (tagged(), {}, "entity_f1", 0.9),
    "causal-lm": (CORPUS, {"task": "causal-lm"}, "loss", 3.0),
    "masked-lm": (CORPUS, {"task": "masked-lm"}, "loss", 3.0),
}
"""Task -> data, arguments, metric and what it has to reach (a loss: at most)."""
PROMPTS = {"tag": [["the", "film", "was", "great"], "a dull plot"], "masked-lm": ["the [MASK] was great"]}


@pytest.mark.parametrize("task", CASES)
def test_a_task_from_data_to_saved_to_loaded(name, task, tmp_path, capsys):
    data, more, metric, goal = CASES[task]
    model = zoo.load(name, "cpu").finetune(data, strategy="full", out=tmp_path / "saved", **more, **FAST)
    assert model.task.name == task
    reached = model.metrics[metric]
    assert reached < goal if metric == "loss" else reached > goal
    assert f"-> {task};" in capsys.readouterr().out
    again = zoo.load(tmp_path / "saved", "cpu")
    inputs = PROMPTS.get(task, ["the film was great", "a dull plot"])
    for found, expected in zip(again.predict(inputs), model.predict(inputs), strict=True):
        number = isinstance(expected.label, float)
        assert found.label == (pytest.approx(expected.label, rel=1e-5) if number else expected.label)
        assert dict(found.top) == pytest.approx(dict(expected.top), rel=1e-5)
    assert again.evaluate(data) == pytest.approx(model.evaluate(data), rel=1e-5)
    torch.testing.assert_close(again.embed(["the film"]), model.embed(["the film"]))  # kernels differ by alignment


@pytest.mark.parametrize("strategy", ["probe", "lora", "scratch"])
@pytest.mark.parametrize("task", ["classify", "multilabel", "regress", "tag"])
def test_every_strategy_goes_with_every_headed_task(name, task, strategy):
    data, more, metric, _ = CASES[task]
    model = zoo.load(name, "cpu")
    before = {key: value.clone() for key, value in model.backbone.module.state_dict().items()}
    model.finetune(data, strategy=strategy, **more, **FAST | {"steps": 20})
    after = model.backbone.module.state_dict()
    assert metric in model.metrics
    assert all(torch.equal(before[key], after[key]) for key in before) == (strategy == "probe")


def test_a_probed_probability_is_the_same_alone_and_in_a_crowd(name):
    model = zoo.load(name, "cpu").finetune(REVIEWS)
    texts = [text for text, _ in words.reviews(30, seed=7)]
    crowd = model.predict(texts)
    for text, answer in zip(texts, crowd, strict=True):
        alone = model.predict(text)
        assert alone.label == answer.label
        assert alone.probability == pytest.approx(answer.probability, abs=1e-5)


def test_embeddings_keep_the_order_of_the_inputs(name):
    model = zoo.load(name, "cpu")
    texts = [text for text, _ in words.reviews(70, seed=8)]
    crowd = model.embed(texts)
    torch.testing.assert_close(crowd, torch.cat([model.embed(text) for text in texts]), atol=1e-5, rtol=0)


def test_training_is_bit_identical_when_repeated(name):
    first, second = (zoo.load(name, "cpu").finetune(REVIEWS, strategy="full", **FAST) for _ in range(2))
    assert first.history == second.history
    assert torch.equal(first.embed("the film"), second.embed("the film"))


def test_a_language_model_becomes_a_classifier(name, tmp_path):
    zoo.load(name, "cpu").finetune(CORPUS, task="masked-lm", out=tmp_path / "lm", **FAST)
    model = zoo.load(tmp_path / "lm", "cpu").finetune(REVIEWS, strategy="full", out=tmp_path / "reviews", **FAST)
    assert model.metrics["accuracy"] > 0.8
    assert zoo.load(tmp_path / "reviews", "cpu").predict("a great film") == model.predict("a great film")


def test_a_tied_weight_is_saved_once(name, tmp_path):
    from safetensors import safe_open

    zoo.load(name, "cpu").finetune(CORPUS, task="causal-lm", out=tmp_path / "lm", **FAST | {"steps": 2})
    with safe_open(tmp_path / "lm" / "model.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == ["backbone.mix.bias", "backbone.mix.weight", "backbone.table.weight"]
    again = zoo.load(tmp_path / "lm", "cpu").backbone.module
    assert again.lm_head.weight is again.table.weight


def test_generating_goes_on_with_each_prompt(name):
    written = zoo.load(name, "cpu").generate(["the film", "a"], max_new_tokens=4)
    assert len(written) == 2
    assert all(len(text.split()) <= 4 for text in written)


def test_a_mask_has_to_be_there_once(name):
    model = zoo.load(name, "cpu").finetune(CORPUS, task="masked-lm", **FAST | {"steps": 2})
    assert len(model.predict("the [MASK] was dull", top=3).top) == 3
    with pytest.raises(DataError, match="the mask token once"):
        model.predict("no mask at all")


def test_a_probe_of_a_language_model_is_told(name):
    with pytest.raises(RecipeError, match="language modelling keeps that of the backbone"):
        zoo.load(name, "cpu").finetune(CORPUS, task="causal-lm", strategy="probe")


def test_a_head_that_is_gone_is_told(name):
    model = zoo.load(name, "cpu").finetune(REVIEWS)
    with pytest.raises(RecipeError, match="its language-modelling head is gone"):
        model.finetune(CORPUS, task="masked-lm")


def test_a_tagger_refuses_what_it_cannot_read_whole(name):
    model = zoo.load(name, "cpu").finetune(tagged(), max_length=16, **FAST | {"steps": 2})
    with pytest.raises(DataError, match="a text of 30 words is too long for this model"):
        model.predict([["film"] * 30])


def test_pairs_of_texts_are_told_apart(name):
    pairs = [((a, b), "same" if one == other else "different") for (a, one), (b, other) in zip(REVIEWS, REVIEWS[::-1])]  # noqa: B905
    pairs += [((a, a), "same") for a, _ in REVIEWS[:20]]
    model = zoo.load(name, "cpu").finetune(pairs, strategy="full", **FAST)
    assert model.task.name == "classify"
    assert model.predict([pairs[0][0]])[0].label in ("same", "different")


def test_a_few_long_texts_are_held_out_by_paragraph(name):
    book = "\n\n".join(CORPUS)
    model = zoo.load(name, "cpu").finetune([book], task="causal-lm", **FAST | {"steps": 2})
    assert model.metrics["perplexity"] > 1


@pytest.mark.parametrize("how", ["weights", "logits", "sampler"])
def test_rare_classes_are_found_more_often_when_balanced(name, how):
    good = [pair for pair in words.reviews(400) if pair[1] == "good"][:150]
    bad = [pair for pair in words.reviews(400, seed=3) if pair[1] == "bad"][:8]
    fresh = [pair for pair in words.reviews(100, seed=6) if pair[1] == "bad"]

    def recall(balance):
        model = zoo.load(name, "cpu").finetune(good + bad, valid=0, strategy="full", class_balance=balance, **FAST)
        return sum(answer.label == "bad" for answer in model.predict([text for text, _ in fresh]))

    assert recall(how) > recall("none") or recall("none") == len(fresh)


def run(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_commands_take_tables_and_texts(name, isolated):
    rows = "".join(f"{text},{label}\n" for text, label in REVIEWS)
    (isolated / "reviews.csv").write_text("review,sentiment\n" + rows)
    trained = json.loads(run("finetune", name, "reviews.csv", "--out", "model", "--json"))
    assert trained["metrics"]["accuracy"] > 0.8
    measured = json.loads(run("evaluate", "model", "reviews.csv", "--json"))
    assert set(measured["per_class"]) == {"good", "bad"}
    assert "support" in run("evaluate", "model", "reviews.csv")
    (isolated / "one.txt").write_text("a lovely film")
    answers = json.loads(run("predict", "model", "one.txt", "an awful film", "--json"))
    assert [answer["label"] for answer in answers] == ["good", "bad"]
    assert "good" in run("predict", "model", "a lovely film", "--top", "2")


def test_a_task_that_needs_labels_says_so(name):
    with pytest.raises(DataError, match="the data has no labels, and classify learns from labels"):
        zoo.load(name, "cpu").finetune(CORPUS, task="classify")
