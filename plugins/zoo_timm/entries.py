"""Create catalogue rows for pretrained timm names and for Hub repositories in timm format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import timm
from timm import models
from timm.models import PretrainedCfg

from zoo.errors import NameNotFound, PluginError
from zoo.plugin import Entry, File, ImageInput, Repository
from zoo_timm import nets, reading
from zoo_timm.tags import pretrained_on

CONFIG, WEIGHTS = "config.json", "model.safetensors"
"""File names in a repository of timm."""
FROM_INPUT = ("img_size", "in_chans", "num_classes")
"""Model arguments that are derived from the input of a row, or unused without a classifier."""


def names() -> list[str]:
    """Return all pretrained model names of timm."""
    found: list[str] = timm.list_models(pretrained=True)
    return found


def pretrained(name: str) -> Entry | None:
    """Return the row of a pretrained name, with dim and params; None if timm has no such name.

    Raises NameNotFound for the few names whose weights are not on the Hub as .safetensors files.
    """
    if name not in names():
        return None
    cfg = models.get_pretrained_cfg(name)
    if not cfg.hf_hub_id:
        what = f"timm/{name}: timm has these weights only as {cfg.url}, which is not a .safetensors file"
        fix = f"convert it, and add a row with the result to zoo.toml: plugin = 'timm', options = {{ arch = '{name}' }}"
        raise NameNotFound(what, fix=fix)
    repository, _, revision = cfg.hf_hub_id.partition("@")
    entry = Entry(
        name=f"timm/{name}",
        plugin="timm",
        modality="image",
        input=image_input(cfg),
        source=f"hf://{repository}" + (f"@{revision}" if revision else ""),
        files=(File(cfg.hf_hub_filename or WEIGHTS),),
        license=cfg.license if cfg.license != "unknown" else None,
        pretrained_on=pretrained_on(cfg.tag or ""),
        tasks=("classify", "multilabel", "regress"),
        options={"arch": name},
    )
    return measured(entry)


def measured(entry: Entry) -> Entry:
    """Return the row with dim and params of its model."""
    with reading.shapes_only():
        net = nets.create(entry, num_classes=0)
    return replace(entry, dim=nets.dim(net), params=sum(p.numel() for p in net.parameters()))


def image_input(cfg: PretrainedCfg) -> ImageInput:
    """Convert a pretrained configuration of timm to an ImageInput.

    Inputs are square: models for other shapes get the short side. The crop is at most 1: VOLO's 1.15 becomes 1.
    """
    return ImageInput(min(cfg.input_size[1:]), cfg.mean, cfg.std, cfg.interpolation, min(float(cfg.crop_pct), 1.0))


def in_repository(repository: str, look: Callable[[str], Repository]) -> Entry | None:
    """Return a row for a Hub repository created by timm's push_to_hf_hub(); None for any other repository."""
    source = f"hf://{repository}"
    found = look(source)
    if not {CONFIG, WEIGHTS} <= found.files.keys():
        return None
    config = json.loads(found.fetch(CONFIG)[CONFIG].read_text(encoding="utf-8"))
    if "architecture" not in config:
        return None
    described = config.get("pretrained_cfg") or config  # older repositories have a flat config
    entry = Entry(
        name=f"timm/{repository}",
        plugin="timm",
        modality="image",
        input=_described_input(repository, described),
        source=source,
        files=(found.files[CONFIG], found.files[WEIGHTS]),
        license=described.get("license"),
        tasks=("classify", "multilabel", "regress"),
        options={"arch": config["architecture"]} | _arguments(config),
    )
    return measured(entry)


def _described_input(repository: str, described: Mapping[str, Any]) -> ImageInput:
    keys = ("input_size", "mean", "std", "interpolation", "crop_pct")
    try:
        cfg = PretrainedCfg(**{key: described[key] for key in keys if key in described})
        return image_input(replace(cfg, mean=tuple(map(float, cfg.mean)), std=tuple(map(float, cfg.std))))
    except (TypeError, ValueError) as error:
        what = f"hf://{repository}: {CONFIG} has no valid image input: {error}"
        raise PluginError(what, fix="add a row with an input to zoo.toml: plugin = 'timm', options.arch") from error


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for the model arguments, except those derived from the input."""
    arguments = {key: value for key, value in (config.get("model_args") or {}).items() if key not in FROM_INPUT}
    return {"args": arguments} if arguments else {}
