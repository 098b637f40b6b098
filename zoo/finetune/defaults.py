"""Resolve None and "auto" fields of a recipe to hyperparameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.errors import RecipeError
from zoo.finetune import recipe as recipes
from zoo.finetune.recipe import Recipe

SMALL = 1_000
"""Training images below which a frozen backbone is the safer default."""
FEW_TEXTS = 100
"""Training texts below which fine-tuning gained nothing on average over its probe, and cost five times as much."""
LARGE = 20_000
"""Training examples from which BatchNorm may update its statistics (BiT's "small" ends here, arXiv 1912.11370)."""
MAX_LENGTH = 256
"""Tokens of a text by default: attention costs the square of it."""
VIEWS = 2
"""Views of a photo that a probe learns from, where the second lowers its out-of-fold loss (docs/log.md)."""
PROBED = ("probe", "lp-ft", "gradual", "lora")
"""Strategies that start with a linear probe; the first one ends there."""
PHOTO = 64
"""Side in pixels below which images are digits, letters or icons: not to be mirrored, nor cropped to a third."""


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """A recipe with every field resolved; the fields mean what they mean in Recipe.

    Eight may be None: max_time (no limit, else seconds), stop_after (never), l2, head_stages and views
    (cross-validated), max_length (images), shuffle_buffer (by size), workers (by the machine).
    """

    strategy: str
    steps: int
    evals: int
    lr: float
    backbone_lr: float
    layer_decay: float
    dropout: bool
    augment: str | Callable[[Any], Any]
    mixup: str
    batchnorm: str
    soup: int
    batch_size: int
    optimizer: str
    schedule: str
    weight_decay: float
    warmup_ratio: float
    max_grad_norm: float
    freeze_stages: int
    label_smoothing: float
    calibrate: bool
    class_balance: str
    lora_rank: int
    truncation: str
    precision: str
    patience: int
    skip_bad: bool
    seed: int
    max_time: float | None
    stop_after: int | None
    l2: float | None
    max_length: int | None
    head_stages: int | None = None
    shuffle_buffer: int | None = None
    deterministic: bool = False
    workers: int | None = None
    views: int | None = 1

    @property
    def has_probe(self) -> bool:
        """Whether the strategy starts with a linear probe, where the task has a new head."""
        return self.strategy in PROBED

    @property
    def most_views(self) -> int:
        """Views of each image whose features are computed for a probe."""
        return self.views or VIEWS


@dataclass(frozen=True, slots=True)
class Setting:
    """What defaults depend on.

    train, valid     number of examples
    image_size       pixels of a side; None for text, whose longest input is `max_tokens`
    pretrained       whether the backbone has weights
    labelled         whether the task has labels, and so a new head
    stages           number of stages of the backbone
    batchnorm        whether it has BatchNorm layers
    per_token        whether each token of a text has a label
    """

    train: int
    valid: int = 0
    image_size: int | None = None
    max_tokens: int | None = None
    pretrained: bool = True
    labelled: bool = True
    stages: int = 1
    batchnorm: bool = True
    per_token: bool = False

    @property
    def is_photo(self) -> bool:
        """Whether inputs are images of photo size."""
        return self.image_size is not None and self.image_size >= PHOTO


def resolve(recipe: Recipe, setting: Setting) -> Hyperparameters:
    """Return the hyperparameters of a recipe for a backbone and a number of examples.

    Precision "auto" becomes fp32 here, and what suits the machine in zoo.finetune.training.execution. Raises
    RecipeError where the strategy does not suit the backbone or the task.
    """
    strategy = _strategy(setting) if recipe.strategy == "auto" else recipe.strategy
    _check(recipe, strategy, setting)
    lr, backbone_lr = _learning_rates(recipe, strategy, setting)
    steps = _steps(recipe, strategy, setting)
    augment = _augment(recipe, setting)
    random_weights = strategy == "scratch" or not setting.labelled
    resolved: dict[str, Any] = {
        "strategy": strategy,
        "steps": steps,
        "evals": recipe.evals or _evals(steps * recipe.batch_size, setting.valid),
        "lr": lr,
        "backbone_lr": backbone_lr,
        "layer_decay": recipe.layer_decay or _layer_decay(strategy, setting),
        "dropout": random_weights if recipe.dropout is None else recipe.dropout,
        "augment": augment,
        "mixup": _mixup(recipe, setting),
        "batchnorm": _batchnorm(recipe, strategy, setting),
        "views": recipe.views or _views(strategy, augment, setting),
        "soup": recipe.soup or 1,
        "max_time": recipes.seconds(recipe.max_time),
        "max_length": setting.max_tokens and min(recipe.max_length or MAX_LENGTH, setting.max_tokens),
        "precision": "fp32" if recipe.precision == "auto" else recipe.precision,
    }
    names = {field.name for field in dataclasses.fields(Hyperparameters)} - resolved.keys()
    return Hyperparameters(**resolved, **{name: getattr(recipe, name) for name in names})


def restore(saved: Mapping[str, Any]) -> Hyperparameters:
    """Return the hyperparameters of a saved model; RecipeError or TypeError for invalid ones."""
    is_function = str(saved.get("augment")).startswith(recipes.FUNCTION)  # the name of a function that is not here
    recipes.make({**saved, "augment": "none"} if is_function else saved)
    optional = {"max_time", "stop_after", "l2", "head_stages", "views", "max_length", "shuffle_buffer", "workers"}
    if open_fields := [name for name, value in saved.items() if value in (None, "auto") and name not in optional]:
        raise TypeError(f"{', '.join(open_fields)} not resolved")
    return Hyperparameters(**saved)


def _strategy(setting: Setting) -> str:
    """Choose a strategy: a probe for few images or texts, else fine-tuning from the head of a probe.

    lp-ft less its probe in points: -0.4 ± 1.2 at 20 texts, +0.7 ± 0.4 at 100, +0.6 ± 1.9 at 200, +2.6 at 600
    (docs/log.md). Taggers learn from many words of each text.
    """
    if not setting.pretrained:
        return "scratch"
    if not setting.labelled:
        return "full"
    few = SMALL if setting.image_size is not None else 0 if setting.per_token else FEW_TEXTS
    return "probe" if setting.train < few else "lp-ft"


def _check(recipe: Recipe, strategy: str, setting: Setting) -> None:
    if not setting.pretrained and strategy != "scratch":
        raise RecipeError(
            f'strategy="{strategy}" needs pretrained weights, and this backbone has none',
            fix='strategy="scratch", or choose a backbone with weights: zoo list',
        )
    if not setting.labelled and strategy in ("probe", "lp-ft", "gradual"):
        raise RecipeError(
            f'strategy="{strategy}" trains a new head, and language modelling keeps that of the backbone',
            fix='strategy="full", or strategy="lora"',
        )
    if recipe.freeze_stages and strategy not in ("full", "lp-ft"):
        raise RecipeError(
            f'freeze_stages={recipe.freeze_stages} is for strategy="full" and "lp-ft", not for "{strategy}"',
            fix="leave freeze_stages out",
        )
    if recipe.freeze_stages >= max(2, setting.stages + 1):
        raise RecipeError(
            f"freeze_stages={recipe.freeze_stages}, and this backbone has {setting.stages} stages",
            fix=f'freeze_stages={setting.stages - 1}, or strategy="probe" to freeze all of it',
        )
    if recipe.mixup not in ("auto", "none") and setting.image_size is None:
        raise RecipeError(f'mixup="{recipe.mixup}" is for images', fix='mixup="none"')
    if callable(recipe.augment) and setting.image_size is None:
        raise RecipeError("augment is for images, and this backbone reads texts", fix="leave augment out")


def _learning_rates(recipe: Recipe, strategy: str, setting: Setting) -> tuple[float, float]:
    """Return the peak learning rates of head and backbone.

    Text: 5e-5, the upper end of BERT's sweep (arXiv 1810.04805, appendix A.3); adapters 5e-4 (2e-4 in QLoRA, arXiv
    2305.14314, for models a thousand times larger).
    """
    text = setting.image_size is None
    probed = strategy in PROBED[1:] and setting.labelled  # keep what the probe found
    heads = {"scratch": 5e-4} if text else {}
    lr = recipe.lr or heads.get(strategy, (1e-4 if text else 3e-4) if probed else 1e-3 if text else 3e-3)
    if recipe.backbone_lr:
        return lr, recipe.backbone_lr
    backbones = {"scratch": lr, "lora": 5e-4 if text else 1e-3}
    return lr, backbones.get(strategy, 5e-5 if text else 3e-4 if probed else lr / 10)


def _layer_decay(strategy: str, setting: Setting) -> float:
    """Return 0.75 for vision transformers (MAE, arXiv 2111.06377, table 9), else 1."""
    transformer = setting.image_size is not None and not setting.batchnorm
    return 0.75 if transformer and strategy in ("full", "lp-ft", "gradual") else 1.0


def _steps(recipe: Recipe, strategy: str, setting: Setting) -> int:
    """Return BiT-HyperRule's 500 steps for small sets (arXiv 1912.11370, section 3.3), 20 epochs from scratch."""
    if recipe.steps is not None:
        return recipe.steps
    per_epoch = -(-setting.train // recipe.batch_size)
    if recipe.epochs is not None:
        return max(1, round(recipe.epochs * per_epoch))
    if strategy == "scratch":
        return max(500, 20 * per_epoch)
    if setting.image_size is None:
        return max(50, 3 * per_epoch)  # 3 epochs as in BERT, more where they are short (docs/log.md)
    return max(500, 2 * per_epoch) if setting.train >= SMALL else 300


def _evals(trained: int, valid: int) -> int:
    """Return ten evaluations, or fewer where they would cost more than half of the training (a step costs three)."""
    return max(2, min(10, round(1.5 * trained / max(1, valid))))


def _augment(recipe: Recipe, setting: Setting) -> str | Callable[[Any], Any]:
    """Shift small images (digits and letters must not be mirrored); crop and flip photos; RandAugment large sets."""
    if recipe.augment != "auto":
        return recipe.augment
    if setting.image_size is None:
        return "none"
    if not setting.is_photo:
        return "shift"
    return "randaugment" if setting.train >= LARGE else "crop-flip"


def _views(strategy: str, augment: str | Callable[[Any], Any], setting: Setting) -> int | None:
    """Return None, one or two views by cross-validation, for a probe of few photos (docs/log.md)."""
    return None if strategy in PROBED and augment == "crop-flip" and setting.train < SMALL else 1


def _mixup(recipe: Recipe, setting: Setting) -> str:
    """Mix photos of large sets only: it does not help small ones (BiT-HyperRule, arXiv 1912.11370, 3.3)."""
    if recipe.mixup != "auto":
        return recipe.mixup
    return "both" if setting.is_photo and setting.train >= LARGE else "none"


def _batchnorm(recipe: Recipe, strategy: str, setting: Setting) -> str:
    if recipe.batchnorm != "auto":
        return recipe.batchnorm
    large = setting.train >= LARGE and recipe.batch_size >= 32
    return "train" if strategy == "scratch" or large else "frozen"
