"""Journey: a causal language model, fine-tuned on one's texts, continues a prompt on the command line and in Python."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
import words
from click.testing import CliRunner
from tokenizers import processors

import zoo
from zoo.cli import main
from zoo.errors import DataError, RecipeError

CORPUS = [text for text, _ in words.reviews(60, seed=1)]


def run(*args, **extra):
    return CliRunner().invoke(main, [*map(str, args)], **extra)


@pytest.fixture
def name(serve):
    serve(net=tiny.repository("gpt2"))
    return "hf/tiny/net"


@pytest.fixture
def model(name):
    return zoo.load(name, "cpu")


def test_finetune_then_generate(name):
    Path("mails.txt").write_text("\n".join(CORPUS))
    settings = ("--set", "steps=2", "--set", "batch_size=8")
    assert run("finetune", name, "mails.txt", "--task", "causal-lm", "--out", "lm", *settings).exit_code == 0
    drawn = ("--tokens", 4, "--temperature", 2)
    result = run("generate", "lm", "the film", *drawn)
    assert result.exit_code == 0
    torch.manual_seed(0)
    assert result.stdout == zoo.load("lm", "cpu").generate("the film", 4, 2) + "\n"
    assert 1 <= len(result.stdout.split()) <= 4
    document = json.loads(run("generate", "lm", "-", *drawn, "--json", input="the film").stdout)
    assert document == {"prompt": "the film", "text": result.stdout.removesuffix("\n")}


def test_a_seed_repeats_what_is_drawn(name):
    def drawn(*more):
        result = run("generate", name, "the film", "--tokens", 12, "--temperature", 1.5, *more)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    assert drawn("--seed", 3) == drawn("--seed", 3)
    assert len({drawn("--seed", seed) for seed in range(3)}) > 1
    assert drawn("--top-k", 5, "--top-p", "0.9") == drawn("--top-k", 5, "--top-p", "0.9")


def test_the_likeliest_token_alone_is_the_greedy_one(model):
    greedy = model.generate(["the film", "a plot was"], 6)
    assert model.generate(["the film", "a plot was"], 6, 0.7, top_k=1) == greedy
    assert model.generate(["the film", "a plot was"], 6, 0.7, top_p=1e-6) == greedy


def test_core_generates_as_transformers_does(model):
    """A plugin needs no generation of its own; the prompts have different lengths."""
    expected = [model.generate(text, 5) for text in ("the film", "a plot was grim and")]
    model.backbone = replace(model.backbone, generate=None)
    assert model.generate(["the film", "a plot was grim and"], 5) == expected


def test_a_text_ends_before_the_stop(model):
    def text(**more):
        torch.manual_seed(0)
        return model.generate("the film", 8, 2.0, **more)

    whole = text()
    second = whole.split()[1]
    assert text(stop=second) == whole[: whole.index(second)]
    model.backbone = replace(model.backbone, generate=None)
    whole = text()
    second = whole.split()[1]
    assert text(stop=["nowhere", second]) == whole[: whole.index(second)]
    result = run("generate", "hf/tiny/net", "the film", "--tokens", 8, "--stop", "a", "--stop", "b")
    assert not {"a", "b"} & set(result.stdout)


def test_top_k_and_top_p_leave_out_the_unlikely():
    from zoo.model.generation import Sampling, _choose

    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(400, 1)
    for settings, kept in (((0.0, 1.0, 2), 2), ((0.0, 0.7, 0), 2), ((0.0, 0.81, 0), 3), ((0.0, 1.0, 0), 4)):
        _, top_p, top_k = settings
        assert set(_choose(logits, Sampling(1, 1.0, top_p, top_k)).tolist()) == set(range(kept))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 is not a whole number above 0"),
        ({"batch_size": 0}, "batch_size=0 is not a whole number above 0"),
        ({"max_new_tokens": 999}, "999 new tokens do not fit: the model reads"),
        ({"temperature": -1}, "temperature=-1 is not a number from 0"),
        ({"temperature": float("nan")}, "temperature=nan is not a number from 0"),
        ({"temperature": 1, "top_p": 0}, "top_p=0 is not a number above 0 and up to 1"),
        ({"temperature": 1, "top_k": -1}, "top_k=-1 is not a whole number from 0"),
        ({"top_k": 5}, "temperature 0 takes the likeliest token"),
        ({"stop": ""}, "stop='' is not a text, or several"),
        ({"stop": 3}, "stop=3 is not a text, or several"),
    ],
)
def test_invalid_settings_raise(model, settings, message):
    with pytest.raises(RecipeError) as caught:
        model.generate("the film", **settings)
    assert message in caught.value.what


def test_errors_of_the_command_have_a_fix(name):
    result = run("generate", name, "the film", "--top-k", 5)
    assert result.exit_code == 1
    assert "fix: temperature=0.8   (--temperature 0.8)" in result.stderr
    result = run("generate", name, "the film", "--tokens", 0)
    assert "fix: max_new_tokens=50   (--tokens 50)" in result.stderr
    assert "is not a causal language model" in run("generate", "native/resnet14.letters", "x").stderr
    assert run("generate", name, "x", "--tokens", "many").exit_code == 2


def test_a_prompt_without_tokens_raises(model):
    model.generate("the film", 1)  # loads the head
    model.backbone.tokenizer.fast.post_processor = processors.Sequence([])
    with pytest.raises(DataError, match="a prompt has no tokens"):
        model.generate("")
