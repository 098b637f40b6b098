"""Recording: what a run measures, as lines of metrics.jsonl and through the trackers of accelerate."""

from __future__ import annotations

import importlib.util
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from zoo.console import say
from zoo.errors import RecipeError
from zoo.store.out_folder import METRICS, SUFFIX

TRACKERS = {
    "tensorboard": "tensorboard --logdir runs/tensorboard",
    "wandb": "wandb.ai, or offline without a login: wandb sync wandb/offline-run-…",
    "mlflow": "mlflow ui",
    "trackio": "trackio show --project zoo",
}
"""Trackers, and how to look at what they hold."""
Row = dict[str, Any]


class Losses:
    """The losses of steps on their device, as floats on demand: reading one in a step would wait for a GPU."""

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._losses: list[Tensor] = []

    def add(self, step: int, loss: Tensor) -> None:
        """Keep the loss of a step."""
        self._steps.append(step)
        self._losses.append(loss.detach())

    def take(self) -> list[tuple[int, float]]:
        """Return (step, loss) of those that were added since the last call."""
        found = list(zip(self._steps, torch.stack(self._losses).tolist(), strict=True)) if self._steps else []
        self._steps.clear()
        self._losses.clear()
        return found


class MetricsFile:
    """A callback that appends a JSON line for each step, each evaluation and the end, with the key "event".

    A resumed run goes on in the same file: lines of steps that are taken again are replaced. On a GPU the lines of
    steps are written at evaluations.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / METRICS
        self._losses = Losses()
        self._file: TextIO | None = None

    def on_step(self, step: int, loss: Tensor) -> None:
        """Write a step's loss, of the first process's examples."""
        self._losses.add(step, loss)
        if loss.device.type == "cpu":
            self._write(self._steps())

    def on_evaluation(self, row: Mapping[str, float]) -> None:
        """Write the steps since the last evaluation, and this one."""
        self._write([*self._steps(), {"event": "evaluation", **row}])

    def on_end(self, metrics: Mapping[str, float] | None) -> None:
        """Write the metrics of the finished model."""
        self._write([*self._steps(), *([] if metrics is None else [{"event": "end", **metrics}])])
        if self._file is not None:
            self._file.close()

    def _steps(self) -> list[Row]:
        return [{"event": "step", "step": step, "loss": loss} for step, loss in self._losses.take()]

    def _write(self, rows: Sequence[Row]) -> None:
        if not rows:
            return
        if self._file is None:
            _keep_before(self._path, rows[0].get("step", 0))
            self._file = self._path.open("a", encoding="utf-8")
        self._file.writelines(json.dumps(row) + "\n" for row in rows)
        self._file.flush()


def _keep_before(path: Path, step: int) -> None:
    """Keep the lines of a file that belong to earlier steps; a damaged file ends where the damage begins."""
    kept = []
    with suppress(OSError, ValueError, KeyError, TypeError):
        for line in path.read_text(encoding="utf-8").splitlines():
            if json.loads(line)["step"] < step:
                kept.append(line + "\n")
    part = path.with_name(f".{path.name}.part")
    part.write_text("".join(kept), encoding="utf-8")
    part.replace(path)


class Tracked:
    """A callback that passes what is measured on to a tracker of accelerate, at evaluations."""

    def __init__(self, name: str, start: Callable[[], Any], configuration: Mapping[str, Any]) -> None:
        self._name, self._start, self._configuration = name, start, configuration
        self._losses, self._last = Losses(), 0
        self._tracker: Any = None

    def on_step(self, step: int, loss: Tensor) -> None:
        """Keep the loss of a step."""
        self._losses.add(step, loss)

    def on_evaluation(self, row: Mapping[str, float]) -> None:
        """Log step_loss of the steps since the last evaluation, then loss and valid_<metric>."""
        self._log([*self._steps(), (int(row["step"]), {name: row[name] for name in row if name != "step"})])

    def on_end(self, metrics: Mapping[str, float] | None) -> None:
        """Log final_valid_<metric> and final_test_<metric>, and close the tracker."""
        final = {f"final_{name}": value for name, value in (metrics or {}).items()}
        self._log([*self._steps(), *([(self._last, final)] if final else [])])
        if self._tracker is not None:
            with _silent():
                self._tracker.finish()

    def _steps(self) -> list[tuple[int, Row]]:
        return [(step, {"step_loss": loss}) for step, loss in self._losses.take()]

    def _log(self, rows: Iterable[tuple[int, Row]]) -> None:
        for step, values in rows:
            if self._tracker is None:
                self._tracker = self._start()
                self._tracker.store_init_configuration(dict(self._configuration))
            self._last = max(step, self._last)
            self._tracker.log(values, step=step)


def check(track: object) -> tuple[str, ...]:
    """Return the names of trackers as a tuple; RecipeError for an unknown one, and for one that is not installed."""
    names = (track,) if isinstance(track, str) else tuple(track) if isinstance(track, list | tuple) else (track,)
    for name in names:
        if name not in TRACKERS:
            what = f"track={name!r} is none of {', '.join(TRACKERS)}"
            raise RecipeError(what, fix="track='tensorboard' (--track tensorboard), or a callback of your own")
        if importlib.util.find_spec(str(name)) is None:
            what = f"track={name!r}: the package {name} is not installed"
            raise RecipeError(what, fix=f"pip install {name}, or leave out track")
    return tuple(dict.fromkeys(map(str, names)))


def recorders(
    track: Sequence[str], folder: Path | None, configuration: Mapping[str, Any]
) -> list[MetricsFile | Tracked]:
    """Return the callbacks that record a run: metrics.jsonl in its working folder, and the trackers it asks for."""
    found: list[MetricsFile | Tracked] = [] if folder is None else [MetricsFile(folder)]
    for name in track:
        say("track", f"{name}: {TRACKERS[name]}")
        found.append(Tracked(name, partial(_start, name, _run_name(folder)), flat(configuration)))
    return found


def _run_name(folder: Path | None) -> str:
    return "run" if folder is None else folder.name.removesuffix(SUFFIX)


def _start(name: str, run: str) -> Any:
    """Start a tracker of accelerate, which keeps its files where the tool itself looks; nothing is asked or printed."""
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    if not PartialState._shared_state:
        PartialState(cpu=True)  # the trackers ask it whether this is the first process
    with _silent():
        kind = LOGGER_TYPE_TO_CLASS[name]
        match name:
            case "tensorboard":
                made = kind(run, logging_dir=Path("runs", "tensorboard"))
            case "wandb":
                made = kind("zoo", name=run, **_wandb_options())
            case "mlflow":
                made = kind("zoo", run_name=run)
            case _:
                made = kind("zoo", name=run)
        made.start()
    return made


def _wandb_options() -> dict[str, Any]:
    """Return options of wandb.init: offline without a login, of which it would ask on a terminal."""
    import wandb

    known = os.environ.get("WANDB_MODE") or wandb.login(prompt=False)
    return {"settings": wandb.Settings(silent=True)} | ({} if known else {"mode": "offline"})


@contextmanager
def _silent() -> Iterator[None]:
    """Print nothing inside the block: a tracker's own lines would be in the JSON of a command."""
    nowhere = io.StringIO()
    with redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Return nested values as one level, with names such as "hp.lr": numbers and booleans as they are, else as text."""
    found: dict[str, str | int | float | bool] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif value is not None:
            found[f"{prefix}{name}"] = value if isinstance(value, int | float) else str(value)
    return found
