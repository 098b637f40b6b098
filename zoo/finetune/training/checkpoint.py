"""Checkpoints: where a run is, kept so that a killed one goes on and ends with the same bits.

<out>.unfinished/
    state.safetensors     weights that train, optimiser, losses since the last measurement; in its header, as JSON,
                          phase, step, history, the best so far, and what the run was asked to do
    best-….safetensors    the weights of a best measurement, written once
Each file is written under another name and renamed, state.safetensors last: whatever happens, there is a whole one.
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
from zoo.finetune import distributed
from zoo.weights import safetensors_file

STATE = "state.safetensors"
FIX = 'finetune(…, out="runs/model", resume=True)'
SHARE = 20
"""Saving takes at most one part in this many of the time: large nets are saved less often than asked for."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What a checkpoint holds: tensors by name, and facts that JSON can hold."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class Keeper:
    """Saves where a run is into a folder (None: nowhere), and finds it there when the run goes on.

    `past` are the measurements of the phases that the run has `left`, `notes` what was decided on the way.
    """

    def __init__(self, folder: Path | None = None, every: float = 60) -> None:
        self.folder, self.every = folder, every
        self.asked: dict[str, Any] = {}
        self.found = Saved()
        self.past: list[dict[str, float]] = []
        self.left: list[str] = []
        self.notes: dict[str, Any] = {}
        self.saved_at, self.cost = time.monotonic(), 0.0
        self.stop = False

    def begin(self, asked: Mapping[str, Any]) -> None:
        """Take note of what the run is asked to do, and go on from the folder's checkpoint, if there is one.

        Raises RecipeError if that is of a run that was asked to do something else.
        """
        self.asked = json.loads(json.dumps(asked))
        if self.folder is None or not (self.folder / STATE).exists():
            return
        tensors, header = safetensors_file.read_state(self.folder / STATE)
        facts = json.loads(header["run"])
        for key, wanted in self.asked.items():
            if facts["asked"].get(key) != wanted:
                raise RecipeError(
                    f"{self.folder} holds a run with {key}={facts['asked'].get(key)!r}, and now {key}={wanted!r}",
                    fix=f"go on with the settings it was started with, or start afresh: rm -r {self.folder}",
                )
        self.found = Saved(tensors, facts)
        self.past, self.left, self.notes = facts["past"], facts["left"], facts["notes"]
        say("resume", f"{facts['phase']}: {facts['step']} steps are done")

    def at(self, phase: str) -> Saved | None:
        """Return what was saved within a phase, None if the run was elsewhere or is new."""
        return self.found if self.found.facts.get("phase") == phase else None

    def beyond(self, phase: str) -> bool:
        """Tell whether the run that goes on has left a phase behind."""
        return phase in self.left

    def leave(self, phase: str, history: Sequence[dict[str, float]]) -> None:
        """Note that a phase is over, and what was measured in it."""
        self.left.append(phase)
        self.past += history

    def due(self) -> bool:
        """Tell whether it is time to save: seconds have passed, or the run is asked to stop."""
        if self.folder is None:
            return False
        passed = time.monotonic() - self.saved_at >= max(self.every, SHARE * self.cost)
        self.stop, passed = distributed.agreed((self.stop, passed))
        return self.stop or passed

    def lacks(self, name: str) -> bool:
        """Tell whether the weights of a best measurement are still to be written."""
        return not distributed.agreed(self._best(name).exists())

    def best(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write the weights of a best measurement."""
        if distributed.rank() == 0:
            self._write(self._best(name), tensors, {})

    def best_of(self, name: str) -> dict[str, Tensor]:
        """Read the weights of a best measurement."""
        return safetensors_file.read_state(self._best(name))[0]

    def _best(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"best-{name}.safetensors"

    def save(self, phase: str, saved: Saved, keep: set[str]) -> None:
        """Write a checkpoint, then remove the best weights that are not in `keep`.

        Raises WeightsError on a full disk; the checkpoint before is whole then.
        """
        assert self.folder is not None
        start = time.monotonic()
        if distributed.rank() == 0:
            facts = {**saved.facts, "phase": phase, "past": self.past, "left": self.left}
            facts |= {"asked": self.asked, "notes": self.notes}
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
                f"the run cannot be saved: {getattr(error, 'what', error)}; the last checkpoint is whole",
                fix="free some disk space, then go on: the same command with --resume",
            ) from error

    def done(self) -> None:
        """Remove the checkpoint of a run that has come to its end."""
        if self.folder is not None and distributed.rank() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)


def unfinished(out: Path) -> Path:
    """Return where the checkpoints of a run are that will be saved to `out`."""
    return out.with_name(f"{out.name}.unfinished")


def keeper(out: Path | None, every: float, *, resume: bool) -> Keeper:
    """Return what keeps the checkpoints of a run that will be saved to `out` (None: nowhere).

    Raises ArtefactError if `out` is taken, or holds an unfinished run that is not to be gone on with.
    """
    if out is None:
        if resume:
            raise RecipeError(
                "resume=True has nothing to go on with: a run without out=… keeps no checkpoints", fix=FIX
            )
        return Keeper()
    folder = unfinished(out)
    if folder.exists() and not resume:
        raise ArtefactError(
            f"{folder} holds a run to {out} that was stopped",
            fix=f"go on with it: the same command with --resume (resume=True); or start afresh: rm -r {folder}",
        )
    return Keeper(folder, every)


@contextmanager
def stoppable(keeper: Keeper) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into a stop at the end of the step, after a checkpoint; a second Ctrl-C stops at once."""
    if keeper.folder is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: object) -> None:
        if keeper.stop:
            raise KeyboardInterrupt
        keeper.stop = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
