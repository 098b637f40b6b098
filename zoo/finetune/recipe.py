"""Recipe: the hyperparameters of a fine-tuning run, as requested; checked when it is created."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
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
    "precision": ("auto", "fp32", "bf16", "fp16"),
}
OTHER_NAMES = {
    **dict.fromkeys(("learning_rate", "learning_rate_init", "base_lr", "lr_max", "max_lr", "eta0"), "lr"),
    **dict.fromkeys(("num_train_epochs", "n_epochs", "num_epochs", "max_epochs", "n_epoch"), "epochs"),
    **dict.fromkeys(("max_steps", "num_steps", "max_iter", "iterations", "n_iter"), "steps"),
    **dict.fromkeys(("bs", "per_device_train_batch_size", "train_batch_size"), "batch_size"),
    **dict.fromkeys(("clip", "clip_grad", "gradient_clip_val", "clipnorm", "grad_clip"), "max_grad_norm"),
    **dict.fromkeys(("warmup", "warmup_steps", "warmup_epochs", "pct_start"), "warmup_ratio"),
    **dict.fromkeys(("early_stopping", "early_stopping_patience", "n_iter_no_change", "early_stop"), "patience"),
    **dict.fromkeys(("class_weights", "class_weight", "balance", "pos_weight", "balanced"), "class_balance"),
    **dict.fromkeys(("smoothing", "label_smoothing_factor"), "label_smoothing"),
    **dict.fromkeys(("budget", "time_limit", "max_runtime", "max_hours"), "max_time"),
    **dict.fromkeys(("fp16", "bf16", "dtype", "amp", "mixed_precision", "torch_dtype"), "precision"),
    **dict.fromkeys(("cutmix", "mix", "mixup_alpha", "cutmix_alpha", "mixup_prob"), "mixup"),
    **dict.fromkeys(("freeze", "freeze_layers", "frozen_stages", "freeze_epochs"), "freeze_stages"),
    **dict.fromkeys(("trainable", "freeze_backbone", "finetune_type"), "strategy"),
    **dict.fromkeys(("opt", "optim", "opt_func", "solver"), "optimizer"),
    **dict.fromkeys(("sched", "scheduler", "lr_scheduler", "lr_scheduler_type", "lr_schedule"), "schedule"),
    **dict.fromkeys(("wd", "alpha", "decay"), "weight_decay"),
    **dict.fromkeys(("C", "penalty", "l2_reg"), "l2"),
    **dict.fromkeys(("r", "rank", "lora_r"), "lora_rank"),
    **dict.fromkeys(("aa", "auto_augment", "augmentation", "augmentations", "batch_tfms", "item_tfms"), "augment"),
    **dict.fromkeys(("transform", "transforms", "hflip", "aug_transforms"), "augment"),
    **dict.fromkeys(("full_determinism", "deterministic_algorithms", "cudnn_deterministic"), "deterministic"),
    **dict.fromkeys(("drop", "drop_rate", "drop_path", "drop_path_rate", "hidden_dropout_prob"), "dropout"),
    **dict.fromkeys(("max_seq_length", "max_seq_len", "max_len", "seq_len", "sequence_length"), "max_length"),
    **dict.fromkeys(("random_state", "random_seed", "manual_seed", "data_seed"), "seed"),
    **dict.fromkeys(("buffer_size", "shuffle_buffer_size", "shuffle_size"), "shuffle_buffer"),
    **dict.fromkeys(("layer_wise_lr_decay", "llrd", "layerwise_lr_decay"), "layer_decay"),
    **dict.fromkeys(("encoder_lr", "body_lr", "lr_backbone"), "backbone_lr"),
    **dict.fromkeys(("eval_steps", "evaluation_strategy", "eval_strategy", "num_evals"), "evals"),
    **dict.fromkeys(("save_steps", "checkpoint_freq", "save_strategy"), "save_every"),
    **dict.fromkeys(("num_workers", "dataloader_num_workers", "n_jobs", "num_proc"), "workers"),
    **dict.fromkeys(("tta", "n_views"), "views"),
    **dict.fromkeys(("ema", "model_ema", "swa", "average"), "soup"),
}
"""Names of the same fields in Keras, fastai, transformers, timm, Lightning and scikit-learn."""
EXAMPLES = {
    "lr": "lr=0.001",
    "epochs": "epochs=5",
    "steps": "steps=500",
    "patience": "patience=5 (evaluations without a better one; 0: never stop early)",
    "class_balance": 'class_balance="weights"',
    "mixup": 'mixup="mixup", "cutmix" or "both"',
    "precision": 'precision="bf16"',
    "deterministic": "deterministic=True (kernels of a GPU that always add in the same order)",
    "warmup_ratio": "warmup_ratio=0.1 (a share of the steps)",
    "augment": 'augment="randaugment", or a function of a uint8 tensor (C, H, W)',
    "freeze_stages": 'freeze_stages=2, or strategy="probe" to freeze the whole backbone',
    "strategy": 'strategy="probe" (backbone frozen) or "full"',
    "dropout": "dropout=True (at the rates of the backbone)",
    "evals": "evals=10 (evaluations, evenly spaced)",
    "save_every": "save_every=60 (seconds)",
    "max_time": 'max_time="10m"',
    "soup": "soup=3 (checkpoints that are averaged)",
    "workers": "workers=4, or nothing: their number follows from the machine, and changes no result",
}
"""Field -> how it is written, in the answer to the name that another library gives it."""
ELSEWHERE = {
    **dict.fromkeys(("validation_split", "valid_pct", "validation_fraction"), "valid=0.2, an argument of finetune"),
    **dict.fromkeys(
        ("validation_data", "eval_dataset", "valid_data", "eval_set"), "valid=DATA, an argument of finetune"
    ),
    **dict.fromkeys(("test_size", "test_split", "test_data"), "test=0.2 or test=DATA, an argument of finetune"),
    **dict.fromkeys(("train_dataset", "train_data", "x", "X"), "finetune(data), or finetune(X, y)"),
    **dict.fromkeys(("output_dir", "checkpoint_dir", "save_dir", "path"), "out=FOLDER, an argument of finetune"),
    **dict.fromkeys(("y", "target", "labels_column", "label_column", "y_col"), "label=COLUMN, or finetune(X, y)"),
    **dict.fromkeys(("verbose", "silent", "progress", "disable_tqdm"), "quiet=True, an argument of finetune"),
    **dict.fromkeys(("cbs", "callback"), "callbacks=[…], an argument of finetune"),
    **dict.fromkeys(
        ("device_map", "use_cuda", "no_cuda", "accelerator", "device"), 'zoo.load(NAME, "cuda") or --device'
    ),
    **dict.fromkeys(("resume_from_checkpoint",), "resume=True with out=FOLDER, or --resume"),
    **dict.fromkeys(("problem_type", "loss", "loss_func", "criterion", "objective"), "task=TASK, which sets the loss"),
    **dict.fromkeys(("metrics", "metric", "scoring"), "nothing: each task reports its metrics"),
    **dict.fromkeys(("num_classes", "num_labels", "n_out"), "nothing: the number of classes is that of the data"),
    **dict.fromkeys(
        ("img_size", "image_size", "input_size", "resolution"), "the size of the backbone: zoo list --task"
    ),
    **dict.fromkeys(("pretrained", "from_scratch"), 'strategy="scratch" for random weights'),
}
"""Names in other libraries that are no field of a recipe -> what there is instead."""
FREE = ("save_every", "workers")
"""Fields that change no result, so that a resumed run may have others."""
LARGEST = 2**32 - 1
"""Largest number in a recipe: seeds of NumPy have 32 bits."""
FUNCTION = "function "
"""Beginning of the recorded name of an augmentation that is a function."""
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to fine-tune; None and "auto" are resolved from the backbone and the data (zoo.finetune.defaults).

    strategy         scratch (random weights), probe (frozen backbone, linear head solved on its features), full (all
                     layers), lp-ft (a probe, then all layers from its head), gradual (a probe, then the last stages,
                     then more), lora (a probe, then low-rank adapters of rank lora_rank, merged at the end)
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
    augment          of training images: none, shift, shift-flip, crop-flip, randaugment (crop-flip and RandAugment);
                     in Python also a function: uint8 tensor (C, H, W) to one of that shape, or floats in [0, 1]
    mixup            of training images: none, mixup, cutmix, both
    batchnorm        statistics: frozen (those of the pre-training) or train (updated)
    l2               penalty of the probe, on features whose variances sum to 1; None: chosen by cross-validation
    head_stages      last stages whose pooled outputs the head of a probe reads beside the pooled features (0: none, as
                     in other libraries); None: up to 5, or 0 where that is better in each fold
    views            views of each image that a probe learns from, the image itself first; None: 2 of few photos if the
                     second, augmented one lowers the out-of-fold loss, else 1
    soup             checkpoints in a greedy soup, averaged while validation improves (1: the best alone)
    calibrate        temperature scaling of a tuned classifier on the validation data
    class_balance    none, weights (of the loss), logits (logit adjustment), sampler (oversampling)
    lora_rank        rank of the adapters
    max_length       tokens a text is truncated to
    shuffle_buffer   examples of a stream that are in memory and shuffled together; None: 16,384, or 256 MB of inputs
    truncation       which tokens stay: head, tail, or head-tail (a quarter from the beginning, the rest from the end)
    precision        fp32, bf16 or, on a GPU, fp16 (autocast, with loss scaling); auto: what suits backbone and machine
                     (`zoo doctor`)
    deterministic    on a GPU, only kernels that give the same bits each time; slower (a CPU always does)
    evals            evaluations on the validation data, evenly spaced; the best weights are kept
    patience         evaluations after the warm-up without a better metric or loss until early stopping (0: never)
    save_every       seconds between checkpoints, for resume
    skip_bad         leave out unreadable images instead of raising at the first
    workers          processes or threads that prepare training batches ahead (0: the thread that trains); None: for a
                     GPU one fewer than processors, at most 16; for a CPU 0. Changes no result
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
    augment: str | Callable[[Any], Any] = "auto"
    mixup: str = "auto"
    batchnorm: str = "auto"
    l2: float | None = None
    head_stages: int | None = None
    views: int | None = None
    soup: int | None = None
    calibrate: bool = True
    class_balance: str = "none"
    lora_rank: int = 8
    max_length: int | None = None
    shuffle_buffer: int | None = None
    truncation: str = "head-tail"
    precision: str = "auto"
    deterministic: bool = False
    evals: int | None = None
    patience: int = 5
    save_every: float = 60
    skip_bad: bool = False
    workers: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if name != "augment" or not callable(self.augment):
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
    augment: str | Callable[[Any], Any]
    mixup: str
    batchnorm: str
    l2: float | None
    head_stages: int | None
    views: int | None
    soup: int | None
    calibrate: bool
    class_balance: str
    lora_rank: int
    max_length: int | None
    shuffle_buffer: int | None
    truncation: str
    precision: str
    deterministic: bool
    evals: int | None
    patience: int
    save_every: float
    skip_bad: bool
    workers: int | None
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
    "head_stages": (int, "a whole number of 0 or more", lambda v: v >= 0),
    "views": (int, "a whole number above 0", lambda v: v > 0),
    "soup": (int, "a whole number above 0", lambda v: v > 0),
    "calibrate": (bool, "true or false", lambda v: True),
    "lora_rank": (int, "a whole number above 0", lambda v: v > 0),
    "max_length": (int, "a whole number of 8 or more", lambda v: v >= 8),
    "shuffle_buffer": (int, "a whole number above 0", lambda v: v > 0),
    "deterministic": (bool, "true or false", lambda v: True),
    "evals": (int, "a whole number above 0", lambda v: v > 0),
    "patience": (int, "a whole number of 0 or more", lambda v: v >= 0),
    "save_every": ((int, float), "a number of 0 or more", lambda v: v >= 0),
    "skip_bad": (bool, "true or false", lambda v: True),
    "workers": (int, "a whole number from 0 to 256", lambda v: 0 <= v <= 256),
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
        near = difflib.get_close_matches(str(value), allowed, n=1)
        raise RecipeError(
            f"{name}={value!r} is not one of {', '.join(allowed)}",
            fix=f'{name}="{near[0]}"' if near else EXAMPLES.get(name, f'{name}="{allowed[0]}"'),
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


def make(fields: Mapping[str, Any], base: object = None) -> Recipe:
    """Return a Recipe from keyword fields, on top of `base`; RecipeError for an unknown field, with similar names."""
    if base is not None and not isinstance(base, Recipe):
        raise RecipeError(f"recipe={base!r:.60} is not a Recipe", fix='recipe=zoo.Recipe(strategy="full")')
    known = [field.name for field in dataclasses.fields(Recipe)]
    for name in fields:
        if name not in known:
            raise RecipeError(f"{name!r} is not a field of the recipe", fix=_instead(name, known))
    return dataclasses.replace(base or Recipe(), **fields)


def _instead(name: str, known: list[str]) -> str:
    """Return what to write instead of an unknown field: by its name in other libraries, else similar fields."""
    lower = name.lower()
    for names in (OTHER_NAMES, ELSEWHERE):
        if found := names.get(name) or names.get(lower):
            return f"use {EXAMPLES.get(found, found)}"
    near = difflib.get_close_matches(lower, [*known, *OTHER_NAMES], n=3)
    return f"use one of: {', '.join(dict.fromkeys(OTHER_NAMES.get(one, one) for one in near) or known)}"


def to_dict(recipe: Any) -> dict[str, Any]:
    """Return the fields of a Recipe, or of Hyperparameters, as JSON values; a function by its name."""
    fields = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    return fields | {"augment": augment_name(recipe.augment)}


def augment_name(augment: str | Callable[[Any], Any]) -> str:
    """Return the name of an augmentation; of a function with a digest of its code, so that a resumed run has the same.

    Of other objects it is what they print, without addresses in memory.
    """
    if isinstance(augment, str):
        return augment
    code = getattr(augment, "__code__", None)
    if code is None:
        return f"{FUNCTION}{re.sub(r' at 0x[0-9a-f]+', '', repr(augment)):.500}"
    content = repr((code.co_code, code.co_names, [value for value in code.co_consts if not hasattr(value, "co_code")]))
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return f"{FUNCTION}{augment.__module__}.{getattr(augment, '__qualname__', '?')} {digest}"
