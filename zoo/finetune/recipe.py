"""The recipe of a fine-tuning run: one frozen dataclass, checked when it is made, settled before it is used."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.errors import RecipeError

CHOICES: dict[str, tuple[str, ...]] = {
    "strategy": ("auto", "scratch", "probe", "full", "lp-ft", "lora"),
    "optimizer": ("adamw", "sgd"),
    "augment": ("auto", "none", "shift", "shift-flip", "crop-flip"),
    "norm": ("auto", "frozen", "batch"),
    "balance": ("none", "weights", "logits", "sampler"),
    "cut": ("head", "tail", "head-tail"),
    "precision": ("auto", "fp32", "bf16"),
}
SMALL = 1_000
"""Below this many examples a frozen backbone is the safer default."""
LARGE = 20_000
"""From this many examples on, BatchNorm may learn its statistics anew (BiT's "small" ends here, arXiv 1912.11370)."""
LENGTH = 256
"""Tokens of a text that are read unless the recipe says otherwise: attention costs the square of it."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to fine-tune; None and "auto" are settled from the backbone and the number of examples.

    strategy   scratch (random weights), probe (backbone frozen, its features computed once), full (all layers),
               lora (low-rank adapters of rank lora_rank on its linear layers, merged into them afterwards)
    steps      optimiser steps; epochs is the same in passes over the data, at most one of the two is given
    lr         peak learning rate of the head; backbone_lr that of the backbone (scratch: lr everywhere)
    warmup     share of the steps in which the rate rises linearly; it then falls to zero along a cosine
    clip       largest gradient norm (0: no clipping)
    norm       BatchNorm statistics: frozen (those of the pre-training) or batch (learned anew)
    l2         strength of the probe's penalty on standardised features; None: swept by cross-validation
    balance    rare classes: none, weights (in the loss), logits (adjusted by their log share), sampler (drawn oftener)
    max_length tokens of a text that are read; cut says which of a longer one: head, tail, or head-tail
    evals      number of measurements on the validation data, evenly spaced; the best weights are kept
    patience   measurements without a better one after which training stops (0: never)
    skip_bad   leave out images that cannot be read, instead of stopping at the first
    """

    strategy: str = "auto"
    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 32
    lr: float | None = None
    backbone_lr: float | None = None
    optimizer: str = "adamw"
    weight_decay: float = 0.05
    warmup: float = 0.1
    clip: float = 1.0
    label_smoothing: float = 0.0
    augment: str = "auto"
    norm: str = "auto"
    l2: float | None = None
    balance: str = "none"
    lora_rank: int = 8
    max_length: int | None = None
    cut: str = "head-tail"
    precision: str = "auto"
    evals: int | None = None
    patience: int = 5
    skip_bad: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            _check_choice(name, getattr(self, name), allowed)
        for name, (kind, rule, holds) in RULES.items():
            _check_number(name, getattr(self, name), kind, rule, holds)
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
    "weight_decay": ((int, float), "a number of 0 or more", lambda v: v >= 0),
    "warmup": ((int, float), "a share from 0 to 1", lambda v: 0 <= v <= 1),
    "clip": ((int, float), "a number of 0 or more", lambda v: v >= 0),
    "label_smoothing": ((int, float), "a number from 0 to below 1", lambda v: 0 <= v < 1),
    "l2": ((int, float), "a number above 0", lambda v: v > 0),
    "lora_rank": (int, "a whole number above 0", lambda v: v > 0),
    "max_length": (int, "a whole number of 8 or more", lambda v: v >= 8),
    "evals": (int, "a whole number above 0", lambda v: v > 0),
    "patience": (int, "a whole number of 0 or more", lambda v: v >= 0),
    "skip_bad": (bool, "true or false", lambda v: True),
    "seed": (int, "a whole number of 0 or more", lambda v: v >= 0),
}


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


@dataclass(frozen=True, slots=True)
class Situation:
    """What the open fields of a recipe depend on.

    examples    number of training examples
    image_size  pixels of a side; None for text, whose longest input in tokens is `tokens`
    pretrained  whether the backbone has weights
    valid       number of validation examples
    language    whether the task goes on with the pre-training: there is no head to be solved for
    """

    examples: int
    image_size: int | None = None
    tokens: int | None = None
    pretrained: bool = True
    valid: int = 0
    language: bool = False
    cuda: bool = False


