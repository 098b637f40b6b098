"""The recipe of a fine-tuning run: one frozen dataclass, checked when it is made."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.errors import RecipeError

CHOICES: dict[str, tuple[str, ...]] = {
    "strategy": ("auto", "scratch", "probe", "full", "lp-ft", "gradual", "lora"),
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "linear"),
    "augment": ("auto", "none", "shift", "shift-flip", "crop-flip", "rand"),
    "mix": ("auto", "none", "mixup", "cutmix", "both"),
    "dropout": ("auto", "on", "off"),
    "norm": ("auto", "frozen", "batch"),
    "balance": ("none", "weights", "logits", "sampler"),
    "cut": ("head", "tail", "head-tail"),
    "precision": ("auto", "fp32", "bf16"),
}
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to fine-tune; None and "auto" are settled from the backbone, the machine and the number of examples.

    strategy   scratch (random weights), probe (backbone frozen, its features computed once), full (all layers),
               lp-ft (a probe, then all layers from its head), gradual (a probe, then the last stages, then more),
               lora (low-rank adapters of rank lora_rank on its linear layers, merged into them afterwards)
    steps      optimiser steps; epochs is the same in passes over the data, at most one of the two is given
    budget     the longest that training may take: seconds, or "90s", "5m", "1h"; steps are made fewer to fit
    lr         peak learning rate of the head; backbone_lr that of the backbone's last stage (scratch: lr everywhere)
    layer_decay  each stage has this share of the rate of the stage after it (1: all the same)
    schedule   after the warm-up the rate falls to zero along a cosine or a line
    warmup     share of the steps in which the rate rises linearly
    clip       largest gradient norm (0: no clipping)
    freeze     number of the backbone's first stages that do not train; without augmentation they run once only
    dropout    whether the backbone's own dropout and stochastic depth are on
    augment    what is done to training images: none, shift, shift-flip, crop-flip, rand (crop-flip and RandAugment)
    mix        training images mixed with each other: none, mixup, cutmix, both
    norm       BatchNorm statistics: frozen (those of the pre-training) or batch (learned anew)
    l2         strength of the probe's penalty on standardised features; None: swept by cross-validation
    views      augmented views of each training image that the probe learns from (1: the image as it is)
    soup       best checkpoints whose weights are averaged at the end, as long as validation gains (1: the best alone)
    calibrate  make the probabilities of a tuned classifier honest: one temperature, fitted on the validation data
    balance    rare classes: none, weights (in the loss), logits (adjusted by their log share), sampler (drawn oftener)
    max_length tokens of a text that are read; cut says which of a longer one: head, tail, or head-tail
    autotune   choose precision, memory format, attention and compilation by a few timed steps, once a machine
    evals      number of measurements on the validation data, evenly spaced; the best weights are kept
    patience   measurements without a better one after which training stops (0: never)
    save_every seconds between checkpoints, for resume
    skip_bad   leave out images that cannot be read, instead of stopping at the first
    """

    strategy: str = "auto"
    steps: int | None = None
    epochs: float | None = None
    budget: float | str | None = None
    batch_size: int = 32
    lr: float | None = None
    backbone_lr: float | None = None
    layer_decay: float | None = None
    optimizer: str = "adamw"
    schedule: str = "cosine"
    weight_decay: float = 0.05
    warmup: float = 0.1
    clip: float = 1.0
    freeze: int = 0
    label_smoothing: float = 0.0
    dropout: str = "auto"
    augment: str = "auto"
    mix: str = "auto"
    norm: str = "auto"
    l2: float | None = None
    views: int | None = None
    soup: int | None = None
    calibrate: bool = True
    balance: str = "none"
    lora_rank: int = 8
    max_length: int | None = None
    cut: str = "head-tail"
    precision: str = "auto"
    autotune: bool = True
    evals: int | None = None
    patience: int = 5
    save_every: float = 60
    skip_bad: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            _check_choice(name, getattr(self, name), allowed)
        for name, (kind, rule, holds) in RULES.items():
            _check_number(name, getattr(self, name), kind, rule, holds)
        seconds(self.budget)
        if self.steps is not None and self.epochs is not None:
            raise RecipeError(
                f"steps={self.steps} and epochs={self.epochs} both set the length of the run",
                fix="give one of the two",
            )


