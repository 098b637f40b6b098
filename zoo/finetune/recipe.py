"""Recipe: the hyperparameters of a fine-tuning run, as requested; checked when it is created."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from zoo.errors import RecipeError

CHOICES: dict[str, tuple[str, ...]] = {
    "strategy": ("auto", "scratch", "probe", "full", "lp-ft", "gradual", "lora"),
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "linear"),
    "augment": ("auto", "none", "shift", "shift-flip", "crop-flip", "randaugment"),
    "mixup": ("auto", "none", "mixup", "cutmix", "both"),
    "batchnorm": ("auto", "frozen", "train"),
    "class_balance": ("none", "weights", "logits", "sampler"),
    "truncation": ("head", "tail", "head-tail"),
    "precision": ("auto", "fp32", "bf16"),
}
OTHER_NAMES = {
    **dict.fromkeys(("learning_rate", "base_lr", "lr_max"), "lr"),
    **dict.fromkeys(("num_train_epochs", "n_epochs", "num_epochs", "max_epochs"), "epochs"),
    **dict.fromkeys(("max_steps", "num_steps"), "steps"),
    **dict.fromkeys(("bs", "per_device_train_batch_size", "train_batch_size"), "batch_size"),
    **dict.fromkeys(("clip", "clip_grad", "gradient_clip_val"), "max_grad_norm"),
    **dict.fromkeys(("warmup", "warmup_steps", "warmup_epochs"), "warmup_ratio"),
    **dict.fromkeys(("early_stopping", "early_stopping_patience"), "patience"),
    **dict.fromkeys(("class_weights", "class_weight", "balance"), "class_balance"),
    **dict.fromkeys(("smoothing", "label_smoothing_factor"), "label_smoothing"),
    **dict.fromkeys(("budget", "time_limit"), "max_time"),
    **dict.fromkeys(("fp16", "bf16", "dtype", "amp"), "precision"),
    **dict.fromkeys(("cutmix", "mix"), "mixup"),
    **dict.fromkeys(("freeze", "freeze_layers"), "freeze_stages"),
    **dict.fromkeys(("opt", "optim"), "optimizer"),
    **dict.fromkeys(("sched", "lr_scheduler_type"), "schedule"),
    **dict.fromkeys(("r", "rank"), "lora_rank"),
}
"""Names of the same fields in other libraries."""
LARGEST = 2**32 - 1
"""Largest number in a recipe: seeds of NumPy have 32 bits."""
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to fine-tune; None and "auto" are resolved from the backbone and the data (zoo.finetune.defaults).

    strategy         scratch (random weights), probe (frozen backbone, linear head solved on its features), full (all
                     layers), lp-ft (a probe, then all layers from its head), gradual (a probe, then the last stages,
                     then more), lora (low-rank adapters of rank lora_rank, merged at the end)
    steps            optimizer steps
    epochs           the same in passes over the data; give at most one of the two
    max_time         longest training time: seconds, or "90s", "5m", "1h"; fewer steps are taken to fit
    stop_after       last step of the run, whose schedule stays that of `steps`: repeats a run that max_time cut short
    batch_size       examples of an optimizer step
    lr               peak learning rate of the head
    backbone_lr      peak learning rate of the last stage (from scratch: lr)
    layer_decay      learning rate of a stage as a share of the next stage's (1: the same for all)
    optimizer        adamw or sgd
    schedule         decay to zero after the warm-up: cosine or linear
    weight_decay     of parameters with more than one axis
    warmup_ratio     share of the steps with linear warm-up
    max_grad_norm    gradient clipping (0: none)
    freeze_stages    number of first stages that stay frozen; without augmentation their activations are cached
    label_smoothing  of the cross-entropy
    dropout          the backbone's own dropout and stochastic depth
    augment          of training images: none, shift, shift-flip, crop-flip, randaugment (crop-flip and RandAugment)
    mixup            of training images: none, mixup, cutmix, both
    batchnorm        statistics: frozen (those of the pre-training) or train (updated)
    l2               penalty of the probe on standardised features; None: chosen by cross-validation
    views            augmented views of each image that a probe learns from (1: the image alone)
    soup             checkpoints in a greedy soup, averaged while validation improves (1: the best alone)
    calibrate        temperature scaling of a tuned classifier on the validation data
    class_balance    none, weights (of the loss), logits (logit adjustment), sampler (oversampling)
    lora_rank        rank of the adapters
    max_length       tokens a text is truncated to
    truncation       which tokens stay: head, tail, or head-tail (a quarter from the beginning, the rest from the end)
    precision        fp32 or bf16 (autocast); auto: what suits backbone and machine (`zoo doctor`)
    evals            evaluations on the validation data, evenly spaced; the best weights are kept
    patience         evaluations after the warm-up without a better metric or loss until early stopping (0: never)
    save_every       seconds between checkpoints, for resume
    skip_bad         leave out unreadable images instead of raising at the first
    seed             of everything random
    """

    strategy: str = "auto"
    steps: int | None = None
    epochs: float | None = None
    max_time: float | str | None = None
    stop_after: int | None = None
    batch_size: int = 32
    lr: float | None = None
    backbone_lr: float | None = None
    layer_decay: float | None = None
    optimizer: str = "adamw"
    schedule: str = "cosine"
    weight_decay: float = 0.05
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    freeze_stages: int = 0
    label_smoothing: float = 0.0
    dropout: bool | None = None
    augment: str = "auto"
    mixup: str = "auto"
    batchnorm: str = "auto"
    l2: float | None = None
    views: int | None = None
    soup: int | None = None
    calibrate: bool = True
    class_balance: str = "none"
    lora_rank: int = 8
    max_length: int | None = None
    truncation: str = "head-tail"
    precision: str = "auto"
    evals: int | None = None
    patience: int = 5
    save_every: float = 60
    skip_bad: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            _check_choice(name, getattr(self, name), allowed)
        for name, (kind, rule, holds) in RULES.items():
            _check_value(name, getattr(self, name), kind, rule, holds)
        seconds(self.max_time)
        if self.steps is not None and self.epochs is not None:
            raise RecipeError(
                f"steps={self.steps} and epochs={self.epochs} both set the length of the run",
                fix="give one of the two",
            )


