"""Rows from what timm itself knows: for every pretrained name, and for repositories in timm's format."""

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
"""What timm calls the files of a repository; of several kinds of weight file, it asks for this first."""
FROM_INPUT = ("img_size", "in_chans", "num_classes")
"""Arguments of a net that follow from a row's input, or that a net without classifier has no use for."""


def names() -> list[str]:
    """Return every name that timm has pretrained weights for."""
    found: list[str] = timm.list_models(pretrained=True)
    return found


def pretrained(name: str) -> Entry | None:
    """Return the row of a pretrained name, its net measured; None if timm has no weights of that name.

    Raises NameNotFound for the few names whose weights are in no repository with .safetensors files.
    """
    if name not in names():
        return None
    cfg = models.get_pretrained_cfg(name)
    if not cfg.hf_hub_id:
        what = f"timm/{name}: timm has these weights only as {cfg.url}, which is no .safetensors file"
        fix = f"convert it, and name the result in a row of zoo.toml: plugin = 'timm', options = {{ arch = '{name}' }}"
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
    """Return the row with the length of the features and the number of parameters that its net has."""
    with reading.shapes_only():
        net = nets.create(entry, num_classes=0)
    return replace(entry, dim=nets.dim(net), params=sum(p.numel() for p in net.parameters()))


def image_input(cfg: PretrainedCfg) -> ImageInput:
    """Return how the images of some weights are prepared.

    Images are square here: nets for other shapes get the short side. Nothing is enlarged beyond the image: VOLO's crop
    of 1.15 becomes 1.
    """
    return ImageInput(min(cfg.input_size[1:]), cfg.mean, cfg.std, cfg.interpolation, min(float(cfg.crop_pct), 1.0))


def in_repository(repository: str, look: Callable[[str], Repository]) -> Entry | None:
    """Return a row for a repository on the Hub that timm's push_to_hf_hub() made, or None if it is none of these."""
    source = f"hf://{repository}"
    found = look(source)
    if not {CONFIG, WEIGHTS} <= found.files.keys():
        return None
    config = json.loads(found.fetch(CONFIG)[CONFIG].read_text(encoding="utf-8"))
    if "architecture" not in config:
        return None
    described = config.get("pretrained_cfg") or config  # older repositories have it all on one level
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
        what = f"hf://{repository}: {CONFIG} describes no input: {error}"
        raise PluginError(what, fix="write a row with an input in zoo.toml: plugin = 'timm', options.arch") from error


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for arguments that the net was made with, but for those that the input says."""
    arguments = {key: value for key, value in (config.get("model_args") or {}).items() if key not in FROM_INPUT}
    return {"args": arguments} if arguments else {}
