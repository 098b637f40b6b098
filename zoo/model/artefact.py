"""A saved model: one folder with weights, what they mean and how they came about; readable with no other file.

model.safetensors   keys `backbone.…` and `head.…`
zoo.json            format, entry, task, recipe, metrics, history, data, provenance, files with their SHA-256
README.md           the model card
…                   what the plugin needs to build the net or core to prepare inputs (configuration, tokenizer)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ArtefactError
from zoo.store.paths import is_inside
from zoo.weights.safetensors_header import without_twins

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
WEIGHTS = "model.safetensors"
MANIFEST = "zoo.json"
LONGEST = 64 << 20
"""Bytes that a manifest may have."""
FORM = {
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
    },
    "training": {"seconds": int | float, "calibration": dict | None, "request": dict},
    "provenance": dict,
}
"""The sections of a manifest, and what is in them: a type, [of each item], or {of a key, or of every text: …}."""


def is_saved(folder: Path) -> bool:
    """Tell whether a folder holds a saved model."""
    return (folder / MANIFEST).is_file()


def check_free(folder: Path) -> None:
    """Raise ArtefactError unless a model can be saved to `folder`: absent or empty, below a writable folder."""
    if folder.is_dir() and any(folder.iterdir()):
        raise ArtefactError(
            f"{folder} is not empty; a saved model gets a folder of its own",
            fix=f"--out {folder}-2 (or out=…), or remove it first: rm -r {folder}",
        )
    if folder.exists() and not folder.is_dir():
        raise ArtefactError(f"{folder} is a file", fix=f"--out {folder}-model (or out=…)")
    above = next(p for p in folder.absolute().parents if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ArtefactError(f"{folder} cannot be created: {above} is not writable", fix="--out ~/runs/model (or out=…)")


def write(
    folder: Path, state: Mapping[str, Tensor], manifest: Mapping[str, Any], card: str, files: Mapping[str, Path]
) -> Path:
    """Write a saved model under a temporary name, then rename: a killed run leaves no half model. Returns `folder`."""
    check_free(folder)
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))
    except OSError as error:
        raise ArtefactError(f"{folder} cannot be created: {error}", fix="--out ~/runs/model (or out=…)") from error
    try:
        _fill(part, state, manifest, card, files)
        part.chmod(0o755)
        if folder.is_dir():
            folder.rmdir()
        part.rename(folder)
    except OSError as error:
        raise ArtefactError(
            f"{folder} cannot be written: {error}", fix="free some disk space or choose another folder with --out"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _fill(
    part: Path, state: Mapping[str, Tensor], manifest: Mapping[str, Any], card: str, files: Mapping[str, Path]
) -> None:
    from zoo.weights import safetensors_file

    safetensors_file.write_state(part / WEIGHTS, state, {"zoo": safetensors_file.FORMAT})
    for name, source in files.items():
        target = part / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    listed = {p.relative_to(part).as_posix(): _facts(p) for p in sorted(part.rglob("*")) if p.is_file()}
    (part / "README.md").write_text(card, encoding="utf-8")
    document = {"format": FORMAT, **manifest, "files": listed}
    (part / MANIFEST).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _facts(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file():  # a named pipe would make the reader wait for ever
        raise OSError("it is no ordinary file")
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def read(folder: Path) -> dict[str, Any]:
    """Return the manifest of a saved model; raises ArtefactError when it is none, damaged, or of a newer format."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtefactError(f"{folder} is no saved model: it has no {MANIFEST}", fix="zoo list, or check the path")
    again = "save the model again, or restore the folder from a copy"
    try:
        manifest = _parsed(path)
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}", fix=again) from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise ArtefactError(f"{path} is not the manifest of a saved model: it has no format number", fix=again)
    if manifest["format"] > FORMAT:
        raise ArtefactError(
            f"{folder} has format {manifest['format']}, and this zoo reads up to {FORMAT}",
            fix="pip install --upgrade backbone-zoo",
        )
    if missing := [key for key in FORM if key not in manifest]:
        raise ArtefactError(f"{path} lacks {', '.join(missing)}", fix=again)
    if wrong := [key for key, form in FORM.items() if not _fits(manifest[key], form)]:
        raise ArtefactError(f"{path} is damaged: {', '.join(wrong)} cannot be understood", fix=again)
    return manifest


def _parsed(path: Path) -> Any:
    """Return what a manifest holds; ValueError or RecursionError for what could not be written as it was read."""
    if path.stat().st_size > LONGEST:
        raise ValueError(f"it has more than {LONGEST:,} bytes")
    found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=without_twins, parse_int=_whole)
    json.dumps(found, ensure_ascii=False).encode()  # not so: half of a surrogate pair, and what is nested too deeply
    return found


def _whole(text: str) -> int:
    if len(text) > 20:
        raise ValueError(f"{text:.20}… is too large")
    return int(text)


def _fits(value: Any, form: Any) -> bool:
    """Tell whether a value has a form of FORM."""
    if isinstance(form, list):
        return isinstance(value, list) and all(_fits(item, form[0]) for item in value)
    if not isinstance(form, dict):
        return isinstance(value, form)
    if not isinstance(value, dict):
        return False
    if str in form:
        return all(_fits(item, form[str]) for item in value.values())
    return all(key in value and _fits(value[key], inner) for key, inner in form.items())


def weights(folder: Path, manifest: Mapping[str, Any]) -> Path:
    """Return the weight file of a saved model; raises ArtefactError if it is missing or not what was saved."""
    return _checked(folder, WEIGHTS, manifest["files"].get(WEIGHTS))


def files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Path]:
    """Return the plugin's own files of a saved model, by their name in the source; ArtefactError as for weights."""
    names = [name for name in manifest["files"] if name != WEIGHTS]
    bad = [name for name in names if not is_inside(name)]
    if bad:
        raise ArtefactError(f"{folder}: file name {bad[0]!r} leads out of the folder", fix="do not use this model")
    return {name: _checked(folder, name, manifest["files"][name]) for name in names}


def _checked(folder: Path, name: str, expected: Mapping[str, Any] | None) -> Path:
    """Return a file of a saved model that is an ordinary file below its folder, with the bytes that were saved."""
    path = folder / name
    again = "restore the folder from a copy, or fine-tune again"
    try:
        inside = folder.resolve() / name == path.resolve()
        found = _facts(path) if inside else {}
    except (OSError, ValueError, RuntimeError) as error:  # the last: links in a circle
        raise ArtefactError(f"{path} is missing, or cannot be read: {error}", fix=again) from error
    if not inside:
        fix = f"cp -rL '{folder}' '{folder}.files'   (and use that, if you trust what the links lead to)"
        raise ArtefactError(f"{path} is a link to elsewhere", fix=fix)
    if found != expected:
        before = expected or {}
        what = (
            f"{path} is damaged: SHA-256 {found['sha256']} ({found['bytes']:,} bytes), "
            f"saved as {before.get('sha256')} ({before.get('bytes')} bytes)"
        )
        raise ArtefactError(what, fix=again)
    return path


@contextmanager
def understanding(folder: Path) -> Iterator[None]:
    """Turn what goes wrong in the block with the values of a manifest into an ArtefactError."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"{folder / MANIFEST} is damaged: {type(error).__name__}: {error}"
        raise ArtefactError(what, fix="save the model again, or restore the folder from a copy") from error
