"""Exports to a plain safetensors file, whose tensors are compared bit by bit."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from zoo.errors import ExportError
from zoo.export import source as sources
from zoo.export.source import Source
from zoo.export.verify import Verified
from zoo.weights import safetensors_file

READ = """
import hashlib, json, sys
sys.modules["zoo"] = None
import safetensors
content = open(sys.argv[1], "rb").read()
found = {name: hashlib.sha256(tensor["data"]).hexdigest() for name, tensor in safetensors.deserialize(content)}
print(json.dumps([safetensors.__version__, found]))
"""


def write(folder: Path, source: Source) -> Verified:
    """Write model.safetensors, keys `backbone.…` and `head.…`, and read it back in a fresh process without zoo."""
    state = dict(source.network.tensors())
    if source.task.labelled and source.task.name == "regress":
        weight, bias = sources.answer_head(source)
        state |= {"head.weight": weight, "head.bias": bias}
    path = folder / "model.safetensors"
    safetensors_file.write_state(path, state, {"format": "pt"})
    run = subprocess.run([sys.executable, "-I", "-c", READ, str(path)], capture_output=True, text=True, check=False)
    if run.returncode:
        raise ExportError(f"{path.name} cannot be read without zoo: {run.stderr[-200:]}", fix="--to onnx")
    version, found = json.loads(run.stdout)
    expected = {name: _digest(tensor) for name, tensor in state.items()}
    if wrong := sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)):
        raise ExportError(f"the safetensors export is not kept: {wrong[0]} differs in the file", fix="--to onnx")
    return Verified(len(found), len(found), 0.0, 0.0, {"safetensors": version})


def _digest(tensor: Tensor) -> str:
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()
