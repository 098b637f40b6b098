"""Six text tasks end to end on a tiny network: fine-tune, evaluate, predict, save, reload."""

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


def tagged_reviews(count=40):
    """Return (words, tags): positive words are tagged B-GOOD, negative words B-BAD, all others O."""
    kinds = {**dict.fromkeys(words.GOOD, "B-GOOD"), **dict.fromkeys(words.BAD, "B-BAD")}
    texts = [text.split() for text, _ in words.reviews(count, seed=5)]
    return [(text, [kinds.get(word, "O") for word in text]) for text in texts]


def sentiment_scores(count=120):
    """Return (text, score): the number of positive words minus the number of negative words."""
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
    "regress": (sentiment_scores(), {}, "r2", 0.6),
    "tag": (tagged_reviews(), {}, "entity_f1", 0.9),
    "causal-lm": (CORPUS, {"task": "causal-lm"}, "loss", 3.0),
    "masked-lm": (CORPUS, {"task": "masked-lm"}, "loss", 3.0),
}
"""Task -> data, finetune() arguments, metric and its minimum (for a loss: maximum)."""
PROMPTS = {"tag": [["the", "film", "was", "great"], "a dull plot"], "masked-lm": ["the [MASK] was great"]}


@pytest.mark.parametrize("task", CASES)
def test_finetune_save_and_load_round_trip(name, task, tmp_path, capsys):
    data, more, metric, threshold = CASES[task]
    model = zoo.load(name, "cpu").finetune(data, strategy="full", out=tmp_path / "saved", **more, **FAST)
    assert model.task.name == task
    value = model.metrics[metric]
    assert value < threshold if metric == "loss" else value > threshold
    assert f"-> {task};" in capsys.readouterr().out
    again = zoo.load(tmp_path / "saved", "cpu")
    inputs = PROMPTS.get(task, ["the film was great", "a dull plot"])
    for found, expected in zip(again.predict(inputs), model.predict(inputs), strict=True):
        number = isinstance(expected.label, float)
        assert found.label == (pytest.approx(expected.label, rel=1e-5) if number else expected.label)
        assert dict(found.top) == pytest.approx(dict(expected.top), rel=1e-5)
    assert again.evaluate(data) == pytest.approx(model.evaluate(data), rel=1e-5)
    torch.testing.assert_close(again.embed(["the film"]), model.embed(["the film"]))  # kernels depend on alignment


@pytest.mark.parametrize("strategy", ["probe", "lora", "scratch"])
@pytest.mark.parametrize("task", ["classify", "multilabel", "regress", "tag"])
def test_every_strategy_supports_every_task_with_a_head(name, task, strategy):
    data, more, metric, _ = CASES[task]
    model = zoo.load(name, "cpu")
    before = {key: value.clone() for key, value in model.backbone.module.state_dict().items()}
    model.finetune(data, strategy=strategy, **more, **FAST | {"steps": 100})
    after = model.backbone.module.state_dict()
    assert metric in model.metrics
    assert all(torch.equal(before[key], after[key]) for key in before) == (strategy == "probe")


def test_probe_predictions_do_not_depend_on_the_batch(name):
    model = zoo.load(name, "cpu").finetune(REVIEWS)
    texts = [text for text, _ in words.reviews(30, seed=7)]
    batched = model.predict(texts)
    for text, answer in zip(texts, batched, strict=True):
        alone = model.predict(text)
        assert alone.label == answer.label
        assert alone.probability == pytest.approx(answer.probability, abs=1e-5)


def test_embeddings_keep_the_input_order(name):
    model = zoo.load(name, "cpu")
    texts = [text for text, _ in words.reviews(70, seed=8)]
    batched = model.embed(texts)
    torch.testing.assert_close(batched, torch.cat([model.embed(text) for text in texts]), atol=1e-5, rtol=0)


def test_training_is_reproducible_bit_for_bit(name):
    first, second = (zoo.load(name, "cpu").finetune(REVIEWS, strategy="full", **FAST) for _ in range(2))
    assert first.history == second.history
    assert torch.equal(first.embed("the film"), second.embed("the film"))


def test_finetuned_language_model_can_be_finetuned_as_a_classifier(name, tmp_path):
    zoo.load(name, "cpu").finetune(CORPUS, task="masked-lm", out=tmp_path / "lm", **FAST)
    model = zoo.load(tmp_path / "lm", "cpu").finetune(REVIEWS, strategy="full", out=tmp_path / "reviews", **FAST)
    assert model.metrics["accuracy"] > 0.8
    assert zoo.load(tmp_path / "reviews", "cpu").predict("a great film") == model.predict("a great film")


