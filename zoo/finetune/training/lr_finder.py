"""The learning-rate finder: a range test after which weights, buffers and random numbers are as before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from zoo.errors import RecipeError
from zoo.finetune import callbacks
from zoo.finetune.job import Job
from zoo.finetune.network import Network, copy_state, load_state
from zoo.finetune.training.loop import train
from zoo.finetune.training.optimizer import RANGE_TEST

STEPS = 100
SMOOTHING = 0.9
"""Decay of the exponential moving average of the loss."""
BURN_IN = 10
"""Steps before the moving average covers as many batches as it remembers."""
WINDOW = 3
"""Steps to each side over which the slope is measured: about half a decade in all."""
DIVERGED = 4.0
"""The test stops when the smoothed loss exceeds its minimum by this factor."""


@dataclass(frozen=True, slots=True)
class LearningRates:
    """The suggested peak learning rate of the head, and the smoothed loss at each rate that was tried.

    The backbone's learning rate keeps its ratio to the head's.
    """

    lr: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]


@dataclass(slots=True)
class _Curve:
    """A callback that smooths the loss of each step, and stops a diverging run."""

    average: float = 0.0
    losses: list[float] = field(default_factory=list)

    def on_step(self, step: int, loss: Tensor) -> bool:
        self.average = SMOOTHING * self.average + (1 - SMOOTHING) * float(loss)
        self.losses.append(self.average / (1 - SMOOTHING**step))
        return not self.losses[-1] <= DIVERGED * min(self.losses)


def find(network: Network, job: Job) -> LearningRates:
    """Suggest the rate at which the loss falls fastest, of 1e-7 to 1 (Smith 2017, arXiv 1506.01186).

    Raises RecipeError if the loss never falls.
    """
    state = copy_state(network)
    hp = replace(job.hp, steps=STEPS, evals=1, schedule="range-test", patience=0, stop_after=None)
    curve = _Curve()
    try:
        train(network, replace(job, hp=hp, valid=None, callbacks=callbacks.check(curve)))
    except RecipeError:  # diverged before the curve could stop it: the end of the test
        if not curve.losses:
            raise
    finally:
        load_state(network, state)
        network.eval()
    low, high = RANGE_TEST
    rates = [low * (high / low) ** (step / (STEPS - 1)) for step in range(len(curve.losses))]
    return LearningRates(_steepest(rates, curve.losses), tuple(rates), tuple(curve.losses))


def _steepest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate at which the smoothed loss falls fastest per decade, before its minimum."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    end = finite.index(min(finite)) if finite else 0
    slopes = [(losses[i + WINDOW] - losses[i - WINDOW], i) for i in range(BURN_IN, end - WINDOW + 1)]
    if not slopes or min(slopes)[0] >= 0:
        raise RecipeError("the loss falls at no learning rate", fix="check the labels, or try another backbone")
    return float(f"{rates[min(slopes)[1]]:.1e}")
