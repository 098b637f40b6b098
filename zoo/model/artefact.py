"""Saved models: a self-contained folder with weights, configuration and training provenance.

zoo.safetensors     keys `backbone.…` and `head.…`
zoo.json            format, entry, task, stages that the head reads, recipe, metrics, history, data, provenance, files
                    with their SHA-256
README.md           the model card
metrics.jsonl       the losses and scores of the run, a JSON object in each line
…                   files the plugin needs to build the network or preprocess inputs (configuration, tokenizer)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ArtefactError, WeightsError
from zoo.store import out_folder
from zoo.store.out_folder import METRICS
from zoo.store.paths import is_inside
from zoo.weights.safetensors_header import without_twins

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 3
"""2: the head may read outputs of stages (key "stages"). 3: weights in zoo.safetensors, before in OLD_WEIGHTS."""
WEIGHTS = "zoo.safetensors"
"""Weight file of a saved model: not model.safetensors, which transformers would open with its keys ignored."""
OLD_WEIGHTS = "model.safetensors"
MANIFEST = "zoo.json"
MAX_BYTES = 64 << 20
"""Maximum size of a manifest in bytes."""
MAX_DIGITS = 300
"""Maximum length of an integer in a manifest, such as a label: each can be converted to a float."""
SCHEMA = {
    "entry": dict,
    "task": dict,
    "recipe": dict,
    "metrics": {str: int | float},
    "files": {str: {"sha256": str, "bytes": int}},
    "tested": {str: int | float},
    "history": [dict],
    "data": {
        "origin": str,
        "columns": {"input": [str], "label": str | None},
        "train": int,
        "valid": int,
        "test": int,
        "pairs": bool,
        "skipped": int,
        "fingerprint": str,
        "near_duplicates": int | None,
        "test_duplicates": int | None,
    },
    "training": {"seconds": int | float, "calibration": dict | None, "request": dict},
    "provenance": dict,
}
"""Schema of a manifest: a type, [type of items], {key: type} or {str: type of all values}."""


def is_saved(folder: Path) -> bool:
    """Return whether a folder contains a saved model."""
    return os.path.isfile(folder / MANIFEST)  # False for a name that is too long


def write(
    folder: Path, state: Mapping[str, Tensor], manifest: Mapping[str, Any], card: str, files: Mapping[str, Path]
) -> Path:
    """Save a model atomically: write to the working folder of `folder`, then rename; returns `folder`."""
    with out_folder.claim(folder) as working:
        try:
            copy_files(working, files)
            _fill(working / "saved", state, manifest, card)
            if (working / METRICS).is_file():
                (working / METRICS).replace(working / "saved" / METRICS)
            out_folder.publish(working / "saved", folder, MANIFEST)
        except (OSError, WeightsError) as error:
            raise ArtefactError(
                f"{folder} cannot be written: {getattr(error, 'what', error)}",
                fix="free some disk space or choose another folder with --out; --resume continues a run",
            ) from error
    return folder


def as_read(manifest: Mapping[str, Any]) -> Any:
    """Return a manifest, or a part of one, as it is read back; ValueError or RecursionError if it cannot be."""
    return _load_json(json.dumps(manifest).encode())


def copy_files(working: Path, files: Mapping[str, Path]) -> None:
    """Copy the files of a backbone that a saved model needs, but for weights, unless they are copied already.

    Called before training too, as `zoo rm` may remove them from the store during the run. Raises OSError.
    """
    (working / "saved").mkdir(parents=True, exist_ok=True)
    for name, source in files.items():
        target = working / "saved" / name
        if not name.endswith(".safetensors") and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def _fill(part: Path, state: Mapping[str, Tensor], manifest: Mapping[str, Any], card: str) -> None:
    from zoo.weights import safetensors_file

    safetensors_file.write_state(part / WEIGHTS, state, {"zoo": safetensors_file.FORMAT})
    listed = {p.relative_to(part).as_posix(): _digest(p) for p in sorted(part.rglob("*")) if p.is_file()}
    (part / "README.md").write_text(card, encoding="utf-8", errors="backslashreplace")
    document = {"format": FORMAT, **manifest, "files": listed}
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    (part / MANIFEST).write_text(text, encoding="utf-8", errors="backslashreplace")


def _digest(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file():  # opening a named pipe would block
        raise OSError("not a regular file")
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def read(folder: Path) -> dict[str, Any]:
    """Return the manifest of a saved model; raises ArtefactError if it is missing, damaged or of a newer format."""
    path = folder / MANIFEST
    if not is_saved(folder):
        what = f"is not a saved model: it has no {MANIFEST}" if os.path.isdir(folder) else "does not exist"
        raise ArtefactError(f"{folder} {what}", fix="zoo runs   (lists the saved models below runs)")
    fix = "save the model again, or restore the folder from a copy"
    try:
        with path.open("rb") as file:
            manifest = _load_json(file.read(MAX_BYTES + 1))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}", fix=fix) from error
    manifest = manifest if isinstance(manifest, dict) else {}
    number = manifest.get("format")
    if type(number) is not int or number < 1:
        raise ArtefactError(f"{path} is not the manifest of a saved model: it has no valid format number", fix=fix)
    if number > FORMAT:
        raise ArtefactError(
            f"{folder} has format {number}, but this version reads formats up to {FORMAT}",
            fix="pip install --upgrade backbone-zoo",
        )
    if missing := [key for key in SCHEMA if key not in manifest]:
        raise ArtefactError(f"{path} lacks {', '.join(missing)}", fix=fix)
    if wrong := [key for key, schema in SCHEMA.items() if not _matches(manifest[key], schema)]:
        raise ArtefactError(f"{path} is damaged: invalid {', '.join(wrong)}", fix=fix)
    return manifest


def _load_json(text: bytes) -> Any:
    """Parse a manifest; raises ValueError or RecursionError if it cannot be serialised back to JSON."""
    if len(text) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES:,} bytes")
    found = json.loads(text.decode("utf-8"), object_pairs_hook=without_twins, parse_int=_bounded_int)
    json.dumps(found)  # fails on deep nesting
    return found


def _bounded_int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"integer {text:.20}… has more than {MAX_DIGITS:,} digits")
    return int(text)


def _matches(value: Any, schema: Any) -> bool:
    """Return whether a value matches a schema in the notation of SCHEMA."""
    if isinstance(schema, list):
        return isinstance(value, list) and all(_matches(item, schema[0]) for item in value)
    if not isinstance(schema, dict):
        return isinstance(value, schema) and (schema is bool or not isinstance(value, bool))
    if not isinstance(value, dict):
        return False
    if str in schema:
        return all(_matches(item, schema[str]) for item in value.values())
    return all(key in value and _matches(value[key], inner) for key, inner in schema.items())


def weights(folder: Path, manifest: Mapping[str, Any]) -> Path:
    """Return the weight file of a saved model; raises ArtefactError if it is missing or damaged."""
    name = weight_file(manifest)
    return _verified(folder, name, manifest["files"].get(name))


def weight_file(manifest: Mapping[str, Any]) -> str:
    """Return the name of the weight file, by the format of a saved model."""
    return OLD_WEIGHTS if manifest["format"] < 3 else WEIGHTS


def files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Path]:
    """Return the other files of a saved model by name; raises ArtefactError if one is missing or damaged."""
    names = [name for name in manifest["files"] if name != weight_file(manifest)]
    bad = [name for name in names if not is_inside(name)]
    if bad:
        raise ArtefactError(f"{folder}: file name {bad[0]!r} is outside the folder", fix="do not use this model")
    return {name: _verified(folder, name, manifest["files"][name]) for name in names}


def _verified(folder: Path, name: str, expected: Mapping[str, Any] | None) -> Path:
    """Return the path of a file of a saved model after checking its location, size and hash."""
    path = folder / name
    fix = "restore the folder from a copy, or fine-tune again"
    try:
        inside = folder.resolve() / name == path.resolve()
        found = _digest(path) if inside else {}
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: symlink loop
        raise ArtefactError(f"{path} is missing or cannot be read: {error}", fix=fix) from error
    if not inside:
        fix = f"cp -rL '{folder}' '{folder}.files'   (and use the copy, if you trust the link targets)"
        raise ArtefactError(f"{path} is a symlink out of the folder", fix=fix)
    if found != expected:
        before = expected or {}
        what = (
            f"{path} is damaged: SHA-256 {found['sha256']} ({found['bytes']:,} bytes), "
            f"expected {before.get('sha256')} ({before.get('bytes')} bytes)"
        )
        raise ArtefactError(what, fix=fix)
    return path


@contextmanager
def understanding(folder: Path) -> Iterator[None]:
    """Convert errors caused by invalid manifest values in the block to ArtefactError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        what = f"{folder / MANIFEST} is damaged: {type(error).__name__}: {error}"
        raise ArtefactError(what, fix="save the model again, or restore the folder from a copy") from error
