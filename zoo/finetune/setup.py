"""From what a user asks for to what is trained: data read, task found, sets prepared, recipe settled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from zoo import tasks
from zoo.console import say
from zoo.data import duplicates, prepare
from zoo.data import reading as reader
from zoo.data.decode_cache import name_of
from zoo.data.examples import Columns, Examples
from zoo.data.fingerprint import fingerprint
from zoo.data.prepare import How, Split
from zoo.data.split import held_out
from zoo.errors import RecipeError
from zoo.finetune import job as jobs
from zoo.finetune import messages
from zoo.finetune.defaults import LENGTH, Situation, settle
from zoo.finetune.job import Job
from zoo.finetune.recipe import Recipe
from zoo.plugin import Backbone, Classifier, Entry, ImageInput, TextInput
from zoo.tasks import LANGUAGE


@dataclass(frozen=True, slots=True)
class Asked:
    """The data as it was read: examples, their task, validation data or the share to hold out, what is kept apart."""

    task: str
    examples: Examples
    own: Examples | None
    share: float
    apart: Examples | None
    columns: Columns


@dataclass(frozen=True, slots=True)
class Plan:
    """A job, the split it works on, what is kept apart for the end, and the facts about the data that are kept."""

    job: Job
    split: Split
    apart: Examples | None
    facts: dict[str, Any]


def read(
    data: object, task: str | None, valid: object, test: object, columns: Columns, entry: Entry, seed: int
) -> Asked:
    """Read data, validation data (or the share to hold out) and test data (or the share to keep apart).

    Raises DataError for what cannot be read, RecipeError for a task that the backbone is not for.
    """
    tasks.check_name(task)
    found, own = reader.read(data, modality=entry.modality, columns=columns)
    if valid is not None and not isinstance(valid, int | float):
        own = reader.read_one(valid, modality=entry.modality, columns=columns)
    share = float(valid or 0) if own is None and isinstance(valid, int | float | None) else 0.0
    name = task or tasks.infer(found.inputs, found.labels, entry.tasks)
    check(name, entry, found, own)
    if not test:
        return Asked(name, found, own, share, None, columns)
    if not isinstance(test, int | float):
        apart = reader.read_one(test, modality=entry.modality, columns=columns)
        return Asked(name, found, own, share, apart, columns)
    kept, away = held_out(found, test, name, seed + 1)
    return Asked(name, found.at(kept), own, share, found.at(away), columns)


def check(name: str, entry: Entry, *parts: Examples | None) -> None:
    """Raise RecipeError for a task that the backbone is not for, DataError for data that is not for the task."""
    known = entry.tasks or ("classify",)
    if name not in known and (name in LANGUAGE or (entry.modality == "image" and name == "tag")):
        fix = f"task={known[0]!r}, or choose another backbone: zoo list --task {name}"
        raise RecipeError(f"{entry.name} cannot learn {name}; it can {', '.join(known)}", fix=fix)
    for part in parts:
        if part is not None:
            tasks.check(name, part.inputs, part.labels)


def how(backbone: Backbone, recipe: Recipe, *, keep: bool = True, blocks: bool = False) -> How:
    """Return how inputs are prepared for a backbone under a recipe."""
    length = 0
    if isinstance(backbone.input, TextInput):
        length = min(recipe.max_length or LENGTH, backbone.input.max_length)
    return How(backbone.input, backbone.tokenizer, recipe.skip_bad, keep, length, recipe.cut, blocks)


def make(
    asked: Asked, wanted: Recipe, backbone: Backbone, classifier: Callable[[], Classifier | None], *, pretrained: bool
) -> Plan:
    """Prepare the data and settle the recipe; says what the data is. Raises DataError and RecipeError."""
    blocks = asked.task in LANGUAGE
    prepared = how(backbone, wanted, blocks=blocks)
    split = prepare.train_and_valid(asked.examples, asked.own, asked.share, asked.task, prepared, wanted.seed)
    task = tasks.make(asked.task, split.train.examples.labels)
    say("data", messages.data(split, task))
    train = jobs.labelled(task, split.train.inputs, split.train.examples.labels, backbone.tokenizer)
    held = split.valid
    valid = None if held is None else jobs.labelled(task, held.inputs, held.examples.labels, backbone.tokenizer)
    recipe = settle(wanted, _situation(backbone, len(train), 0 if valid is None else len(valid), blocks, pretrained))
    warm = None if recipe.strategy == "scratch" else jobs.warm_head(task, classifier())
    job = Job(
        task,
        train,
        valid,
        recipe,
        warm,
        stages=backbone.stages,
        called=partial(_called, split.train.examples, len(train)),
        cautious=wanted.strategy == "auto",
    )
    return Plan(job, split, asked.apart, _facts(split, asked) | _near(split))


def _situation(backbone: Backbone, train: int, valid: int, language: bool, pretrained: bool) -> Situation:
    spec = backbone.input
    return Situation(
        examples=train,
        image_size=spec.size if isinstance(spec, ImageInput) else None,
        tokens=spec.max_length if isinstance(spec, TextInput) else None,
        pretrained=pretrained,
        valid=valid,
        language=language,
        stages=len(backbone.stages),
        norms=any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in backbone.module.modules()),
    )


def _facts(split: Split, asked: Asked) -> dict[str, Any]:
    train = split.train.examples
    return {
        "origin": train.origin,
        "columns": {"input": list(asked.columns.input), "label": asked.columns.label},
        "examples": len(train),
        "valid": len(split.valid.examples) if split.valid else 0,
        "apart": len(asked.apart) if asked.apart else 0,
        "skipped": len(split.skipped),
        "fingerprint": fingerprint(train),
    }


def _near(split: Split) -> dict[str, int | None]:
    """Count the validation examples that training has almost seen, and say so; None if there are none to compare."""
    if split.valid is None:
        return {"near_duplicates": None}
    found = duplicates.near(split.train.inputs, split.valid.inputs)
    if found.valid:
        say("leak", messages.leak(split, found))
    return {"near_duplicates": len(found.valid)}


def _called(examples: Examples, count: int, index: int) -> str:
    """Name a training example in errors; blocks of text are no longer the examples they were."""
    if len(examples) != count:
        return f"block {index}"
    item = examples.inputs[index]
    return f"text {index} ({item[:40]!r})" if isinstance(item, str) and " " in item else name_of(item, index)