def settle(recipe: Recipe, now: Situation) -> Recipe:
    """Replace every None and "auto" by its value for this backbone and number of training examples.

    Raises RecipeError where the strategy does not go with the backbone or the task.
    """
    strategy = recipe.strategy
    if strategy == "auto":
        strategy = _strategy(now)
    _check_fits(strategy, now)
    lr, backbone_lr = _rates(recipe, strategy, now)
    steps = _steps(recipe, strategy, now)
    return dataclasses.replace(
        recipe,
        strategy=strategy,
        steps=steps,
        epochs=None,
        lr=lr,
        backbone_lr=backbone_lr,
        augment=_augment(recipe.augment, now.image_size),
        norm=_norm(recipe, strategy, now.examples),
        max_length=now.tokens and min(recipe.max_length or LENGTH, now.tokens),
        evals=recipe.evals or _evals(steps * recipe.batch_size, now.valid),
        precision=recipe.precision if recipe.precision != "auto" else "bf16" if now.cuda else "fp32",
    )


def _strategy(now: Situation) -> str:
    """Choose a strategy: a few images are probed, everything else is tuned from the head of a probe.

    400 mails: probe 0.948, lp-ft 0.974. 142 photos: probe 0.81, full 0.72 (docs/log.md).
    """
    if not now.pretrained:
        return "scratch"
    if now.language:
        return "full"
    return "probe" if now.examples < SMALL and now.image_size is not None else "lp-ft"


def _check_fits(strategy: str, now: Situation) -> None:
    if not now.pretrained and strategy != "scratch":
        raise RecipeError(
            f'strategy="{strategy}" needs pretrained weights, and this backbone has none',
            fix='strategy="scratch", or choose a backbone with weights: zoo list',
        )
    if now.language and strategy in ("probe", "lp-ft"):
        raise RecipeError(
            f'strategy="{strategy}" trains a new head, and language modelling keeps the one of the backbone',
            fix='strategy="full", or strategy="lora"',
        )


def _rates(recipe: Recipe, strategy: str, now: Situation) -> tuple[float, float]:
    """Return the peak rates of head and backbone.

    Text is tuned at 5e-5, the upper end of what BERT's authors swept (arXiv 1810.04805, appendix A.3), adapters at
    5e-4 (2e-4 in QLoRA, arXiv 2305.14314, for models a thousand times larger).
    """
    text = now.image_size is None
    heads = {"scratch": 5e-4, "lp-ft": 1e-4} if text else {"lp-ft": 3e-4}  # a probe's head is not to be unlearnt
    lr = recipe.lr or heads.get(strategy, 1e-3 if text else 3e-3)
    backbones = {"scratch": lr, "lora": 5e-4 if text else 1e-3, "lp-ft": 5e-5 if text else 3e-4}
    return lr, recipe.backbone_lr or backbones.get(strategy, 5e-5 if text else lr / 10)


def _steps(recipe: Recipe, strategy: str, now: Situation) -> int:
    """Count steps: BiT-HyperRule's 500 for small sets (arXiv 1912.11370, section 3.3), 20 epochs from scratch."""
    if recipe.steps is not None:
        return recipe.steps
    per_epoch = -(-now.examples // recipe.batch_size)
    if recipe.epochs is not None:
        return max(1, round(recipe.epochs * per_epoch))
    if strategy == "scratch":
        return max(500, 20 * per_epoch)
    if now.image_size is None:
        return max(50, 3 * per_epoch)  # 3 epochs as BERT's authors, more where they are short (docs/log.md)
    return max(500, 2 * per_epoch) if now.examples >= SMALL else 300


def _evals(trained: int, valid: int) -> int:
    """Count measurements: ten, or fewer where they would cost more than half of the training (a step costs three)."""
    return max(2, min(10, round(1.5 * trained / max(1, valid))))


def _augment(augment: str, image_size: int | None) -> str:
    """Shift small images (digits and letters must not be mirrored); crop and mirror photos."""
    if augment != "auto":
        return augment
    if image_size is None:
        return "none"
    return "shift" if image_size < 64 else "crop-flip"


def _norm(recipe: Recipe, strategy: str, examples: int) -> str:
    if recipe.norm != "auto":
        return recipe.norm
    many = examples >= LARGE and recipe.batch_size >= 32
    return "batch" if strategy == "scratch" or many else "frozen"
