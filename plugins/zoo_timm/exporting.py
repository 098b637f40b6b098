"""Export to a folder that timm.create_model("local-dir:…") and the TimmWrapper of transformers open."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from timm.models import _hub
from torch import Tensor, nn

from zoo.errors import ExportError
from zoo.plugin import Entry, Exported, ImageInput, Trained
from zoo_timm import nets, reading

INSTEAD = "--to onnx or torch-export, which hold the whole graph"


def exported(entry: Entry, trained: Trained) -> Exported:
    """Return the network with timm's own classifier, and timm's config.json.

    Raises ExportError unless the classifier of the architecture is one linear layer (or several that are averaged) on
    the features that zoo reads.
    """
    assert trained.weight is not None
    assert trained.bias is not None
    with reading.shapes_only():
        net = nets.create(entry, num_classes=len(trained.labels))
    state = dict(trained.state)
    missing = {name: tensor for name, tensor in net.state_dict().items() if name not in state}
    extra = sorted(state.keys() - net.state_dict().keys())
    for name, tensor in missing.items():
        state[name] = _classifier_part(entry, name, tensor, trained)
    if extra or not missing or any(state[name].shape != tensor.shape for name, tensor in net.state_dict().items()):
        raise _inexpressible(entry, f"timm's own model has no {extra[0] if extra else 'classifier'}")
    texts = {"config.json": _config(net, entry, trained)}
    opens, pipeline = "AutoModelForImageClassification", "image-classification"
    return Exported({"model.safetensors": state}, texts, opens, pipeline)


def _classifier_part(entry: Entry, name: str, wanted: Tensor, trained: Trained) -> Tensor:
    """Return the head as a parameter of timm's classifier: a linear layer, a 1x1 convolution, or a distilled pair."""
    part = trained.weight if name.endswith(".weight") else trained.bias if name.endswith(".bias") else None
    if part is None or wanted.numel() != part.numel() or wanted.shape[0] != part.shape[0]:
        raise _inexpressible(entry, f"timm's classifier has {name} of shape {tuple(wanted.shape)}")
    return part.reshape(wanted.shape)


def _config(net: nn.Module, entry: Entry, trained: Trained) -> str:
    assert isinstance(entry.input, ImageInput)
    spec = entry.input
    data: dict[str, Any] = {"input_size": (spec.channels, spec.size, spec.size), "mean": spec.mean, "std": spec.std}
    data |= {"interpolation": spec.interpolation, "crop_pct": spec.crop, "crop_mode": "center"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.json")
        _hub.save_config_for_hf(net, str(path), {"label_names": list(trained.labels)}, data_config=data)
        found = json.loads(path.read_text(encoding="utf-8"))
    found["model_args"].pop("num_classes", None)  # the TimmWrapper of transformers 5.24 would pass it twice
    return json.dumps(found, indent=2) + "\n"


def _inexpressible(entry: Entry, what: str) -> ExportError:
    return ExportError(f"{entry.name} cannot be written as a timm model: {what}", fix=INSTEAD)
