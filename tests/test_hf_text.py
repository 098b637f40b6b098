"""zoo_hf text models: features, heads and generation of every family equal those of transformers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import tiny
import torch
import words
from samples import every_fourth
from transformers import AutoModel

import zoo
from zoo import store
from zoo.catalogue import plugins, registry
from zoo.errors import PluginError, StoreError
from zoo.testing import kit
from zoo.weights import loader

ENCODER_ONLY = ("t5", "mt5", "bart")
WITH_LM_HEAD = [kind for kind in tiny.TEXT if kind not in ENCODER_ONLY]
DECODERS = (
    *("gpt2", "opt", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"),
    *("mixtral", "mamba", "xlnet"),
)


def reference(kind):
    """Return the transformers model without a head."""
    whole = tiny.model(kind)
    below = getattr(whole, whole.base_model_prefix, whole)
    return below.encoder if kind in ENCODER_ONLY else below


@pytest.mark.parametrize("kind", tiny.TEXT)
def test_features_equal_transformers(kind, serve):
    serve(net=tiny.repository(kind))
    model = zoo.load("hf/tiny/net", "cpu")
    batch = tiny.batch()
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        found = model.backbone.module(batch)
        expected = reference(kind)(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    torch.testing.assert_close(found.tokens[mask], expected.last_hidden_state[mask], atol=1e-5, rtol=0)
    last = [found.tokens[0, 9], found.tokens[1, 5], found.tokens[2, 9]]
    mean = [tokens[kept].mean(0) for tokens, kept in zip(found.tokens, mask, strict=True)]
    torch.testing.assert_close(found.pooled, torch.stack(last if kind in DECODERS else mean), atol=1e-5, rtol=0)
    assert ("causal-lm" in model.entry.tasks, "masked-lm" in model.entry.tasks) == (
        kind in DECODERS,
        kind in WITH_LM_HEAD and kind not in DECODERS,
    )


def with_head(kind):
    entry = registry.find("hf/tiny/net")
    entry = replace(entry, options={"lm_head": True})
    return loader.load(plugins.load("hf"), entry, store.pull(entry))


@pytest.mark.parametrize("kind", WITH_LM_HEAD)
def test_language_modelling_logits_equal_transformers(kind, serve):
    serve(net=tiny.repository(kind))
    backbone = with_head(kind)
    backbone.module.eval()
    batch = tiny.batch()
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        tokens = backbone.module(batch).tokens
        expected = tiny.model(kind)(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        torch.testing.assert_close(backbone.lm_head(tokens)[mask], expected[mask], atol=1e-5, rtol=0)
        torch.testing.assert_close(backbone.lm_head(tokens[mask]), expected[mask], atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", DECODERS)
def test_batched_generation_equals_transformers_without_padding(kind, serve):
    serve(net=tiny.repository(kind))
    backbone = with_head(kind)
    backbone.module.eval()
    batch = tiny.batch()
    found = backbone.generate(batch, 5, 0.0)
    for row, ids, mask in zip(found, batch["input_ids"], batch["attention_mask"].bool(), strict=True):
        alone = ids[mask][None]
        expected = tiny.model(kind).generate(
            input_ids=alone, attention_mask=torch.ones_like(alone), max_new_tokens=5, do_sample=False, pad_token_id=0
        )[0]
        assert row[-5:].tolist()[: expected.shape[0] - alone.shape[1]] == expected[alone.shape[1] :].tolist()


@pytest.mark.parametrize("kind", every_fourth(tiny.TEXT))
def test_text_families_conform(kind, serve):
    serve(net=tiny.repository(kind))
    zoo.pull("hf/tiny/net")
    kit.check_plugin("hf", ["hf/tiny/net"])


@pytest.mark.parametrize("kind", ["bert", "gpt2", "roberta", "deberta-v2"])
def test_checkpoints_with_and_without_a_head_give_equal_features(kind, serve):
    bare = tiny.files(reference(kind), text=True)
    serve(net=bare, whole=tiny.repository(kind))
    one, other = zoo.load("hf/tiny/net", "cpu"), zoo.load("hf/tiny/whole", "cpu")
    texts = [text for text, _ in words.reviews(6)]
    assert torch.equal(one.embed(texts), other.embed(texts))


def test_sharded_and_half_precision_checkpoints_load_as_float32(serve):
    whole = tiny.model("bert")
    parts = tiny.files(whole, text=True, max_shard_size="20KB")
    assert sum(name.endswith(".safetensors") for name in parts) > 1
    half = AutoModel.from_config(tiny.config("bert", dtype="bfloat16")).to(torch.bfloat16)
    serve(net=tiny.repository("bert"), parts=parts, half=tiny.files(half, text=True))
    texts = [text for text, _ in words.reviews(4)]
    assert torch.equal(zoo.load("hf/tiny/net", "cpu").embed(texts), zoo.load("hf/tiny/parts", "cpu").embed(texts))
    low = zoo.load("hf/tiny/half", "cpu")
    assert {p.dtype for p in low.backbone.module.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("cls_token", lambda tokens: tokens[0]),
        ("mean_tokens", lambda tokens: tokens.mean(0)),
        ("max_tokens", lambda tokens: tokens.amax(0)),
        ("lasttoken", lambda tokens: tokens[-1]),
        ("mean_sqrt_len_tokens", lambda tokens: tokens.sum(0) / len(tokens) ** 0.5),
        (
            "weightedmean_tokens",
            lambda tokens: (tokens * torch.arange(1, len(tokens) + 1)[:, None]).sum(0) / sum(range(len(tokens) + 1)),
        ),
    ],
)
def test_pooling_modes_of_sentence_transformers(mode, expected, serve):
    pooling = json.dumps({"word_embedding_dimension": 32, f"pooling_mode_{mode}": True}).encode()
    serve(net={**tiny.repository("bert"), "1_Pooling/config.json": pooling})
    batch = tiny.batch()
    with torch.no_grad():
        found = zoo.load("hf/tiny/net", "cpu").backbone.module(batch)
    for pooled, tokens, mask in zip(found.pooled, found.tokens, batch["attention_mask"].bool(), strict=True):
        torch.testing.assert_close(pooled, expected(tokens[mask]), atol=1e-5, rtol=0)


def test_max_length_is_the_minimum_of_all_limits(serve):
    sentence = json.dumps({"max_seq_length": 40}).encode()
    limited = {**tiny.repository("bert"), "sentence_bert_config.json": sentence}
    serve(bert=tiny.repository("bert"), roberta=tiny.repository("roberta"), limited=limited)
    lengths = [registry.find(f"hf/tiny/{name}").input.max_length for name in ("bert", "roberta", "limited")]
    assert lengths == [66, 65, 40]


LIMITED = [kind for kind in tiny.TEXT if kind not in ("t5", "mt5", "mamba", "xlnet")]


@pytest.mark.parametrize("kind", LIMITED)
def test_models_accept_inputs_of_max_length(kind, serve):
    serve(net=tiny.repository(kind))
    model = zoo.load("hf/tiny/net", "cpu")
    longest = model.entry.input.max_length
    ids = torch.randint(5, 25, (1, longest))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        assert model.backbone.module(batch).tokens.shape[1] == longest
    assert longest == (64 if kind == "mpnet" else 65 if kind in ROBERTAS else 66)


ROBERTAS = ("roberta", "xlm-roberta", "camembert", "longformer")
"""Families whose positions start after the padding id."""


def test_a_decoder_classifier_gives_the_logits_of_transformers(serve):
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(0)
    whole = LlamaForSequenceClassification(tiny.config("llama", num_labels=2, id2label={0: "good", 1: "bad"})).eval()
    serve(net=tiny.files(whole, text=True))
    entry, batch = registry.find("hf/tiny/net"), tiny.batch()
    model = zoo.load("hf/tiny/net", "cpu")
    found = loader.classifier(plugins.load("hf"), entry, store.pull(entry), model.backbone.dim)
    assert found.labels == (("good",), ("bad",))
    with torch.no_grad():
        logits = model.backbone.module(batch).pooled @ found.weight.T + found.bias
        expected = whole(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_an_encoder_classifier_is_none(serve):
    from transformers import BertForSequenceClassification

    whole = BertForSequenceClassification(tiny.config("bert", num_labels=2, id2label={0: "good", 1: "bad"}))
    serve(net=tiny.files(whole, text=True))
    entry = registry.find("hf/tiny/net")
    assert loader.classifier(plugins.load("hf"), entry, store.pull(entry), 32) is None
    assert zoo.load("hf/tiny/net", "cpu").embed("the film").shape == (1, 32)


def test_a_pulled_model_loads_without_requests(serve, monkeypatch):
    hub = serve(net=tiny.repository("bert"))
    first = zoo.load("hf/tiny/net", "cpu").embed("the film")
    asked = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    assert torch.equal(zoo.load("hf/tiny/net", "cpu").embed("the film"), first)
    assert len(hub.requests) == asked


def test_a_revision_is_a_separate_backbone(serve):
    other = AutoModel.from_config(tiny.config("bert"))
    hub = serve(net=tiny.repository("bert"))
    hub.repos["tiny/net@old"] = tiny.files(other, text=True)
    new, old = zoo.load("hf/tiny/net", "cpu"), zoo.load("hf/tiny/net@old", "cpu")
    assert old.entry.name == "hf/tiny/net@old"
    assert not torch.equal(new.embed("the film"), old.embed("the film"))


def without(kind, *names):
    return {name: content for name, content in tiny.repository(kind).items() if name not in names}


def changed(kind, **values):
    config = json.loads(tiny.repository(kind)["config.json"]) | values
    return {**tiny.repository(kind), "config.json": json.dumps(config).encode()}


@pytest.mark.parametrize(
    ("repo", "message"),
    [
        (without("bert", "config.json"), "has no config.json"),
        (
            {**without("bert", "model.safetensors"), "pytorch_model.bin": b"x"},
            r"has pytorch_model.bin, which may contain",
        ),
        (without("bert", "model.safetensors"), "has no weights"),
        (changed("bert", model_type="owl"), "no architecture 'owl'"),
        (
            changed("bert", model_type="owl", auto_map={"AutoModel": "owl.Owl"}),
            "the code in its repository is never run",
        ),
        ({**tiny.repository("bert"), "config.json": b"{"}, "config.json of hf/tiny/net cannot be read"),
    ],
)
def test_an_unusable_repository_raises(repo, message, serve):
    serve(net=repo)
    with pytest.raises(PluginError, match=message):
        zoo.load("hf/tiny/net", "cpu")


def test_a_missing_repository_raises(serve):
    serve()
    with pytest.raises(StoreError, match="has no repository tiny/net"):
        zoo.load("hf/tiny/net", "cpu")


def test_weights_of_extra_layers_raise(serve):
    serve(net=changed("bert", num_hidden_layers=1))
    with pytest.raises(zoo.ZooError, match=r"\d+ unexpected: "):
        zoo.load("hf/tiny/net", "cpu")
