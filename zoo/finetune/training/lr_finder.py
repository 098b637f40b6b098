"""The learning-rate finder: a short run in which the rate rises, after which the weights are as they were."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo.console import Bar
from zoo.data.sampler import training_order
from zoo.errors import RecipeError
from zoo.finetune.job import Job
from zoo.finetune.network import Network, put, set_mode, weights
from zoo.finetune.training.train_step import Optimisation

LOWEST, HIGHEST = 1e-7, 1.0
STEPS = 100
SMOOTH = 0.9
"""How much of the running mean of the loss stays from step to step."""
SETTLED = 10
"""Steps until the running mean is one of as many batches as it keeps; what it does before is chance."""
NEAR = 3
"""Steps to each side over which the fall of the loss is measured: about half of a decade together."""
WORSE = 4.0
"""The run ends where the smoothed loss is this many times the smallest one."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What was found: the suggested peak rate of the head, and the smoothed loss at each rate that was tried.

    The backbone's rate keeps its ratio to the head's, which the recipe says.
    """

    lr: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]


def find(network: Network, job: Job) -> Rates:
    """Raise the rate from 1e-7 to 1 in 100 steps (Smith 2017, arXiv 1506.01186); suggests where the loss falls fastest.

    Weights, buffers and random numbers are as before afterwards. Raises RecipeError if the loss never falls.
    """
    state = weights(network)
    recipe = replace(job.recipe, steps=STEPS, warmup=0.0)
    optimisation = Optimisation(network, replace(job, recipe=recipe))
    rates, losses = [], []
    smooth, lowest = 0.0, math.inf
    try:
        with Bar("find lr", STEPS) as bar, torch.random.fork_rng():
            set_mode(network, job.frozen(), hold_norms=recipe.norm == "frozen", dropout=recipe.dropout == "on")
            for number, rate, loss in _losses(optimisation, job, recipe.lr or 1.0):
                smooth = SMOOTH * smooth + (1 - SMOOTH) * loss
                mean = smooth / (1 - SMOOTH ** (number + 1))
                lowest = min(lowest, mean)
                rates.append(rate)
                losses.append(mean)
                bar.advance(note=f"lr {rate:.1e}  loss {mean:.3f}")
                if mean > WORSE * lowest or not math.isfinite(mean):
                    break
    finally:
        put(network, state)
        network.eval()
    return Rates(_steepest(rates, losses), tuple(rates), tuple(losses))


def _losses(optimisation: Optimisation, job: Job, peak: float) -> Iterator[tuple[int, float, float]]:
    """Yield (step, rate of the head, loss) while the rate rises; ends where a step cannot be taken any more."""
    data, recipe = job.train, job.recipe
    turns = training_order(len(data), recipe.batch_size, STEPS, recipe.seed, lengths=data.lengths, weights=job.draws)
    peaks = [group["peak"] for group in optimisation.solver.param_groups]
    for step, indices in turns:
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        for group, own in zip(optimisation.solver.param_groups, peaks, strict=True):
            group["peak"] = own / peak * rate
        chance = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step + 1)
        batch = data.batch(indices, recipe.augment, chance)
        try:
            loss: Tensor = optimisation.step(step, 0, indices, batch)
        except RecipeError:  # the loss is no longer finite: the rate is far too high, as it was meant to be
            return
        yield step, rate, float(loss)


def _steepest(rates: list[float], losses: list[float]) -> float:
    """Return the rate at which the smoothed loss falls fastest per decade, before its lowest point."""
    end = min(range(len(losses)), key=losses.__getitem__) if losses else 0
    slopes = [(losses[i + NEAR] - losses[i - NEAR], i) for i in range(SETTLED, end - NEAR + 1)]
    if not slopes or min(slopes)[0] >= 0:
        raise RecipeError("the loss falls at no learning rate", fix="look at the labels, or at another backbone")
    return float(f"{rates[min(slopes)[1]]:.1e}")