RULES: dict[str, tuple[Any, str, Callable[[Any], bool]]] = {
    "steps": (int, "a whole number above 0", lambda v: v > 0),
    "epochs": ((int, float), "a number above 0", lambda v: v > 0),
    "batch_size": (int, "a whole number above 0", lambda v: v > 0),
    "lr": ((int, float), "a number above 0", lambda v: v > 0),
    "backbone_lr": ((int, float), "a number above 0", lambda v: v > 0),
    "layer_decay": ((int, float), "a share above 0 up to 1", lambda v: 0 < v <= 1),
    "weight_decay": ((int, float), "a number of 0 or more", lambda v: v >= 0),
    "warmup": ((int, float), "a share from 0 to 1", lambda v: 0 <= v <= 1),
    "clip": ((int, float), "a number of 0 or more", lambda v: v >= 0),
    "freeze": (int, "a whole number of 0 or more", lambda v: v >= 0),
    "label_smoothing": ((int, float), "a number from 0 to below 1", lambda v: 0 <= v < 1),
    "l2": ((int, float), "a number above 0", lambda v: v > 0),
    "views": (int, "a whole number above 0", lambda v: v > 0),
    "soup": (int, "a whole number above 0", lambda v: v > 0),
    "calibrate": (bool, "true or false", lambda v: True),
    "lora_rank": (int, "a whole number above 0", lambda v: v > 0),
    "max_length": (int, "a whole number of 8 or more", lambda v: v >= 8),
    "autotune": (bool, "true or false", lambda v: True),
    "evals": (int, "a whole number above 0", lambda v: v > 0),
    "patience": (int, "a whole number of 0 or more", lambda v: v >= 0),
    "save_every": ((int, float), "a number of 0 or more", lambda v: v >= 0),
    "skip_bad": (bool, "true or false", lambda v: True),
    "seed": (int, "a whole number of 0 or more", lambda v: v >= 0),
}


def seconds(budget: float | str | None) -> float | None:
    """Return a time budget in seconds: a number, or a text such as "90s", "5m", "1.5h"; RecipeError for another."""
    if budget is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", str(budget)) if not isinstance(budget, bool) else None
    span = float(found[1]) * SECONDS[found[2]] if found else 0.0
    if not 0 < span < math.inf:
        raise RecipeError(f"budget={budget!r} is no span of time", fix='budget="90s", "5m" or "1h"')
    return span


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1) or [allowed[0]]
        raise RecipeError(
            f"{name}={value!r} is not one of {', '.join(allowed)}",
            fix=f'{name}="{near[0]}"',
        )


def _check_number(name: str, value: Any, kind: Any, rule: str, holds: Callable[[Any], bool]) -> None:
    optional = Recipe.__dataclass_fields__[name].default is None
    if value is None and optional:
        return
    wrong_bool = isinstance(value, bool) and kind is not bool
    if wrong_bool or not isinstance(value, kind) or not (math.isfinite(value) and holds(value)):
        default = Recipe.__dataclass_fields__[name].default
        usual = "" if default is None else f": {name}={default}"
        raise RecipeError(f"{name}={value!r} is not {rule}", fix=f"give {rule}, or leave it out{usual}")


def make(fields: Mapping[str, Any]) -> Recipe:
    """Make a Recipe from keyword fields; an unknown field is a RecipeError that names the nearest ones."""
    known = [f.name for f in dataclasses.fields(Recipe)]
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or known
            raise RecipeError(f"{name!r} is not a field of the recipe", fix=f"use one of: {', '.join(near)}")
    return Recipe(**fields)


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the fields as a dict that `make` takes back."""
    return dataclasses.asdict(recipe)
