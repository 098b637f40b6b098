"""Output folders: where a model is saved, and the working folder beside it, which one process at a time uses.

<out>.unfinished/
    lock                  locked by the process that trains or saves to `out`
    state.safetensors, …  the checkpoint of the run (zoo/finetune/training/checkpoint.py)
    metrics.jsonl         what the run has measured so far (zoo/finetune/training/recording.py)
    saved/                the model while it is written
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from zoo.errors import ArtefactError
from zoo.store import file_locks
from zoo.store.regular_file import NOFOLLOW

SUFFIX = ".unfinished"
"""Of the working folder's name."""
STATE = "state.safetensors"
"""The checkpoint of an unfinished run."""
METRICS = "metrics.jsonl"
"""What a run has measured, in its working folder and then in the saved model's."""
ELSEWHERE = "--out ~/runs/model (or out=…)"
_claimed: ContextVar[frozenset[Path]] = ContextVar("_claimed", default=frozenset())
"""Working folders that this thread has locked."""


def working(out: Path) -> Path:
    """Return the working folder of `out`. Raises ArtefactError for a name that the file system does not take."""
    try:
        target = out.resolve()
        found = target.with_name(target.name + SUFFIX)
        found.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, no name, a loop of links
        raise _impossible(out, error) from error
    return found


def is_unfinished(out: Path) -> bool:
    """Return whether there is a checkpoint of a run to `out`."""
    return os.path.lexists(working(out) / STATE)


def is_restarted() -> bool:
    """Return whether torchrun started this process again, after one of the run was lost (`--max-restarts`)."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def is_claimed(out: Path) -> bool:
    """Return whether another process or thread trains or saves to `out`.

    Of processes launched together the first holds the lock for all: the others do not look.
    """
    folder = working(out)
    if folder in _claimed.get() or os.environ.get("RANK", "0") != "0":
        return False
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | NOFOLLOW)
    except OSError:
        return False
    try:
        return not file_locks.exclude(descriptor, unsupported=True)
    finally:
        os.close(descriptor)


def check_free(out: Path) -> None:
    """Raise ArtefactError unless `out` is absent or empty, its parent is writable, and no other process uses it."""
    folder = working(out).parent
    if out.is_dir() and any(out.iterdir()):
        raise ArtefactError(
            f"{out} is not empty; a model is saved to a new or empty folder",
            fix=f"--out {_numbered(out)} (or out=…), or remove it first: rm -r '{out}'",
        )
    if out.exists() and not out.is_dir():
        raise ArtefactError(f"{out} is a file, not a folder", fix=f"--out {out}-model (or out=…)")
    above = next(p for p in (folder, *folder.parents) if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ArtefactError(f"{out} cannot be created: {above} is not writable", fix=ELSEWHERE)
    if is_claimed(out):
        raise _in_use(out)


@contextmanager
def claim(out: Path, *, free: bool = True) -> Iterator[Path]:
    """Lock the working folder of `out`, which the block gets; it is removed on exit unless it holds a checkpoint.

    What a killed process was writing is removed. A block within a block of the same thread does nothing. Raises
    ArtefactError if another process or thread holds the lock, or, with `free`, as `check_free` does.
    """
    folder = working(out)
    if folder in _claimed.get():
        yield folder
        return
    if free:
        check_free(out)
    new = [parent for parent in folder.parents if not parent.exists()]
    descriptor = _lock(out, folder)
    token = _claimed.set(_claimed.get() | {folder})
    try:
        _remove_rest(folder)
        yield folder
    finally:
        _claimed.reset(token)
        _remove_rest(folder)
        if not os.path.lexists(folder / STATE):
            with suppress(OSError):  # of a folder with other files in it, such as the model
                (folder / METRICS).unlink(missing_ok=True)
                (folder / "lock").unlink()
                for each in (folder, *new):
                    each.rmdir()
        os.close(descriptor)


def _lock(out: Path, folder: Path) -> int:
    """Return the descriptor of the locked file; a run that ends just now may remove it between opening and locking."""
    path = folder / "lock"
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | NOFOLLOW, 0o666)
        except OSError as error:
            raise _impossible(out, error) from error
        if not file_locks.exclude(descriptor, unsupported=True):
            os.close(descriptor)
            raise _in_use(out)
        with suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)


def _remove_rest(folder: Path) -> None:
    """Remove half-written files and models."""
    shutil.rmtree(folder / "saved", ignore_errors=True)
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def publish(staged: Path, out: Path, last: str) -> None:
    """Move a complete folder to `out`, which is absent or empty; the file `last` arrives last. Raises OSError.

    If something else was written to `out` meanwhile, the folder is moved beside it, and ArtefactError says where.
    """
    target = out.resolve()
    if not os.path.lexists(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            staged.rename(target)
            return
        except OSError:
            if not os.path.lexists(target):
                raise
    if target.is_dir() and not any(target.iterdir()):  # it may be a mount point, or the working directory
        _move_into(staged, target, last)
        return
    free = _numbered(target)
    staged.rename(free)
    what = f"{out} was created by another program during the run; the model is saved to {free}"
    raise ArtefactError(what, fix=f"zoo predict '{free}' INPUT, or move it: mv '{free}' NEW")


def _move_into(staged: Path, target: Path, last: str) -> None:
    """Move the content of a folder to an empty one, or nothing."""
    names = sorted((path.name for path in staged.iterdir()), key=lambda name: name == last)
    try:
        for name in names:
            shutil.move(staged / name, target / name)
    except OSError:
        for path in (target / name for name in names):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        raise


def _numbered(out: Path) -> Path:
    """Return the first of out-2, out-3, … that does not exist."""
    number, out = 2, out if out.name else out.resolve()
    while os.path.lexists(path := out.with_name(f"{out.name}-{number}")):
        number += 1
    return path


def _impossible(out: Path, error: Exception) -> ArtefactError:
    return ArtefactError(f"{out} cannot be created: {getattr(error, 'strerror', None) or error}", fix=ELSEWHERE)


def _in_use(out: Path) -> ArtefactError:
    what = f"another process trains or saves to {out} at this moment"
    return ArtefactError(what, fix=f"wait until it ends, or choose another folder: --out {_numbered(out)} (or out=…)")
