"""zoo_hf name resolution: required files, repositories rejected before download, tasks, and catalogue rows."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from hub import Hub
from safetensors.torch import save
from transformers import CONFIG_MAPPING

import zoo
from zoo.catalogue import plugins, registry
from zoo.errors import PluginError, StoreError


@pytest.fixture
def hub(monkeypatch):
    """Return an empty Hub server; assign its repositories to `repos`."""
    with Hub({}) as started:
        monkeypatch.setenv("HF_ENDPOINT", started.url)
        yield started


def described(kind, **values):
    """Return a repository with a configuration and dummy weights."""
    config = CONFIG_MAPPING[kind](**values).to_json_string(use_diff=False)
    return {"config.json": config.encode(), "model.safetensors": b"0" * 100}


UNSUPPORTED = {
    "wav2vec2": r"supports models of either images or texts; wav2vec2 takes input_values",
    "whisper": r"whisper takes input_features",
    "videomae": r"videomae takes pixel_values, several frames",
    "llava": r"llava takes input_ids, images",
    "qwen2_vl": r"qwen2_vl takes input_ids, images",
    "clap": r"clap takes .*sounds",
    "siglip2": r"siglip2_vision_model takes pixel_values, pixel_attention_mask, spatial_shapes",
    "upernet": r"transformers has no base model for upernet",
    "bert": r"hf/tiny/net has no tokenizer",
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_unsupported_models_raise_before_downloading_weights(kind, hub):
    hub.repos = {"tiny/net": described(kind)}
    with pytest.raises(PluginError, match=UNSUPPORTED[kind]):
        zoo.load("hf/tiny/net")
    assert not any("safetensors" in request.path for request in hub.requests)


def test_a_model_without_image_features_raises(hub):
    hub.repos = {"tiny/net": {**described("hgnet_v2"), "model.safetensors": save({"x": torch.zeros(1)})}}
    with pytest.raises(PluginError, match="hgnet_v2 cannot extract features of a single image"):
        zoo.load("hf/tiny/net")


def test_a_timm_repository_raises_with_its_timm_name(hub):
    config = json.dumps({"architecture": "resnet18", "num_classes": 10}).encode()
    hub.repos = {"tiny/net": {"config.json": config, "model.safetensors": b"0"}}
    with pytest.raises(PluginError, match="has no model_type") as caught:
        zoo.load("hf/tiny/net")
    assert caught.value.fix == "zoo info timm/tiny/net"


def test_an_invalid_configuration_raises(hub):
    hub.repos = {"tiny/net": {**described("bert"), "config.json": b'{"model_type": "bert", "hidden_size": "wide"}'}}
    with pytest.raises(PluginError, match=r"hf/tiny/net: config.json is not a valid bert configuration: .*hidden_size"):
        zoo.load("hf/tiny/net")


def test_a_gated_repository_raises_with_its_url(hub):
    hub.repos, hub.gated = {"tiny/net": tiny.repository("bert")}, frozenset({"tiny/net"})
    with pytest.raises(StoreError, match="tiny/net is gated") as caught:
        zoo.load("hf/tiny/net")
    assert f"{hub.url}/tiny/net" in caught.value.fix


def test_resolving_a_name_takes_one_listing_and_the_configuration_files(hub):
    hub.repos = {"tiny/net": {**tiny.repository("bert"), "README.md": b"card", "pytorch_model.bin": b"pickle"}}
    entry = registry.find("hf/tiny/net")
    listings = [request for request in hub.requests if request.path.startswith("/api/")]
    fetched = {request.path.rpartition("/")[2] for request in hub.requests if request not in listings}
    assert len(listings) == 1
    assert fetched == {"config.json", "tokenizer_config.json"}
    assert {file.path for file in entry.files} == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    }
    assert (entry.modality, entry.params, entry.license) == ("text", None, None)


POOLING = {"1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}'}


@pytest.mark.parametrize(
    ("kind", "architecture", "more", "expected"),
    [
        ("bert", "BertForMaskedLM", {}, ("masked-lm",)),
        ("bert", "BertForPreTraining", {}, ("masked-lm",)),
        ("bert", "BertModel", {}, ("masked-lm",)),
        ("bert", None, {}, ("masked-lm",)),
        ("bert", "BertModel", POOLING, ()),
        ("bert", "BertForSequenceClassification", {}, ()),
        ("gpt2", "GPT2LMHeadModel", {}, ("causal-lm",)),
        ("llama", "LlamaForCausalLM", {}, ("causal-lm",)),
        ("llama", "LlamaForSequenceClassification", {}, ()),
        ("t5", "T5ForConditionalGeneration", {}, ()),
        ("bart", "BartModel", {}, ()),
    ],
)
def test_language_modelling_tasks_depend_on_the_saved_architecture(kind, architecture, more, expected, hub):
    config = json.loads(tiny.repository(kind)["config.json"]) | {"architectures": architecture and [architecture]}
    hub.repos = {"tiny/net": {**tiny.repository(kind), **more, "config.json": json.dumps(config).encode()}}
    assert registry.find("hf/tiny/net").tasks == ("classify", "multilabel", "regress", "tag", *expected)


def test_size_and_sha256_of_weights_are_in_the_row(hub):
    hub.repos = {"tiny/net": tiny.repository("bert")}
    weights = next(file for file in registry.find("hf/tiny/net").files if file.path == "model.safetensors")
    assert weights.bytes == len(tiny.repository("bert")["model.safetensors"])
    assert len(weights.sha256) == 64


def test_the_row_is_the_same_offline(hub, monkeypatch):
    hub.repos = {"tiny/net": {**tiny.repository("bert"), "README.md": b"card"}}
    online = registry.find("hf/tiny/net")
    zoo.pull("hf/tiny/net")
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    asked = len(hub.requests)
    offline = registry.find("hf/tiny/net")
    assert {file.path for file in offline.files} == {file.path for file in online.files}
    assert (offline.input, offline.tasks, offline.source) == (online.input, online.tasks, online.source)
    assert len(hub.requests) == asked


ROWS = zoo.list(plugin="hf")
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
DEFAULTS = {
    "hf/google-bert/bert-base-uncased": ("bert", {}),
    "hf/distilbert/distilbert-base-uncased": ("distilbert", {}),
    "hf/answerdotai/ModernBERT-base": ("modernbert", {}),
    "hf/sentence-transformers/all-MiniLM-L6-v2": ("bert", MINILM),
    "hf/openai-community/gpt2": ("gpt2", {}),
    "hf/google-t5/t5-small": ("t5", {}),
    "hf/google/vit-base-patch16-224": ("vit", {}),
    "hf/google/vit-base-patch16-224-in21k": ("vit", {}),
    "hf/facebook/convnext-tiny-224": ("convnext", {}),
    "hf/microsoft/swin-tiny-patch4-window7-224": ("swin", {}),
    "hf/microsoft/resnet-50": ("resnet", {}),
}


def test_every_row_with_dim_or_params_is_tested():
    assert {entry.name for entry in ROWS if entry.params or entry.dim} == set(DEFAULTS)


@pytest.mark.parametrize("name", DEFAULTS)
def test_dim_and_params_of_a_row_are_those_of_its_model(name, tmp_path):
    kind, values = DEFAULTS[name]
    entry = next(entry for entry in ROWS if entry.name == name)
    (tmp_path / "config.json").write_text(CONFIG_MAPPING[kind](**values).to_json_string(use_diff=False))
    (tmp_path / "tokenizer.json").write_bytes(tiny.repository("bert")["tokenizer.json"])
    with torch.device("meta"):
        built = plugins.load("hf").build(entry, {path.name: path for path in tmp_path.iterdir()})
    params = sum(parameter.numel() for parameter in built.module.parameters())
    assert (entry.dim, entry.params) == (built.dim, params)
