"""Read config.json of a repository: architecture, model class, modality and maximum input length."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import PluginError
from zoo_hf import allowed

MODALITIES = {"pixel_values": "image", "input_ids": "text"}
"""Main input name of a model -> modality."""
ANOTHER = "choose another backbone: zoo list hf/"
MASKED_VIT = "vit_mae"
"""model_type of ViT-MAE, which masks random patches; its encoder is loaded as a plain ViT."""


def read(path: Path | None, label: str = "") -> dict[str, Any]:
    """Return the object in a JSON file, named `label` in errors; {} if `path` is None."""
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PluginError(f"{label or path} cannot be read: {error}", fix="choose another repository") from error
    return found if isinstance(found, dict) else {}


def make(name: str, values: Mapping[str, Any], modality: str) -> Any:
    """Return the transformers configuration of a config.json; for images and a dual encoder its vision_config.

    Raises PluginError for an architecture unknown to transformers: code in repositories is never run.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = str(values.get("model_type", ""))
    if kind not in CONFIG_MAPPING:
        raise PluginError(f"{name}: {_unknown(kind, values)}", fix=_hint(name, values))
    if kind == MASKED_VIT:
        kind, values = "vit", {**values, "model_type": "vit"}
    family, invalid = CONFIG_MAPPING[kind], f"{name}: config.json is not a valid {kind} configuration"
    try:
        known = allowed.hyperparameters(family, values)
    except (ValueError, RecursionError) as error:
        raise PluginError(f"{invalid}: {error}", fix=ANOTHER) from error
    try:
        config = family.from_dict(known)
    except Exception as error:  # families validate differently
        raise PluginError(f"{invalid}: {' '.join(str(error).split())}", fix=ANOTHER) from error
    return config.vision_config if modality == "image" and _is_dual_encoder(config) else config


def _unknown(kind: str, values: Mapping[str, Any]) -> str:
    if not kind:
        return "config.json has no model_type, so it is not a transformers model"
    custom = ", and the code in its repository is never run" if "auto_map" in values else ""
    return f"transformers has no architecture {kind!r}{custom}"


def _hint(name: str, values: Mapping[str, Any]) -> str:
    if "architecture" in values:  # written by timm
        return f"zoo info timm/{name.removeprefix('hf/')}"
    return f"pip install --upgrade transformers, or {ANOTHER}"


def _is_dual_encoder(config: Any) -> bool:
    """Return whether a model is an image-text dual encoder such as CLIP."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING as PAIRS

    return type(config) in PAIRS and hasattr(config, "vision_config")


def modality(name: str, values: Mapping[str, Any]) -> str:
    """Return "image" or "text"; raises PluginError for models with other or additional inputs."""
    config = make(name, values, "image")
    kind = model_class(name, config)
    takes = kind.main_input_name
    parameters = list(inspect.signature(kind.forward).parameters.values())[1:]
    wanted = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    also = [name for name in wanted if name != takes]
    if getattr(config, "num_frames", None) and takes == "pixel_values":
        also.append("several frames")
    for half, what in (("vision_config", "images"), ("audio_config", "sounds")):
        also += [what] if hasattr(config, half) else []
    if takes not in MODALITIES or also:
        what = f"{name}: hf/ supports models of either images or texts; {config.model_type} takes "
        raise PluginError(what + ", ".join((takes, *also)), fix=ANOTHER)
    return MODALITIES[takes]


def model_class(name: str, config: Any) -> Any:
    """Return the model class without a head; raises PluginError if transformers has none."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    if type(config) not in MODEL_MAPPING:
        raise PluginError(f"{name}: transformers has no base model for {config.model_type}", fix=ANOTHER)
    found = MODEL_MAPPING[type(config)]
    return found[0] if isinstance(found, tuple) else found


def decodes(config: Any) -> bool:
    """Return whether a text model is a causal decoder, such as GPT."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
    return known and not config.is_encoder_decoder


def is_masked(config: Any) -> bool:
    """Return whether a text model has a masked language modelling head, such as BERT."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

    return type(config) in MODEL_FOR_MASKED_LM_MAPPING and not config.is_encoder_decoder
