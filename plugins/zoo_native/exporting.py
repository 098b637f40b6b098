"""Export to a folder of timm, whose ResNets have the same layers and parameter names (those of torchvision)."""

from __future__ import annotations

import json
from typing import Any

from zoo.errors import ExportError
from zoo.plugin import Entry, Exported, ImageInput, Trained

SAME = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d"),
    *("resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
)
"""Architectures that timm has under the same name."""


def exported(entry: Entry, trained: Trained) -> Exported:
    """Return the network as timm's ResNet with its config.json; ExportError for variants that timm has not."""
    assert isinstance(entry.input, ImageInput)
    assert trained.weight is not None
    assert trained.bias is not None
    name, changed = entry.options.get("arch"), [key for key in entry.options if key not in ("arch", "zero_init")]
    if name not in SAME or changed:
        variant = f"{name} with {', '.join(changed)}" if changed else f"the architecture {name}"
        what = f"{entry.name} cannot be written as a timm model: timm has no {variant}"
        raise ExportError(what, fix="--to onnx or torch-export, which hold the whole graph")
    spec, (outputs, dim) = entry.input, trained.weight.shape
    described: dict[str, Any] = {"input_size": [spec.channels, spec.size, spec.size], "fixed_input_size": False}
    described |= {"interpolation": spec.interpolation, "crop_pct": spec.crop, "crop_mode": "center"}
    described |= {"mean": list(spec.mean), "std": list(spec.std), "num_classes": outputs, "pool_size": None}
    described |= {"first_conv": "conv1", "classifier": "fc", "license": entry.license}
    config: dict[str, Any] = {"architecture": name, "num_classes": outputs, "num_features": dim, "global_pool": "avg"}
    config |= {"label_names": list(trained.labels), "model_args": {"in_chans": spec.channels}}
    state = {**trained.state, "fc.weight": trained.weight, "fc.bias": trained.bias}
    text = json.dumps(config | {"pretrained_cfg": described}, indent=2) + "\n"
    opens, pipeline = "AutoModelForImageClassification", "image-classification"
    return Exported({"model.safetensors": state}, {"config.json": text}, opens, pipeline)
