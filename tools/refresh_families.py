"""Generate families.json of the hf plugin: what rows depend on, by architecture of the installed transformers.

    python tools/refresh_families.py

An architecture is left out if its facts differ from those of transformers for one of several configurations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto import image_processing_auto as auto
from zoo_hf import configs, facts, inputs

CONFIGURATIONS: tuple[dict[str, Any], ...] = (
    {},
    {"max_position_embeddings": 77, "pad_token_id": 3, "image_size": 64, "num_channels": 1},
    {"is_encoder_decoder": True},
    {"is_encoder_decoder": False, "pad_token_id": None},
)
PROCESSORS: tuple[dict[str, Any], ...] = (
    {},
    {"size": 96, "crop_size": 64, "resample": 3, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
    {"size": {"shortest_edge": 96}, "do_center_crop": True, "do_normalize": False, "do_rescale": False},
    {"size": {"height": 96, "width": 96}, "do_center_crop": False, "crop_pct": 0.8, "rescale_factor": 0.01},
)


def main() -> None:
    """Write families.json, one architecture per line."""
    processors = dict(_processors())
    families: dict[str, dict[str, Any]] = {}
    facts._table = lambda: {"families": families, "processors": processors}  # type: ignore[assignment]
    for kind in CONFIG_MAPPING:
        try:
            families[kind] = _family(kind, processors)
            same = all(_is_same(kind, values) for values in CONFIGURATIONS)
        except Exception as error:  # noqa: BLE001  # architectures that are not supported fail in different ways
            print(f"{kind}: {str(error)[:100]}")
            same = False
        if not same:
            families.pop(kind, None)
    lines = (",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in t.items()) for t in (families, processors))
    first, second = lines
    text = f'{{"transformers": "{transformers.__version__}",\n "families": {{\n{first}\n }},\n'
    facts.TABLE.write_text(f'{text} "processors": {{\n{second}\n }}}}\n', encoding="utf-8")
    print(f"{facts.TABLE}: {len(families)} architectures, {len(processors)} image processors")


def _family(kind: str, processors: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of an architecture with its default configuration."""
    values = {"model_type": kind}
    found = facts.from_transformers(kind, values)
    config = configs.make(kind, values, found.modality)
    if found.kind != kind or config.sub_configs:
        raise ValueError("consists of several configurations")
    family: dict[str, Any] = {"modality": found.modality}
    family |= {key: getattr(config, key) for key in facts.VALUES if getattr(config, key, None) is not None}
    if renamed := {key: config.attribute_map[key] for key in facts.VALUES if key in config.attribute_map}:
        family["renamed"] = renamed
    if found.modality == "text":
        config.is_encoder_decoder = False
        family["language"] = "causal" if configs.decodes(config) else "masked" if configs.is_masked(config) else ""
        return family
    family["processor"] = inputs.processor(kind, config, {}).kind
    if family["processor"] not in processors:
        raise ValueError(f"image processor {family['processor']}")
    return family


def _is_same(kind: str, values: dict[str, Any]) -> bool:
    """Return whether the table and transformers agree on a configuration that transformers accepts."""
    family = facts._table()["families"][kind]
    renamed = family.get("renamed", {})
    given = {"model_type": kind, **{renamed.get(key, key): value for key, value in values.items()}}
    if values and "pad_token_id" in values and family["modality"] == "image":
        given.pop("pad_token_id")
    try:
        expected = facts.from_transformers(kind, given)
    except Exception:  # noqa: BLE001  # an invalid combination
        return bool(values)
    found = facts.from_table(given)
    if found != expected:
        print(f"{kind}: {found} instead of {expected} for {values}")
        return False
    if found.modality == "text":
        return True
    described = inputs.with_size(found.image_size, {})
    config = configs.make(kind, given, "image")
    processor = facts.processor(found, described)
    assert processor
    of_transformers = inputs.processor(kind, config, described)
    return inputs.image_input(processor, found.channels) == inputs.image_input(of_transformers, found.channels)


def _processors() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the default fields of each image processor for which the table and transformers agree."""
    names = {names.get("torchvision") for names in vars(auto)["IMAGE_PROCESSOR_MAPPING_NAMES"].values() if names}
    for name in sorted(filter(None, names)):
        try:
            made = [auto.get_image_processor_class_from_name(name).from_dict(values) for values in PROCESSORS]
        except Exception as error:  # noqa: BLE001  # some require arguments
            print(f"{name}: {str(error)[:100]}")
            continue
        fields = [{key: getattr(each, key, None) for key in inputs.FIELDS} for each in made]
        defaults = {key: _plain(value) for key, value in fields[0].items()}
        pairs = zip(fields, PROCESSORS, strict=True)
        if type(made[0]).__name__ == name and all(_input(name, f) == _input(name, defaults | v) for f, v in pairs):
            yield name, defaults
        else:
            print(f"{name}: differs from its fields")


def _input(kind: str, fields: Any) -> Any:
    try:
        return inputs.image_input(inputs.Processor(kind, fields), 3)
    except Exception as error:  # noqa: BLE001  # compared as well
        return type(error)


def _plain(value: Any) -> Any:
    """Return a SizeDict as a dict, and an enumeration as its number."""
    if hasattr(value, "shortest_edge"):
        return dict(value)
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


if __name__ == "__main__":
    main()