class RecipeFields(TypedDict, total=False):
    """The fields of Recipe as typed keyword arguments (`Unpack[RecipeFields]`)."""

    strategy: str
    steps: int | None
    epochs: float | None
    max_time: float | str | None
    stop_after: int | None
    batch_size: int
    lr: float | None
    backbone_lr: float | None
    layer_decay: float | None
    optimizer: str
    schedule: str
    weight_decay: float
    warmup_ratio: float
    max_grad_norm: float
    freeze_stages: int
    label_smoothing: float
    dropout: bool | None
    augment: str
    mixup: str
    batchnorm: str
    l2: float | None
    views: int | None
    soup: int | None
    calibrate: bool
    class_balance: str
    lora_rank: int
    max_length: int | None
    truncation: str
    precision: str
    evals: int | None
    patience: int
    save_every: float
    skip_bad: bool
    seed: int


RULES: dict[str, tuple[Any, str, Callable[[Any], bool]]] = {
    "steps": (int, "a whole number above 0", lambda v: v > 0),
    "stop_after": (int, "a whole number above 0", lambda v: v > 0),
    "epochs": ((int, float), "a number above 0", lambda v: v > 0),
    "batch_size": (int, "a whole number above 0", lambda v: v > 0),
    "lr": ((int, float), "a number above 0", lambda v: v > 0),
    "backbone_lr": ((int, float), "a number above 0", lambda v: v > 0),
    "layer_decay": ((int, float), "a share above 0 up to 1", lambda v: 0 < v <= 1),
    "weight_decay": ((int, float), "a number of 0 or more", lambda v: v >= 0),
    "warmup_ratio": ((int, float), "a share from 0 to 1", lambda v: 0 <= v <= 1),
    "max_grad_norm": ((int, float), "a number of 0 or more", lambda v: v >= 0),
    "freeze_stages": (int, "a whole number of 0 or more", lambda v: v >= 0),
    "dropout": (bool, "true or false", lambda v: True),
    "label_smoothing": ((int, float), "a number from 0 to below 1", lambda v: 0 <= v < 1),
    "l2": ((int, float), "a number above 0", lambda v: v > 0),
    "views": (int, "a whole number above 0", lambda v: v > 0),
    "soup": (int, "a whole number above 0", lambda v: v > 0),
    "calibrate": (bool, "true or false", lambda v: True),
    "lora_rank": (int, "a whole number above 0", lambda v: v > 0),
    "max_length": (int, "a whole number of 8 or more", lambda v: v >= 8),
    "evals": (int, "a whole number above 0", lambda v: v > 0),
    "patience": (int, "a whole number of 0 or more", lambda v: v >= 0),
    "save_every": ((int, float), "a number of 0 or more", lambda v: v >= 0),
    "skip_bad": (bool, "true or false", lambda v: True),
    "seed": (int, "a whole number of 0 or more", lambda v: v >= 0),
}
"""Field -> type, rule in words, and the test of a value."""


def seconds(max_time: float | str | None) -> float | None:
    """Return a duration in seconds: a number, or a text such as "90s", "5m", "1.5h"; RecipeError for another."""
    if max_time is None:
        return None
    matched = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", str(max_time))
    value = float(matched[1]) * SECONDS[matched[2]] if matched and not isinstance(max_time, bool) else 0.0
    if not 0 < value < math.inf:
        raise RecipeError(f"max_time={max_time!r} is not a duration", fix='max_time="90s", "5m" or "1h"')
    return value


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1) or [allowed[0]]
        raise RecipeError(
            f"{name}={value!r} is not one of {', '.join(allowed)}",
            fix=f'{name}="{near[0]}"',
        )


def _check_value(name: str, value: Any, kind: Any, rule: str, holds: Callable[[Any], bool]) -> None:
    optional = Recipe.__dataclass_fields__[name].default is None
    if value is None and optional:
        return
    wrong_bool = isinstance(value, bool) and kind is not bool
    if wrong_bool or not isinstance(value, kind) or not (-LARGEST <= value <= LARGEST and holds(value)):
        default = Recipe.__dataclass_fields__[name].default
        usual = "" if default is None else f": {name}={default}"
        limit = f", at most {LARGEST:,}" if isinstance(value, int | float) and value > LARGEST else ""
        raise RecipeError(f"{name}={value!r} is not {rule}{limit}", fix=f"give {rule}, or leave it out{usual}")


def make(fields: Mapping[str, Any], base: Recipe | None = None) -> Recipe:
    """Return a Recipe from keyword fields, on top of `base`; RecipeError for an unknown field, with similar names."""
    if base is not None and not isinstance(base, Recipe):
        raise RecipeError(f"recipe={base!r:.60} is not a Recipe", fix='recipe=zoo.Recipe(strategy="full")')
    known = [field.name for field in dataclasses.fields(Recipe)]
    for name in fields:
        if name not in known:
            near = [OTHER_NAMES[name]] if name in OTHER_NAMES else difflib.get_close_matches(name, known, n=3) or known
            raise RecipeError(f"{name!r} is not a field of the recipe", fix=f"use one of: {', '.join(near)}")
    return dataclasses.replace(base or Recipe(), **fields)


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the fields as a dict that `make` takes back."""
    return dataclasses.asdict(recipe)