def test_tied_weights_are_saved_once(name, tmp_path):
    from safetensors import safe_open

    zoo.load(name, "cpu").finetune(CORPUS, task="causal-lm", out=tmp_path / "lm", **FAST | {"steps": 2})
    with safe_open(tmp_path / "lm" / "zoo.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == ["backbone.mix.bias", "backbone.mix.weight", "backbone.table.weight"]
    again = zoo.load(tmp_path / "lm", "cpu").backbone.module
    assert again.lm_head.weight is again.table.weight


def test_generate_returns_a_continuation_of_each_prompt(name):
    written = zoo.load(name, "cpu").generate(["the film", "a"], max_new_tokens=4)
    assert len(written) == 2
    assert all(len(text.split()) <= 4 for text in written)


def test_masked_lm_prediction_requires_exactly_one_mask_token(name):
    model = zoo.load(name, "cpu").finetune(CORPUS, task="masked-lm", **FAST | {"steps": 2})
    assert len(model.predict("the [MASK] was dull", top=3).top) == 3
    with pytest.raises(DataError, match="the mask token once"):
        model.predict("no mask at all")
    assert len(model.predict("the [MASK]", top=10**6).top) == model.backbone.tokenizer.fast.get_vocab_size()


def test_probe_for_language_modelling_raises(name):
    with pytest.raises(RecipeError, match="language modelling keeps that of the backbone"):
        zoo.load(name, "cpu").finetune(CORPUS, task="causal-lm", strategy="probe")


def test_language_modelling_after_classification_raises(name):
    model = zoo.load(name, "cpu").finetune(REVIEWS)
    with pytest.raises(RecipeError, match="its language-modelling head is gone"):
        model.finetune(CORPUS, task="masked-lm")


def test_tagging_a_text_longer_than_max_length_raises(name):
    model = zoo.load(name, "cpu").finetune(tagged_reviews(), max_length=16, **FAST | {"steps": 2})
    with pytest.raises(DataError, match="a text of 30 words is too long for this model"):
        model.predict([["film"] * 30])


def test_text_pairs_are_classified(name):
    pairs = [((a, b), "same" if one == other else "different") for (a, one), (b, other) in zip(REVIEWS, REVIEWS[::-1])]  # noqa: B905
    pairs += [((a, a), "same") for a, _ in REVIEWS[:20]]
    model = zoo.load(name, "cpu").finetune(pairs, strategy="full", **FAST)
    assert model.task.name == "classify"
    assert model.predict([pairs[0][0]])[0].label in ("same", "different")


def test_long_texts_are_split_for_validation_by_paragraph(name):
    book = "\n\n".join(CORPUS)
    model = zoo.load(name, "cpu").finetune([book], task="causal-lm", **FAST | {"steps": 2})
    assert model.metrics["perplexity"] > 1


@pytest.mark.parametrize("how", ["weights", "logits", "sampler"])
def test_class_balance_increases_the_recall_of_rare_classes(name, how):
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


def test_cli_accepts_tables_and_texts(name, isolated):
    rows = "".join(f"{text},{label}\n" for text, label in REVIEWS)
    (isolated / "reviews.csv").write_text("review,sentiment\n" + rows)
    trained = json.loads(run("finetune", name, "reviews.csv", "--out", "model", "--json"))
    assert trained["metrics"]["accuracy"] > 0.8
    measured = json.loads(run("evaluate", "model", "reviews.csv", "--json"))
    assert set(measured["per_class"]) == {"good", "bad"}
    assert "support" in run("evaluate", "model", "reviews.csv")
    (isolated / "one.txt").write_text("a lovely film")
    answers = json.loads(run("predict", "model", "one.txt", "--text", "an awful film", "--json"))
    assert [answer["label"] for answer in answers] == ["bad", "good"]
    assert "good" in run("predict", "model", "--text", "a lovely film", "--top", "2")


def test_classify_without_labels_raises(name):
    with pytest.raises(DataError, match="the data has no labels, and classify learns from labels"):
        zoo.load(name, "cpu").finetune(CORPUS, task="classify")


def test_leak_of_a_tagger_shows_texts(name, capsys):
    data = tagged_reviews(24)
    zoo.load(name, "cpu").finetune(data, valid=data[:3], strategy="probe")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("leak")]
    assert "text 0 (" in line
    assert "image" not in line
