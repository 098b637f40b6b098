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
from zoo.rows import is_inside

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
WEIGHTS = "model.safetensors"
MANIFEST = "zoo.json"
REQUIRED = ("entry", "task", "recipe", "metrics", "files")


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
    from zoo import statefile

    statefile.write_state(part / WEIGHTS, state, {"zoo": statefile.FORMAT})
    for name, source in files.items():
        target = part / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    listed = {p.relative_to(part).as_posix(): _facts(p) for p in sorted(part.rglob("*")) if p.is_file()}
    (part / "README.md").write_text(card, encoding="utf-8")
    document = {"format": FORMAT, **manifest, "files": listed}
    (part / MANIFEST).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def read(folder: Path) -> dict[str, Any]:
    """Return the manifest of a saved model; raises ArtefactError when it is none, damaged, or of a newer format."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtefactError(f"{folder} is no saved model: it has no {MANIFEST}", fix="zoo list, or check the path")
    again = "save the model again, or restore the folder from a copy"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}", fix=again) from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise ArtefactError(f"{path} is not the manifest of a saved model: it has no format number", fix=again)
    if manifest["format"] > FORMAT:
        raise ArtefactError(
            f"{folder} has format {manifest['format']}, and this zoo reads up to {FORMAT}",
            fix="pip install --upgrade backbone-zoo",
        )
    missing = [key for key in REQUIRED if not isinstance(manifest.get(key), dict)]
    if missing:
        raise ArtefactError(f"{path} lacks {', '.join(missing)}", fix=again)
    return manifest


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


def _checked(folder: Path, name: str, expected: object) -> Path:
    """Return a file of a saved model that is an ordinary file below its folder, with the bytes that were saved."""
    path = folder / name
    again = "restore the folder from a copy, or fine-tune again"
    if folder.resolve() / name != path.resolve():
        raise ArtefactError(f"{path} is a link to elsewhere", fix=f"put the file itself there, or {again}")
    try:
        found = _facts(path)
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path} is missing, or cannot be read: {error}", fix=again) from error
    if found != expected:
        before = expected if isinstance(expected, dict) else {}
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
