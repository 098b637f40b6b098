"""From what was asked for to what is done: every open field of a recipe, by backbone, data and machine."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from zoo.errors import RecipeError
from zoo.finetune.recipe import Recipe

SMALL = 1_000
"""Below this many examples a frozen backbone is the safer default."""
LARGE = 20_000
"""From this many examples on, BatchNorm may learn its statistics anew (BiT's "small" ends here, arXiv 1912.11370)."""
LENGTH = 256
"""Tokens of a text that are read unless the recipe says otherwise: attention costs the square of it."""
VIEWS = 4
PHOTO = 64
"""Images of fewer pixels a side are digits, letters or icons: they must not be mirrored, nor cut to a third."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What the open fields of a recipe depend on.

    examples    number of training examples
    image_size  pixels of a side; None for text, whose longest input in tokens is `tokens`
    pretrained  whether the backbone has weights
    valid       number of validation examples
    language    whether the task goes on with the pre-training: there is no head to be solved for
    stages      how many stages the backbone has
    norms       whether it has BatchNorms, as most convolutional nets and no transformer
    """

    examples: int
    image_size: int | None = None
    tokens: int | None = None
    pretrained: bool = True
    valid: int = 0
    language: bool = False
    stages: int = 1
    norms: bool = True


def settle(recipe: Recipe, now: Situation) -> Recipe:
    """Replace every None and "auto" but precision by its value for this backbone and number of training examples.

    Raises RecipeError where the strategy does not go with the backbone or the task.
    """
    strategy = recipe.strategy
    if strategy == "auto":
        strategy = _strategy(now)
    _check_fits(recipe, strategy, now)
    lr, backbone_lr = _rates(recipe, strategy, now)
    steps = _steps(recipe, strategy, now)
    fresh = strategy == "scratch" or now.language
    return dataclasses.replace(
        recipe,
        strategy=strategy,
        steps=steps,
        epochs=None,
        lr=lr,
        backbone_lr=backbone_lr,
        layer_decay=recipe.layer_decay or _layer_decay(strategy, now),
        dropout=recipe.dropout if recipe.dropout != "auto" else "on" if fresh else "off",
        augment=_augment(recipe.augment, now),
        mix=_mix(recipe.mix, now),
        norm=_norm(recipe, strategy, now.examples),
        views=recipe.views or _views(strategy, _augment(recipe.augment, now), now),
        soup=recipe.soup or 1,
        max_length=now.tokens and min(recipe.max_length or LENGTH, now.tokens),
        evals=recipe.evals or _evals(steps * recipe.batch_size, now.valid),
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


def _check_fits(recipe: Recipe, strategy: str, now: Situation) -> None:
    if not now.pretrained and strategy != "scratch":
        raise RecipeError(
            f'strategy="{strategy}" needs pretrained weights, and this backbone has none',
            fix='strategy="scratch", or choose a backbone with weights: zoo list',
        )
    if now.language and strategy in ("probe", "lp-ft", "gradual"):
        raise RecipeError(
            f'strategy="{strategy}" trains a new head, and language modelling keeps the one of the backbone',
            fix='strategy="full", or strategy="lora"',
        )
    if recipe.freeze and strategy not in ("full", "lp-ft"):
        raise RecipeError(
            f'freeze={recipe.freeze} is for strategy="full" and "lp-ft"; strategy="{strategy}" has its own way',
            fix="leave freeze out",
        )
    if recipe.freeze >= max(2, now.stages + 1):
        raise RecipeError(
            f"freeze={recipe.freeze}, and this backbone has {now.stages} stages",
            fix=f'freeze={now.stages - 1}, or strategy="probe" to freeze all of it',
        )
    if recipe.mix not in ("auto", "none") and now.image_size is None:
        raise RecipeError(f'mix="{recipe.mix}" is for images', fix='mix="none"')


def _rates(recipe: Recipe, strategy: str, now: Situation) -> tuple[float, float]:
    """Return the peak rates of head and backbone.

    Text is tuned at 5e-5, the upper end of what BERT's authors swept (arXiv 1810.04805, appendix A.3), adapters at
    5e-4 (2e-4 in QLoRA, arXiv 2305.14314, for models a thousand times larger).
    """
    text = now.image_size is None
    probed = strategy in ("lp-ft", "gradual")  # a probe's head is not to be unlearnt
    heads = {"scratch": 5e-4} if text else {}
    lr = recipe.lr or heads.get(strategy, (1e-4 if text else 3e-4) if probed else 1e-3 if text else 3e-3)
    if recipe.backbone_lr:
        return lr, recipe.backbone_lr
    backbones = {"scratch": lr, "lora": 5e-4 if text else 1e-3}
    return lr, backbones.get(strategy, 5e-5 if text else 3e-4 if probed else lr / 10)


def _layer_decay(strategy: str, now: Situation) -> float:
    """Choose how the rate falls from stage to stage: 0.75 for vision transformers (MAE, arXiv 2111.06377, table 9)."""
    transformer = now.image_size is not None and not now.norms
    return 0.75 if transformer and strategy in ("full", "lp-ft", "gradual") else 1.0


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


def _augment(augment: str, now: Situation) -> str:
    """Shift small images (digits and letters must not be mirrored); crop and mirror photos; vary many of them more."""
    if augment != "auto":
        return augment
    if now.image_size is None:
        return "none"
    if now.image_size < PHOTO:
        return "shift"
    return "rand" if now.examples >= LARGE else "crop-flip"


def _views(strategy: str, augment: str, now: Situation) -> int:
    """Probe a few photos by four views of each: 0.841 instead of 0.828 (docs/recipes.md)."""
    probed = strategy in ("probe", "lp-ft", "gradual")
    return VIEWS if probed and augment == "crop-flip" and now.examples < SMALL else 1


def _mix(mix: str, now: Situation) -> str:
    """Mix photos where there are many; on small sets it does not help (BiT-HyperRule, arXiv 1912.11370, 3.3)."""
    if mix != "auto":
        return mix
    return "both" if now.image_size is not None and now.image_size >= PHOTO and now.examples >= LARGE else "none"


def _norm(recipe: Recipe, strategy: str, examples: int) -> str:
    if recipe.norm != "auto":
        return recipe.norm
    many = examples >= LARGE and recipe.batch_size >= 32
    return "batch" if strategy == "scratch" or many else "frozen"
