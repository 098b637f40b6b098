"""What the configuration of a repository says: which architecture, which kind of model, how long an input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import PluginError

HUGE = 1_000_000
"""tokenizer_config.json writes a length of 10^30 where it means none."""
LONGEST = 8_192
"""Tokens beyond which no input is read, whatever a model could take."""
UNBOUNDED = 512
"""Tokens that a model without a limit (T5's relative positions) was pretrained on."""
MASKED_VIT = "vit_mae"
"""Hides patches at random in its own class; its encoder is a plain ViT."""


def read(path: Path | None, label: str = "") -> dict[str, Any]:
    """Return the object in a JSON file, called `label` in errors; {} if there is no such file."""
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PluginError(f"{label or path} cannot be read: {error}", fix="choose another repository") from error
    return found if isinstance(found, dict) else {}


def make(name: str, values: Mapping[str, Any], modality: str) -> Any:
    """Return the transformers configuration that a config.json describes; of an image-and-text model, its image half.

    Raises PluginError for an architecture that transformers does not know: code of repositories is never run.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = str(values.get("model_type", ""))
    if kind not in CONFIG_MAPPING:
        custom = ", and the code in its repository is never run" if "auto_map" in values else ""
        raise PluginError(
            f"{name}: transformers has no architecture {kind!r}{custom}",
            fix="pip install --upgrade transformers, or choose another backbone: zoo list hf/",
        )
    if kind == MASKED_VIT:
        kind, values = "vit", {**values, "model_type": "vit"}
    config = CONFIG_MAPPING[kind].from_dict(dict(values))
    half = getattr(config, "vision_config" if modality == "image" else "text_config", None)
    return config if half is None else half


def modality(values: Mapping[str, Any], files: Mapping[str, Any]) -> str:
    """Tell whether a repository takes images or texts: by its configuration, then by what else it holds."""
    if "vision_config" in values or "image_size" in values or "preprocessor_config.json" in files:
        return "image"
    if any(key in values for key in ("vocab_size", "text_config")):
        return "text"
    return "image"


def decodes(config: Any) -> bool:
    """Tell whether a text model reads from left to right only, as GPT does."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    return type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING


def length(config: Any, tokenizer: Mapping[str, Any], sentence: Mapping[str, Any]) -> int:
    """Return the longest input in tokens, special ones included, by everything that has a say in it."""
    limits = [LONGEST]
    positions = getattr(config, "max_position_embeddings", None)
    if positions:
        offset = 2 if config.model_type == "mpnet" else config.pad_token_id + 1 if config.model_type in OFFSET else 0
        limits.append(positions - offset)
    else:
        limits.append(UNBOUNDED)
    for value in (tokenizer.get("model_max_length"), sentence.get("max_seq_length")):
        if isinstance(value, int | float) and 0 < value < HUGE:
            limits.append(int(value))
    return min(limits)


OFFSET = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text", "longformer")
"""The first positions of these, and of MPNet, stand for padding: fewer are left than the configuration names."""
