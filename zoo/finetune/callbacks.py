"""Callbacks: objects of the user that are told of each step and evaluation and of the end, and may end the training."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from zoo.console import say
from zoo.errors import RecipeError
from zoo.finetune.runtime import distributed

METHODS = ("on_step", "on_evaluation", "on_end")


@runtime_checkable
class Callback(Protocol):
    """An object with one or more of these methods; where on_step or on_evaluation returns true, the training ends.

    Then the best weights stay. An exception of a callback is printed, and that callback is not called again: the
    training goes on (KeyboardInterrupt and SystemExit end it). Of several processes the first calls them.
    """

    def on_step(self, step: int, loss: Tensor) -> bool | None:
        """Take the number of a step, from 1, and its loss: a scalar tensor, whose float(loss) waits for the device."""
        ...

    def on_evaluation(self, row: Mapping[str, float]) -> bool | None:
        """Take what `Model.history` gets: step, loss (mean since the last evaluation) and valid_<metric>."""
        ...

    def on_end(self, metrics: Mapping[str, float] | None) -> None:
        """Take valid_<metric> and test_<metric> of the finished model, or None where the run was stopped or failed."""
        ...


class Isolated:
    """A callback that is not called again after an exception; `error` says which one, "" without."""

    def __init__(self, callback: object) -> None:
        self.callback, self.error = callback, ""

    def __call__(self, method: str, *arguments: Any) -> object:
        """Call a method, if there is one; returns its answer."""
        call = getattr(self.callback, method, None)
        if call is None or self.error:
            return None
        try:
            return call(*arguments)
        except Exception as error:  # noqa: BLE001  # whatever it is, it does not cost the training
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.error = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
            say("warning", f"{type(self.callback).__name__}.{method} failed and is not called again: {self.error}")
            return None


def check(callbacks: object) -> tuple[Isolated, ...]:
    """Return callbacks, each isolated; RecipeError for an object with none of the methods."""
    found = tuple(callbacks) if isinstance(callbacks, list | tuple) else (callbacks,)
    for callback in found:
        if not any(callable(getattr(callback, name, None)) for name in METHODS):
            what = f"callbacks: {type(callback).__name__} has no method {', '.join(METHODS[:-1])} or {METHODS[-1]}"
            raise RecipeError(what, fix="def on_evaluation(self, row): print(row)   (zoo.Callback)")
    return tuple(map(Isolated, found))


def stepped(callbacks: Sequence[Isolated], step: int, loss: Tensor) -> bool:
    """Tell of a step; return whether one asks to stop."""
    return _any([callback("on_step", step, loss) for callback in _told(callbacks)], callbacks)


def evaluated(callbacks: Sequence[Isolated], row: Mapping[str, float]) -> bool:
    """Tell of an evaluation, each of its own copy; return whether one asks to stop."""
    return _any([callback("on_evaluation", dict(row)) for callback in _told(callbacks)], callbacks)


@contextmanager
def told_of_end(callbacks: Sequence[Isolated], metrics: Callable[[], Mapping[str, float]]) -> Iterator[None]:
    """Tell of the end of the block: the metrics there, or None if it raises."""
    found: Mapping[str, float] | None = None
    try:
        yield
        found = metrics()
    finally:
        for callback in _told(callbacks):
            callback("on_end", None if found is None else dict(found))


def _told(callbacks: Sequence[Isolated]) -> Sequence[Isolated]:
    """Return the callbacks in the first process, none in others."""
    return callbacks if distributed.rank() == 0 else ()


def _any(answers: Sequence[object], callbacks: Sequence[Isolated]) -> bool:
    """Return on all processes whether an answer of the first was true."""
    return bool(callbacks) and bool(distributed.broadcast(any(answers)))
