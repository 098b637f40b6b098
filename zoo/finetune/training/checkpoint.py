"""Checkpoints: the state of a run on disk, from which a killed run resumes and ends with the same bits.

<out>.unfinished/
    state.safetensors     trained weights, optimizer state, losses since the last evaluation; in its metadata, as JSON,
                          phase, step, history, the best so far, and the request
    best-….safetensors    the weights of a best evaluation, written once
Each file is written under a temporary name and renamed, state.safetensors last: there is always a complete checkpoint.
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.console import say
from zoo.errors import ArtefactError, RecipeError, WeightsError
from zoo.finetune.runtime import distributed
from zoo.weights import safetensors_file

STATE = "state.safetensors"
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
    """

    def __init__(self, folder: Path | None = None, every: float = 60) -> None:
        self.folder, self.every = folder, every
        self.request: dict[str, Any] = {}
        self.found = Saved()
        self.history: list[dict[str, float]] = []
        self.finished: list[str] = []
        self.decisions: dict[str, Any] = {}
        self.saved_at, self.cost = time.monotonic(), 0.0
        self.stop_requested = False

    @property
    def is_resumed(self) -> bool:
        """Whether a checkpoint was found."""
        return bool(self.found.facts)

    def begin(self, request: Mapping[str, Any]) -> None:
        """Note the request, and read the folder's checkpoint, if there is one.

        Raises RecipeError if that belongs to another request.
        """
        self.request = json.loads(json.dumps(request))
        if self.folder is None or not (self.folder / STATE).exists():
            return
        tensors, metadata = safetensors_file.read_state(self.folder / STATE)
        facts = json.loads(metadata["run"])
        anew = f"start anew: rm -r {self.folder}"
        check_same_request(facts["request"], self.request, self.folder, anew)
        self.found = Saved(tensors, facts)
        self.history, self.finished, self.decisions = facts["history_before"], facts["finished"], facts["decisions"]
        say("resume", f"{facts['phase']}: {facts['step']} steps are done")

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
        return bool(distributed.broadcast(self._weights(name).exists()))

    def write_weights(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write the weights of a best evaluation."""
        if distributed.rank() == 0:
            self._write(self._weights(name), tensors, {})

    def read_weights(self, name: str) -> dict[str, Tensor]:
        """Read the weights of a best evaluation."""
        return safetensors_file.read_state(self._weights(name))[0]

    def _weights(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"best-{name}.safetensors"

    def save(self, phase: str, saved: Saved, keep: set[str]) -> None:
        """Write a checkpoint, then remove the best weights that are not in `keep`.

        Raises WeightsError on a full disk; the checkpoint before stays complete.
        """
        assert self.folder is not None
        start = time.monotonic()
        if distributed.rank() == 0:
            facts = {**saved.facts, "phase": phase, "history_before": self.history, "finished": self.finished}
            facts |= {"request": self.request, "decisions": self.decisions}
            self._write(self.folder / STATE, saved.tensors, facts)
            for path in self.folder.glob("best-*.safetensors"):
                if path.name.removeprefix("best-").removesuffix(".safetensors") not in keep:
                    path.unlink()
        self.saved_at = time.monotonic()
        self.cost = self.saved_at - start

    def _write(self, path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            safetensors_file.write_state(path, tensors, {"run": json.dumps(facts)})
        except (OSError, WeightsError) as error:
            raise WeightsError(
                f"the run cannot be saved: {getattr(error, 'what', error)}; the last checkpoint is complete",
                fix="free some disk space, then continue: the same command with --resume",
            ) from error

    def remove(self) -> None:
        """Remove the checkpoint of a finished run."""
        if self.folder is not None and distributed.rank() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)


def check_same_request(saved: Mapping[str, Any], request: Mapping[str, Any], folder: Path, anew: str) -> None:
    """Raise RecipeError, naming the first difference, unless a run in `folder` was started by the same request.

    `anew` is how to start another run.
    """
    for key, value in request.items():
        if saved.get(key) != value:
            raise RecipeError(
                f"{folder} holds a run with {key}={saved.get(key)!r}, and now {key}={value!r}",
                fix=f"resume with the settings it was started with, or {anew}",
            )


def unfinished(out: Path) -> Path:
    """Return the checkpoint folder of a run to `out`."""
    return out.with_name(f"{out.name}.unfinished")


def checkpointer(out: Path | None, every: float, *, resume: bool) -> Checkpointer:
    """Return the checkpointer of a run to `out` (None: without checkpoints).

    Raises ArtefactError if there is an unfinished run to `out` and `resume` is false.
    """
    if out is None:
        if resume:
            raise RecipeError("resume=True needs a folder: a run without out=… has no checkpoints", fix=FIX)
        return Checkpointer()
    folder = unfinished(out)
    if folder.exists() and not resume:
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
