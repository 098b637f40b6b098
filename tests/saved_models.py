"""Tiny saved models, made once a session, and ways to edit a copy whose hashes stay right: its author is hostile."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

IMAGE = "image.png"
TEXT = "a lovely film " + "l" * 60 + "!"


def copy(kind: str, folder: Path) -> Path:
    """Copy the saved model of a kind ("native", "timm", "vit" or "bert") to `folder`/model, with an image beside it."""
    import numpy as np
    from PIL import Image

    base = Path.home() / "saved" / kind
    if not base.is_dir():
        _make(kind, base)
    shutil.copytree(base, folder / "model")
    Image.fromarray(np.full((40, 40, 3), 90, np.uint8)).save(folder / IMAGE)
    return folder / "model"


def predict(kind: str) -> list[str]:
    """Return the arguments of `zoo` that predict with the copy."""
    return ["predict", "model", *(["--text", TEXT] if kind == "bert" else [IMAGE])]


def edit(model: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Edit zoo.json; a result of `change` other than None replaces it."""
    path = model / "zoo.json"
    manifest = json.loads(path.read_text())
    changed = change(manifest)
    path.chmod(0o600)
    path.write_text(json.dumps(manifest if changed is None else changed))


def replace(model: Path, name: str, content: bytes) -> None:
    """Replace or add a file, and sign it in zoo.json."""
    (model / name).unlink(missing_ok=True)
    (model / name).write_bytes(content)
    facts = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    edit(model, lambda manifest: manifest["files"].update({name: facts}))


def merge(model: Path, name: str, values: Mapping[str, Any]) -> None:
    """Set keys of a JSON file."""
    path = model / name
    before = json.loads(path.read_text()) if path.is_file() else {}
    replace(model, name, json.dumps(before | dict(values)).encode())


def tensors(model: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Edit the weights."""
    from safetensors.torch import load, save

    state = load((model / "zoo.safetensors").read_bytes())
    change(state)
    replace(model, "zoo.safetensors", save(state, {"zoo": "1"}))


def _make(kind: str, base: Path) -> None:
    """Save a model of a kind, trained for one step."""
    import pictures
    import tiny
    import words

    import zoo

    with (
        tempfile.TemporaryDirectory() as scratch,
        contextlib.chdir(scratch),
        mock.patch.dict(os.environ, ZOO_HOME=f"{scratch}/store"),
    ):
        if kind == "native":
            name = pictures.catalogue(Path(scratch))
        elif kind == "timm":
            scale = "mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5]"
            spec = f'modality = "image"\ninput = {{ size = 160, {scale} }}'
            name = _row("timm", f'options = {{ arch = "test_vit" }}\n{spec}\n')
        else:
            name = _row("hf", _repository(Path(scratch), tiny.repository(kind), kind))
        strategy = "scratch" if kind in ("native", "timm") else "probe"
        data = words.reviews(8) if kind == "bert" else pictures.pairs(3, ("blue", "red"))
        zoo.load(name, "cpu").finetune(data, strategy=strategy, steps=1, valid=0, out="saved")
        base.parent.mkdir(exist_ok=True)
        shutil.move("saved", base)


def _row(plugin: str, row: str) -> str:
    Path("zoo.toml").write_text(f'["tiny/net"]\nplugin = "{plugin}"\n{row}')
    return "tiny/net"


def _repository(scratch: Path, files: Mapping[str, bytes], kind: str) -> str:
    """Write a repository; returns its row."""
    folder = scratch / "repository"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    paths = ", ".join(f'{{ path = "{name}" }}' for name in files)
    if kind == "bert":
        spec = 'modality = "text"\ninput = { files = ["tokenizer.json", "tokenizer_config.json"], max_length = 64 }'
    else:
        spec = 'modality = "image"\ninput = { size = 32, mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }'
    return f'source = "{folder.as_uri()}"\nfiles = [{paths}]\n{spec}\n'
