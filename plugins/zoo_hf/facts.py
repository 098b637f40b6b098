"""What a row depends on: read from JSON alone for the architectures in families.json, else by transformers.

Importing transformers takes seconds; families.json, written by tools/refresh_families.py, has its defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from zoo_hf import configs, inputs

LIBRARY = "transformers"
TABLE = Path(__file__).with_name("families.json")
VALUES: dict[str, tuple[type, ...]] = {
    "max_position_embeddings": (int,),
    "pad_token_id": (int, type(None)),
    "is_encoder_decoder": (bool,),
    "image_size": (int, list),
    "num_channels": (int,),
}
"""Values of a configuration that a row depends on, and their types."""
INTEGERS = ("vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size")
"""Other values that must be integers; transformers validates, and explains, all other configurations."""
OTHER_INPUTS = ("num_frames", "vision_config", "text_config", "audio_config")
"""Values of models with other or additional inputs."""
NO_LIMIT = 1_000_000
"""Lengths from here on mean no limit: tokenizer_config.json has 10^30."""
MAX_LENGTH = 8_192
"""Maximum input length in tokens, even if the model supports more."""
DEFAULT_LENGTH = 512
"""Maximum input length of models without a limit (relative positions), in tokens: the pretraining length of T5."""
POSITIONS_AFTER_PADDING = (
    *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod", "camembert", "data2vec-text"),
    *("longformer", "luke", "ibert", "esm", "mpnet"),
)
"""Families whose positions start after the padding token id, so that fewer than max_position_embeddings are usable."""
SIZES = {"shortest_edge", "longest_edge", "height", "width"}


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about a model: max_position_embeddings and pad_token_id of a text model, image size in pixels.

    kind     model_type
    causal   a decoder, such as GPT
    masked   an encoder that has a masked language modelling head
    """

    kind: str
    modality: str
    positions: int | None = None
    pad: int | None = None
    causal: bool = False
    masked: bool = False
    image_size: int | None = None
    channels: int = 3


def read(name: str, values: Mapping[str, Any]) -> Facts:
    """Return the facts of a config.json. Raises PluginError for an architecture that zoo does not support."""
    return from_table(values) or from_transformers(name, values)


def from_transformers(name: str, values: Mapping[str, Any]) -> Facts:
    """Return the facts of a config.json according to transformers. Raises PluginError."""
    modality = configs.modality(name, values)
    config = configs.make(name, values, modality)
    if modality == "image":
        size, channels = getattr(config, "image_size", None), int(getattr(config, "num_channels", 3) or 3)
        return Facts(config.model_type, modality, image_size=inputs.side(size), channels=channels)
    positions, pad = getattr(config, "max_position_embeddings", None), getattr(config, "pad_token_id", None)
    return Facts(config.model_type, modality, positions, pad, configs.decodes(config), configs.is_masked(config))


def from_table(values: Mapping[str, Any]) -> Facts | None:
    """Return the facts of a config.json from JSON alone; None if transformers must read it."""
    kind = values.get("model_type")
    family = _table()["families"].get(kind) if isinstance(kind, str) else None
    if family is None or any(key in values for key in OTHER_INPUTS) or not _valid(values, family):
        return None
    found = {key: values.get(_key(family, key), family.get(key)) for key in VALUES}
    if family["modality"] == "image":
        return Facts(
            str(kind), "image", image_size=inputs.side(found["image_size"]), channels=found["num_channels"] or 3
        )
    alone = not found["is_encoder_decoder"]
    causal, masked = family["language"] == "causal" and alone, family["language"] == "masked" and alone
    return Facts(str(kind), "text", found["max_position_embeddings"], found["pad_token_id"], causal, masked)


def _key(family: Mapping[str, Any], key: str) -> str:
    """Return the key of a value in config.json, such as n_positions for max_position_embeddings."""
    return str(family.get("renamed", {}).get(key, key))


def _valid(values: Mapping[str, Any], family: Mapping[str, Any]) -> bool:
    """Return whether the values have their types, and none is given twice."""
    if any(type(values[key]) is not int for key in INTEGERS if key in values):
        return False
    if any(key in values for key in family.get("renamed", {})):
        return False
    given = {key: values[name] for key in VALUES if (name := _key(family, key)) in values}
    return all(type(value) in VALUES[key] for key, value in given.items())


def processor(facts: Facts, values: Mapping[str, Any]) -> inputs.Processor | None:
    """Return the fields of the image processor of a preprocessor_config.json from JSON alone; None if it cannot."""
    family = _table()["families"].get(facts.kind, {}).get("processor")
    kind = inputs.processor_name(values) or family
    defaults = _table()["processors"].get(kind)
    if defaults is None:
        return None
    given = {key: values[key] for key in inputs.FIELDS if values.get(key) is not None}
    sizes = [given[key] for key in ("size", "crop_size") if key in given]
    if not all(isinstance(size, int) or (isinstance(size, dict) and size.keys() <= SIZES) for size in sizes):
        return None
    return inputs.Processor(kind, defaults | given)


def length(facts: Facts, tokenizer: Mapping[str, Any], sentence: Mapping[str, Any]) -> int:
    """Return the maximum input length in tokens, special tokens included: the minimum over all configured limits."""
    limits = [MAX_LENGTH]
    positions = facts.positions or DEFAULT_LENGTH
    padding = 1 if facts.kind == "mpnet" else facts.pad  # hard-coded in MPNet
    offset = (padding or 0) + 1 if facts.kind in POSITIONS_AFTER_PADDING else 0
    limits.append(positions - offset if positions > offset else DEFAULT_LENGTH)  # XLNet writes -1
    for value in (tokenizer.get("model_max_length"), sentence.get("max_seq_length")):
        if isinstance(value, int | float) and 0 < value < NO_LIMIT:
            limits.append(int(value))
    return min(limits)


@cache
def _table() -> Mapping[str, Any]:
    """Return families.json; without contents if the installed transformers is older."""
    from importlib import metadata

    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    try:
        installed = metadata.version(LIBRARY)
    except metadata.PackageNotFoundError:
        installed = "0"
    usable = _numbers(installed) >= _numbers(table[LIBRARY])
    return table if usable else {"families": {}, "processors": {}}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
