"""Checkpoints: the state of a run on disk, from which a killed run resumes and ends with the same bits.

<out>.unfinished/
    state.safetensors     trained weights, optimizer state, losses since the last evaluation; in its metadata, as JSON,
                          phase, step, history, the best so far, the request, and the SHA-256 of all of these and of
                          each best-….safetensors
    best-….safetensors    the weights of a best evaluation, written once
Each file is written under a temporary name and renamed, state.safetensors last: there is always a complete checkpoint.
The request names and hashes what the run depends on: recipe, data of each part, backbone, its weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.console import say
from zoo.errors import ArtefactError, RecipeError, WeightsError
from zoo.finetune.runtime import distributed
from zoo.finetune.runtime.memory import is_out_of_memory
from zoo.store import out_folder
from zoo.store.out_folder import STATE
from zoo.weights import safetensors_file

FORMAT = 3
"""Changes whenever another version of zoo could not continue a run."""
FIX = 'finetune(…, out="runs/model", resume=True)'
OVERHEAD = 20
"""Saving takes at most one part in this many of the time: large nets are saved less often than requested."""


@dataclass(frozen=True, slots=True)
class Saved:
    """The content of a checkpoint: tensors by name, and facts as JSON values."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class Checkpointer:
    """Write the checkpoints of a run to a folder (None: nowhere), and find them there when it resumes.

    finished   names of the phases that are over; history: the measurements in them
    decisions  what the run decided on the way, by name, so that a resumed run decides the same
    digests    SHA-256 of the best weights that are written, by name
    """

    def __init__(self, folder: Path | None = None, every: float = 60) -> None:
        self.folder, self.every = folder, every
        self.request: dict[str, Any] = {}
        self.found = Saved()
        self.history: list[dict[str, float]] = []
        self.finished: list[str] = []
        self.decisions: dict[str, Any] = {}
        self.digests: dict[str, str] = {}
        self.saved_at, self.cost = time.monotonic(), 0.0
        self.stop_requested = False

    @property
    def is_resumed(self) -> bool:
        """Whether a checkpoint was found."""
        return bool(self.found.facts)

    def begin(self, request: Mapping[str, Any]) -> None:
        """Note the request, and read the folder's checkpoint, if there is one; what it does not name is removed.

        Raises RecipeError if it belongs to another request, ArtefactError if it is damaged or of another version.
        """
        self.request = json.loads(json.dumps(request))
        if self.folder is None:
            return
        if os.path.lexists(self.folder / STATE):
            with self.reading():
                self._continue(self.folder)
        if distributed.rank() == 0:
            self._remove_weights(keep=set(self.digests))

    def _continue(self, folder: Path) -> None:
        tensors, facts = _read(folder / STATE)
        check_same_request(facts["request"], self.request, folder, f"start anew: rm -r {folder}")
        self.found, self.digests = Saved(tensors, facts), facts["digests"]
        self.history, self.finished, self.decisions = facts["history_before"], facts["finished"], facts["decisions"]
        say("resume", f"{facts['phase']}: {facts['step']} steps are done")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Convert errors caused by a damaged or foreign checkpoint in the block to ArtefactError."""
        try:
            yield
        except (WeightsError, KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            problem = getattr(error, "what", f"{type(error).__name__}: {error}")
            what = f"the checkpoint in {self.folder} cannot be continued: {problem}"
            raise ArtefactError(what, fix=f"start anew: rm -r '{self.folder}', and the same command") from error

    def within(self, phase: str) -> Saved | None:
        """Return the checkpoint if it was written within a phase, else None."""
        return self.found if self.found.facts.get("phase") == phase else None

    def is_finished(self, phase: str) -> bool:
        """Return whether the resumed run has finished a phase."""
        return phase in self.finished

    def finish(self, phase: str, history: Sequence[dict[str, float]]) -> None:
        """Note that a phase is over, and its measurements."""
        self.finished.append(phase)
        self.history += history

    def due(self) -> bool:
        """Return whether it is time to save, or a stop was requested."""
        if self.folder is None:
            return False
        passed = time.monotonic() - self.saved_at >= max(self.every, OVERHEAD * self.cost)
        self.stop_requested, passed = distributed.broadcast((self.stop_requested, passed))
        return self.stop_requested or passed

    def has_weights(self, name: str) -> bool:
        """Return whether the weights of a best evaluation are written."""
        return bool(distributed.broadcast(name in self.digests))

    def write_weights(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write the weights of a best evaluation, which may be sharded; a collective call."""
        digest = self._write(self._weights(name), tensors, {})
        if distributed.rank() == 0:
            self.digests[name] = digest

    def read_weights(self, name: str) -> dict[str, Tensor]:
        """Read the weights of a best evaluation; ValueError if they are not those that the checkpoint names."""
        path = self._weights(name)
        tensors, facts = _read(path)
        if facts["digest"] != self.digests[name]:
            raise ValueError(f"{path} belongs to another run")
        return tensors

    def _remove_weights(self, keep: set[str]) -> None:
        assert self.folder is not None
        for path in self.folder.glob("best-*.safetensors"):
            name = path.name.removeprefix("best-").removesuffix(".safetensors")
            if name not in keep:
                path.unlink()
                self.digests.pop(name, None)

    def _weights(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"best-{name}.safetensors"

    def save(self, phase: str, saved: Saved, keep: set[str]) -> None:
        """Write a checkpoint, then remove the best weights that are not in `keep`; a collective call.

        Raises WeightsError on a full disk; the checkpoint before stays complete.
        """
        assert self.folder is not None
        start = time.monotonic()
        facts = {**saved.facts, "phase": phase, "history_before": self.history, "finished": self.finished}
        facts |= {"request": self.request, "decisions": self.decisions}
        facts["digests"] = {name: self.digests[name] for name in sorted(keep) if name in self.digests}
        self._write(self.folder / STATE, saved.tensors, facts)
        if distributed.rank() == 0:
            self._remove_weights(keep)
        self.saved_at = time.monotonic()
        self.cost = self.saved_at - start

    def _write(self, path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> str:
        """Write tensors and facts with their digest, which rank 0 returns; sharded tensors are gathered one by one."""
        text = json.dumps({**facts, "format": FORMAT})
        gathered = _gathered(tensors)
        if distributed.rank() != 0:
            deque(gathered, maxlen=0)
            return ""
        digest = _header_digest(tensors, text)
        values = _hashed(gathered, digest)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            safetensors_file.write_streamed(path, tensors, values, lambda: {"run": text, "sha256": digest.hexdigest()})
        except (OSError, WeightsError) as error:
            deque(gathered, maxlen=0)  # the other processes wait for it
            raise WeightsError(
                f"the run cannot be saved: {getattr(error, 'what', error)}; the last checkpoint is complete",
                fix="free some disk space, then continue: the same command with --resume",
            ) from error
        return digest.hexdigest()

    def remove(self) -> None:
        """Remove the checkpoint of a finished run."""
        if self.folder is not None and distributed.rank() == 0:
            self.digests.clear()
            with suppress(OSError):
                (self.folder / STATE).unlink(missing_ok=True)
                self._remove_weights(keep=set())
                self.folder.rmdir()  # unless the lock of the run is in it


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `_write` wrote, the digest among the facts; ValueError or WeightsError if it is anything else."""
    tensors, metadata = safetensors_file.read_state(path)
    facts = json.loads(metadata.get("run", "{}"))
    if facts.get("format") != FORMAT:
        raise ValueError(f"{path} was written by another version of zoo (format {facts.get('format')}, now {FORMAT})")
    if _digest(tensors, metadata["run"]) != metadata.get("sha256"):
        raise ValueError(f"{path} is damaged: its content has another SHA-256 than when it was written")
    return tensors, {**facts, "digest": metadata["sha256"]}


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """Return the SHA-256 of tensors, their names, types and shapes, and a text."""
    digest = _header_digest(tensors, text)
    deque(_hashed(_gathered(tensors), digest), maxlen=0)
    return digest.hexdigest()


def _header_digest(tensors: Mapping[str, Tensor], text: str) -> hashlib._Hash:
    """Return the SHA-256 of names, types and shapes of tensors, and a text, before that of the values."""
    shapes = [(name, str(tensors[name].dtype), list(tensors[name].shape)) for name in sorted(tensors)]
    return hashlib.sha256(json.dumps([shapes, text]).encode())


def _gathered(tensors: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """Yield the tensors in the order of the file, sharded ones in full, gathered one by one; a collective call."""
    for name in safetensors_file.file_order(tensors):
        yield distributed.full_tensor(tensors[name].detach())


def _hashed(values: Iterable[Tensor], digest: hashlib._Hash) -> Iterator[Tensor]:
    """Yield tensors on the CPU, and add them to a digest."""
    for value in values:
        content = value.cpu().contiguous()
        digest.update(content.reshape(-1).view(torch.uint8).numpy().data)
        yield content


def check_same_request(saved: Mapping[str, Any], request: Mapping[str, Any], folder: Path, anew: str) -> None:
    """Raise RecipeError, naming the first difference, unless a run in `folder` was started by the same request.

    `anew` is how to start another run.
    """
    for key, value in request.items():
        if saved.get(key) != value:
            raise RecipeError(
                f"{folder} holds a run with {key}={saved.get(key)!r:.80}, and now {key}={value!r:.80}",
                fix=f"resume with the settings it was started with, or {anew}",
            )


def checkpointer(out: Path | None, every: float, *, resume: bool) -> Checkpointer:
    """Return the checkpointer of a run to `out` (None: without checkpoints).

    Raises ArtefactError if there is an unfinished run to `out` and `resume` is false.
    """
    if out is None:
        if resume:
            raise RecipeError("resume=True needs a folder: a run without out=… has no checkpoints", fix=FIX)
        return Checkpointer()
    folder = out_folder.working(out)
    if out_folder.is_unfinished(out) and not resume:
        raise ArtefactError(
            f"{folder} holds an unfinished run to {out}",
            fix=f"continue it: the same command with --resume (resume=True); or start anew: rm -r {folder}",
        )
    return Checkpointer(folder, every)


@contextmanager
def stop_on_signal(checkpoints: Checkpointer) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into a stop after the current step and a checkpoint; a second signal stops at once."""
    if checkpoints.folder is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: object) -> None:
        if checkpoints.stop_requested:
            raise KeyboardInterrupt
        checkpoints.stop_requested = True

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
