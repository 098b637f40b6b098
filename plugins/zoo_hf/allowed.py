"""The values of a config.json that reach transformers: hyperparameters of the architecture, and nothing else.

A configuration takes any key as an attribute, and some attributes make transformers fetch a repository, run a kernel,
import a quantisation library or read a file. Other keys are left out, at any depth; none of them is a hyperparameter.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

ATTENTION = ("eager", "sdpa")
"""Attention implementations that PyTorch itself has; others are packages or repositories."""
ATTENTION_KEYS = ("attn_implementation", "_attn_implementation")
DTYPES = ("float64", "float32", "float16", "bfloat16")
HEADS = ("architectures", "id2label", "label2id", "num_labels", "problem_type")
"""Keys about a head, which backbones lack."""
FORMER = (
    *("model_type", "rope_scaling", "layer_types", "mtp_layer_types", "per_layer_config"),
    *("out_features", "linear_attn_config", "sparse_attention_config", "attention_other_setting", "loop_config"),
    *("position_embedding_type", "norm_rel_ebd", "pos_att_type", "hidden_act", "conv_act", "decoder"),
    *("hybrid_override_pattern", "summary_type", "summary_activation", "index_topk_pattern", "moe_layers_enum"),
)
"""Undeclared hyperparameters that are not numbers; configuration classes convert them, or models read them."""
SUB_CONFIG = ("text_config_dict", "vision_config_dict")
"""Former names of sub-configurations in image-text dual encoders."""
LOADING = {"backbone", "use_timm_backbone", "use_pretrained_backbone", "backbone_kwargs", "use_kernels"}
"""Keys about another model, which transformers looks up on the Hub, and about kernels."""
LONGEST = 10_000
"""Maximum length of a list or a text, and number of layers."""
WORD = re.compile(r"[\w.*+-]*", re.ASCII)
"""Texts in a table: no path, repository or address."""
LAYERS = re.compile("layers?$|depth|blocks")
"""Keys of numbers of layers: configurations make lists of that length."""


def hyperparameters(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the allowed values for the configuration class `kind`, and for those of its sub-configurations.

    Raises ValueError for a model that is built by timm, which reads files and repositories by the name of the model.
    """
    if str(kind.model_type).startswith("timm"):
        raise ValueError(f"{kind.model_type} is a model of timm: its names are timm/…")
    declared = {*(field.name for field in fields(kind)), *kind.attribute_map}
    found = {key: _value(kind, key, value) for key, value in values.items() if _is_allowed(kind, key, value, declared)}
    return found | {"model_type": kind.model_type} if "model_type" in found else found


def _is_allowed(kind: Any, key: str, value: Any, declared: set[str]) -> bool:
    """Return whether a key is a declared or former hyperparameter of a configuration class."""
    if key in HEADS or key in LOADING:
        return False
    if key in ATTENTION_KEYS:
        return isinstance(value, str) and value in ATTENTION
    if key in ("dtype", "torch_dtype"):
        return isinstance(value, str) and value in DTYPES
    if key in declared or key in FORMER or key in SUB_CONFIG:
        return True
    return _is_number(value) and not key.startswith("_") and not _is_method(kind, key)


def _is_number(value: Any) -> bool:
    """Return whether a value is None, a number or a list of numbers."""
    if isinstance(value, list):
        return len(value) <= LONGEST and all(map(_is_number, value))
    return value is None or isinstance(value, bool | int | float)


def _is_method(kind: Any, key: str) -> bool:
    """Return whether a configuration class has an attribute that cannot be set, such as a method."""
    found = inspect.getattr_static(kind, key, None)
    return found is not None and getattr(found, "fset", None) is None


def _value(kind: Any, key: str, value: Any) -> Any:
    """Return an allowed value, sub-configurations without the keys that they do not declare."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if isinstance(value, list | str) and len(value) > LONGEST:
        raise ValueError(f"{key} has {len(value):,} items, more than {LONGEST:,}")
    if isinstance(value, int) and value > LONGEST and LAYERS.search(key):
        raise ValueError(f"{key} is {value:,}, more than {LONGEST:,}")
    if isinstance(value, list):
        return [_value(kind, key, item) for item in value]
    if not isinstance(value, Mapping):
        return value
    own = kind.sub_configs.get(key.removesuffix("_dict") if key in SUB_CONFIG else key)
    if own is not None and hasattr(own, "attribute_map"):  # any other is AutoConfig: the class depends on model_type
        return hyperparameters(own, value)
    named = value.get("model_type")
    if isinstance(named, str) and named in CONFIG_MAPPING:
        return hyperparameters(CONFIG_MAPPING[named], value)
    return {name: _value(kind, name, item) for name, item in value.items() if is_plain(item)}


def is_plain(value: Any) -> bool:
    """Return whether a value in a table, such as rope_scaling, is a number, a word, or a list or table of them."""
    if isinstance(value, Mapping):
        return all(map(is_plain, value.values()))
    if isinstance(value, list):
        return all(map(is_plain, value))
    return WORD.fullmatch(value) is not None if isinstance(value, str) else True
