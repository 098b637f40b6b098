"""What the configuration of a repository says: which architecture, which kind of model, how long an input."""

from __future__ import annotations

import inspect
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
PADDED = (
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod", "camembert", "data2vec-text"),
    *("longformer", "luke", "ibert", "esm", "mpnet"),
)
"""Families that count positions from the padding token's number on: fewer are left than the configuration names."""
MODALITIES = {"pixel_values": "image", "input_ids": "text"}
"""What a model calls its main input -> what that is."""
ANOTHER = "choose another backbone: zoo list hf/"
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
        raise PluginError(f"{name}: {_unknown(kind, values)}", fix=_way_on(name, values))
    if kind == MASKED_VIT:
        kind, values = "vit", {**values, "model_type": "vit"}
    try:
        config = CONFIG_MAPPING[kind].from_dict(dict(values))
    except Exception as error:  # each family checks in its own way
        said = " ".join(str(error).split())
        raise PluginError(f"{name}: its configuration is none of {kind}: {said}", fix=ANOTHER) from error
    return config.vision_config if modality == "image" and _in_pairs(config) else config


def _unknown(kind: str, values: Mapping[str, Any]) -> str:
    if not kind:
        return "its config.json names no model_type, as models of transformers do"
    custom = ", and the code in its repository is never run" if "auto_map" in values else ""
    return f"transformers has no architecture {kind!r}{custom}"


def _way_on(name: str, values: Mapping[str, Any]) -> str:
    if "architecture" in values:  # which timm writes
        return f"zoo info timm/{name.removeprefix('hf/')}"
    return f"pip install --upgrade transformers, or {ANOTHER}"


def _in_pairs(config: Any) -> bool:
    """Tell whether a model matches images with texts, as CLIP does: its image half stands alone."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING as PAIRS

    return type(config) in PAIRS and hasattr(config, "vision_config")


def modality(name: str, values: Mapping[str, Any]) -> str:
    """Tell whether a model takes images or texts; PluginError for one that takes anything else, or more."""
    config = make(name, values, "image")
    kind = model_class(name, config)
    takes = kind.main_input_name
    parameters = list(inspect.signature(kind.forward).parameters.values())[1:]
    wanted = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    also = [name for name in wanted if name != takes]
    if getattr(config, "num_frames", None) and takes == "pixel_values":
        also.append("more than one of them")
    for half, what in (("vision_config", "images"), ("audio_config", "sounds")):
        also += [what] if hasattr(config, half) else []
    if takes not in MODALITIES or also:
        what = f"{name}: hf/ is for models of images or of texts alone; {config.model_type} takes "
        raise PluginError(what + ", ".join((takes, *also)), fix=ANOTHER)
    return MODALITIES[takes]


def model_class(name: str, config: Any) -> Any:
    """Return the class of the model without a head; PluginError if transformers has none for the configuration."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    if type(config) not in MODEL_MAPPING:
        raise PluginError(f"{name}: transformers has no plain model of {config.model_type}", fix=ANOTHER)
    found = MODEL_MAPPING[type(config)]
    return found[0] if isinstance(found, tuple) else found


def decodes(config: Any) -> bool:
    """Tell whether a text model reads from left to right only, as GPT does."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
    return known and not config.is_encoder_decoder


def length(config: Any, tokenizer: Mapping[str, Any], sentence: Mapping[str, Any]) -> int:
    """Return the longest input in tokens, special ones included, by everything that has a say in it."""
    limits = [LONGEST]
    positions = getattr(config, "max_position_embeddings", None) or UNBOUNDED
    padding = 1 if config.model_type == "mpnet" else getattr(config, "pad_token_id", 0)  # MPNet's is in its code
    offset = (padding or 0) + 1 if config.model_type in PADDED else 0
    limits.append(positions - offset if positions > offset else UNBOUNDED)  # XLNet writes -1
    for value in (tokenizer.get("model_max_length"), sentence.get("max_seq_length")):
        if isinstance(value, int | float) and 0 < value < HUGE:
            limits.append(int(value))
    return min(limits)
