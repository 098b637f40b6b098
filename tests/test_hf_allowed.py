"""zoo_hf.allowed: no key of a config.json opens a connection, runs code or changes the network."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import tiny
import torch
from transformers import CONFIG_MAPPING
from zoo_hf import allowed, configs, facts, nets

from zoo.errors import PluginError, ZooError
from zoo.weights.guard import guarded

REPOSITORY = "evil/repository"
HOSTILE: dict[str, Any] = {
    "_attn_implementation": REPOSITORY,
    "attn_implementation": f"{REPOSITORY}@main:kernel",
    "_attn_implementation_internal": REPOSITORY,
    "_experts_implementation": REPOSITORY,
    "experts_implementation": "deepgemm",
    "auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"},
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "use_kernels": True,
    "kernel_config": {},
    "backbone": REPOSITORY,
    "use_pretrained_backbone": True,
    "use_timm_backbone": False,
    "backbone_kwargs": {},
    "name_or_path": REPOSITORY,
    "_name_or_path": REPOSITORY,
    "tokenizer_class": "Evil",
    "torch_dtype": "load",
    "num_labels": 10**9,
    "id2label": {"x": "y"},
    "to_dict": 1,
    "_auto_class": "AutoModel",
}
FAMILIES = ("bert", "gpt2", "llama", "mamba", "t5", "vit", "swin", "clip", "clip_vision_model", "siglip", "flava")
DETECTORS = (
    "detr",
    "dab-detr",
    "dpt",
    "rt_detr",
    "maskformer",
    "mask2former",
    "upernet",
    "tvp",
    "omdet-turbo",
    "zoedepth",
)
TIMM = ("timm_wrapper", "timm_backbone")


def everywhere(values: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with the hostile keys at every depth."""
    return {key: everywhere(value) if isinstance(value, dict) else value for key, value in values.items()} | HOSTILE


def sub_configs(config: Any) -> list[Any]:
    found = [getattr(config, name, None) for name in config.sub_configs]
    return [config, *(part for each in found if each is not None for part in sub_configs(each))]


@pytest.mark.parametrize("kind", [*FAMILIES, *DETECTORS, *TIMM])
def test_a_hostile_configuration_opens_no_connection(kind):
    plain = json.loads(json.dumps(CONFIG_MAPPING[kind]().to_dict(), default=str))
    for values in ({**HOSTILE, "model_type": kind}, {**everywhere(plain), "model_type": kind}):
        with guarded("a configuration"):
            try:
                facts.from_transformers("hf/evil/net", values)
                config = configs.make("hf/evil/net", values, "text")
            except ZooError as error:
                assert "would open a connection" not in error.what  # noqa: PT017  # some families refuse the values
                continue
        for part in sub_configs(config):
            assert part._attn_implementation in (None, *allowed.ATTENTION)
            assert not {"quantization_config", "auto_map", "use_kernels", "num_labels"} & vars(part).keys()
            assert REPOSITORY not in str(vars(part))


@pytest.mark.parametrize("kind", ["bert", "gpt2", "vit", "clip_vision_model", "mamba", "deberta-v2", "modernbert"])
def test_hostile_keys_do_not_change_the_network(kind):
    plain = tiny.config(kind).to_dict() | {"model_type": kind}
    modality = "text" if kind in tiny.TEXT else "image"
    found = []
    for values in (plain, plain | HOSTILE):
        torch.manual_seed(0)
        with guarded("a network"):
            found.append(nets.base(configs.make("hf/evil/net", values, modality), modality))
    for name, tensor in found[0].state_dict().items():
        assert torch.equal(tensor, found[1].state_dict()[name])
    assert str(found[0]) == str(found[1])


@pytest.mark.parametrize("kind", [*tiny.TEXT, *tiny.VISION])
def test_the_hyperparameters_of_a_family_are_all_allowed(kind):
    values = json.loads(json.dumps(tiny.config(kind).to_dict(), default=str))
    whole = CONFIG_MAPPING[kind].from_dict(values).to_dict()
    kept = CONFIG_MAPPING[kind].from_dict(allowed.hyperparameters(CONFIG_MAPPING[kind], values)).to_dict()
    assert whole == kept


@pytest.mark.parametrize("how", allowed.ATTENTION)
def test_attention_implementations_of_pytorch_are_kept(how):
    values = {"model_type": "bert", "_attn_implementation": how}
    assert configs.make("hf/a/b", values, "text")._attn_implementation == how


@pytest.mark.parametrize("key", ["vision_config", "text_config"])
def test_a_sub_configuration_is_never_a_model_of_timm(key):
    values = {"model_type": "siglip", key: {"model_type": "timm_wrapper", "architecture": f"hf-hub:{REPOSITORY}"}}
    with guarded("a configuration"):
        config = configs.make("hf/evil/net", values, "text")
    assert not any(part.model_type.startswith("timm") for part in sub_configs(config)[1:])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1,000,000,000, more than 10,000"),
        ({"model_type": "timm_wrapper"}, "is a model of timm"),
        ({"layer_types": ["x"] * 10**5}, "layer_types has 100,000 items"),
    ],
)
def test_excessive_values_raise(values, message):
    with pytest.raises(PluginError, match=message):
        configs.make("hf/evil/net", {"model_type": "bert"} | values, "text")


def test_excessive_buffers_raise():
    config = configs.make("hf/evil/net", {"model_type": "bert", "max_position_embeddings": 10**9}, "text")
    with torch.device("meta"), pytest.raises(PluginError, match=r"the buffers of BertModel would take 16\.0 GB"):
        nets.empty(partial(nets.base, config, "text"))
