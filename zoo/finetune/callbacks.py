"""Callbacks: objects of the user that are told of each step and evaluation, and may end the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from zoo.errors import RecipeError
from zoo.finetune.runtime import distributed

METHODS = ("on_step", "on_evaluation")


@runtime_checkable
class Callback(Protocol):
    """An object with one or both of these methods; where one returns true, the training ends and the best weights stay.

    An exception ends the run as Ctrl-C does. Of several processes the first calls them.
    """

    def on_step(self, step: int, loss: Tensor) -> bool | None:
        """Take the number of a step, from 1, and its loss: a scalar tensor, whose float(loss) waits for the device."""
        ...

    def on_evaluation(self, row: Mapping[str, float]) -> bool | None:
        """Take what `Model.history` gets: step, loss (mean since the last evaluation) and valid_<metric>."""
        ...


def check(callbacks: object) -> tuple[Callback, ...]:
    """Return callbacks as a tuple; RecipeError for an object with neither method."""
    found = tuple(callbacks) if isinstance(callbacks, list | tuple) else (callbacks,)
    for callback in found:
        if not any(callable(getattr(callback, name, None)) for name in METHODS):
            what = f"callbacks: {type(callback).__name__} has no method {' or '.join(METHODS)}"
            raise RecipeError(what, fix="def on_evaluation(self, row): print(row)   (zoo.Callback)")
    return found


def stepped(callbacks: Sequence[Callback], step: int, loss: Tensor) -> bool:
    """Tell of a step; return whether one asks to stop."""
    return _any([callback.on_step(step, loss) for callback in _with(callbacks, "on_step")], callbacks)


def evaluated(callbacks: Sequence[Callback], row: Mapping[str, float]) -> bool:
    """Tell of an evaluation; return whether one asks to stop."""
    return _any([callback.on_evaluation(dict(row)) for callback in _with(callbacks, "on_evaluation")], callbacks)


def _with(callbacks: Sequence[Callback], method: str) -> list[Callback]:
    return [one for one in callbacks if hasattr(one, method)] if distributed.rank() == 0 else []


def _any(answers: Sequence[object], callbacks: Sequence[Callback]) -> bool:
    return bool(callbacks) and bool(distributed.broadcast(any(answers)))
