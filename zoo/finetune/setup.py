"""Setup: from the request of a user to the job of a training run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo import tasks
from zoo.console import counted, printable, say
from zoo.data import duplicates, fixes, in_memory, prepare
from zoo.data.decode_cache import name_of
from zoo.data.examples import Columns, Examples, Label
from zoo.data.fingerprint import fingerprint
from zoo.data.fixes import Applied
from zoo.data.prepare import Prepared, Preprocessing, Split, Validation
from zoo.data.reading import ANY_COLUMNS, read, read_one
from zoo.data.split import held_out
from zoo.data.streaming import opening
from zoo.data.summary import DataSummary
from zoo.errors import DataError, RecipeError
from zoo.finetune import messages, streamed
from zoo.finetune import recipe as recipes
from zoo.finetune.callbacks import Isolated
from zoo.finetune.callbacks import check as isolated
from zoo.finetune.defaults import MAX_LENGTH, Hyperparameters, Setting, resolve
from zoo.finetune.freezing import has_batchnorm
from zoo.finetune.job import Job, balance_classes
from zoo.finetune.recipe import Recipe, RecipeFields
from zoo.finetune.streamed import Stream
from zoo.finetune.training import recording
from zoo.plugin import Backbone, Entry, ImageInput, TextInput
from zoo.tasks import Task
from zoo.tasks.intervals import MAX_FOLDS
from zoo.tasks.multilabel import label_sets
from zoo.tasks.regress import by_name

AS_ONE: dict[str, Callable[[Sequence[Any]], Sequence[Any]]] = {"multilabel": label_sets, "regress": by_name}
"""Labels as a split takes them: the only example with a label of a tuple stays in training, "red|green" is one."""
DEFAULT_SHARE = 0.2
"""Share held out for validation."""
UNKNOWN = 20_000
"""Examples that defaults assume of a stream whose number is not known: a large set (defaults.LARGE)."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a user asks for: data, task, recipe, where validation and test data come from, who is told of the run.

    `fixes` is a table of labels to change and examples to drop (zoo.data.fixes). With `stream` the data is read in
    windows and never kept; `classes` are its classes, if they are known.
    """

    data: object
    recipe: Recipe
    task: str | None = None
    valid: object = DEFAULT_SHARE
    test: object = None
    columns: Columns = ANY_COLUMNS
    callbacks: Sequence[Isolated] = ()
    folds: int = 0
    track: Sequence[str] = ()
    fixes: object = None
    stream: bool = False
    classes: Sequence[Label] | None = None

    @property
    def is_stream(self) -> bool:
        """Whether the data is read as a stream."""
        return self.stream or opening.is_stream(self.data)


class RequestOptions(RecipeFields, total=False):
    """Keyword arguments of a request: where data comes from, and the fields of the recipe."""

    task: str | None
    valid: object
    test: object
    input: str | Sequence[str] | None
    label: str | Sequence[str] | None
    groups: str | None
    folds: int
    track: str | Sequence[str]
    fixes: object
    stream: bool
    classes: str | Sequence[Label] | None


def request(
    data: object, labels: object, recipe: object, options: Mapping[str, Any], callbacks: object = ()
) -> Request:
    """Return the request of finetune(data), finetune(X, y) or finetune(data, recipe), with its options by name."""
    if recipe is None and isinstance(labels, Recipe | str):
        labels, recipe = None, labels
    given = dict(options)
    input, label, groups = (given.pop(name, None) for name in ("input", "label", "groups"))
    task, valid, test = given.pop("task", None), given.pop("valid", DEFAULT_SHARE), given.pop("test", None)
    folds, track = given.pop("folds", 0), recording.check(given.pop("track", ()))
    fixes, stream, classes = given.pop("fixes", None), given.pop("stream", False), given.pop("classes", None)
    if folds and (not isinstance(folds, int) or not 2 <= folds <= MAX_FOLDS):
        raise RecipeError(f"folds={folds!r} is not a whole number from 2 to {MAX_FOLDS}", fix="folds=5 (--folds 5)")
    wanted = recipes.make(given, recipe)
    if labels is not None:
        data = in_memory.paired(data, labels, task=task)
    columns = Columns.of(input, label, groups)
    classes = [name.strip() for name in classes.split(",")] if isinstance(classes, str) else classes
    told = isolated(callbacks)
    return Request(data, wanted, task, valid, test, columns, told, folds, track, fixes, stream, classes)


@dataclass(frozen=True, slots=True)
class Data:
    """The data of a request, read: the task, training examples, validation and test data.

    Of a stream, `train` are its first examples.
    """

    task: str
    train: Examples
    validation: Validation
    test: Examples | None
    fingerprint: str
    fixed: Applied | None = None
    stream: Stream | None = None

    def identity(self) -> dict[str, Any]:
        """Return what a resumed run has to have in common with this one."""
        own, test = self.validation.examples, self.test
        valid = self.validation.share if own is None else fingerprint(own)
        return {
            "task": self.task,
            "data": self.fingerprint,
            "valid": valid,
            "test": None if test is None else fingerprint(test),
        }


def read_data(request: Request, entry: Entry, *, streams: bool = False) -> Data:
    """Read all data of a request, and hold out test examples if it asks for a share.

    Without `streams` a stream is read into memory, if it is small enough.

    Raises DataError for what cannot be read, RecipeError for a task that the backbone does not support.
    """
    tasks.check_name(request.task)
    if request.is_stream and streams:
        return _read_stream(request, entry)
    if request.classes and not request.is_stream:
        raise RecipeError("classes= is for streams, and those of other data are read from it", fix="leave out classes")
    columns = replace(request.columns, task=request.task)
    train, valid = read(request.data, modality=entry.modality, columns=columns)
    name = request.task or tasks.infer(train.inputs, train.labels, entry.tasks)
    columns = replace(columns, task=name)
    if not _is_share(request.valid):
        valid = read_one(request.valid, modality=entry.modality, columns=columns)
    if request.folds and _is_share(request.valid) and request.valid not in (None, 0, DEFAULT_SHARE):
        what = (
            f"valid={request.valid} and folds={request.folds}: the folds are held out, and the model trains on all data"
        )
        raise RecipeError(
            what, fix=f"leave out one of them; test={request.valid} keeps examples apart beside the folds"
        )
    train, valid, fixed = _fixed(request.fixes, train, valid)
    takes_share = valid is None and not request.folds
    share = float(request.valid) if isinstance(request.valid, int | float) and takes_share else 0.0
    if valid is not None and _is_share(request.valid) and request.valid not in (None, DEFAULT_SHARE):
        say("valid", f"valid={request.valid:g} is not used: {train.origin} comes with validation data, {valid.origin}")
    check_task(name, entry, train, valid)
    if request.task is None and (said := messages.many_numbers(train.labels, name)):
        say("task", said)
    data = Data(name, train, Validation(valid, share), None, fingerprint(train), fixed)
    if name in AS_ONE:
        data = replace(data, train=replace(train, labels=AS_ONE[name](train.labels)))
        train = data.train
    if not request.test:
        return data
    if not isinstance(request.test, int | float):
        test = read_one(request.test, modality=entry.modality, columns=columns)
        check_task(name, entry, test)
        return replace(data, test=test)
    stratify = tasks.KINDS[name].single_label
    kept, held = held_out(train, request.test, stratify=stratify, seed=request.recipe.seed + 1, name="test")
    return replace(data, train=train.at(kept), test=train.at(held))


def _read_stream(request: Request, entry: Entry) -> Data:
    """Open streamed data: infer the task, count rows and classes where they are not known, hold out examples."""
    recipe, valid = request.recipe, request.valid
    given = {"test": request.test if _is_share(request.test) else None, "fixes": request.fixes}
    streamed.check_supported(recipe, groups=request.columns.groups, folds=request.folds, **given)
    stream, part = streamed.read(request.data, request.columns, request.task, entry)
    name = stream.columns.task
    assert name is not None
    check_task(name, entry, stream.head)
    share = float(valid) if isinstance(valid, int | float) and part is None else 0.0
    needs_count = bool(share) or not recipe.steps or recipe.class_balance != "none"
    stream = streamed.scanned(stream, request.classes, needs_count=needs_count)
    if not tasks.KINDS[name].labelled and not recipe.steps:
        what = f"the length of a stream of texts in blocks is not known, and {name} takes its steps from it"
        raise RecipeError(what, fix="steps=10_000 (--set steps=10000)")
    if share:
        stream = streamed.hold_out(stream, share, recipe.seed)
    elif part is not None and _is_share(valid):
        stream = replace(stream, held=streamed.first_rows(part, stream))
    elif opening.is_stream(valid):
        found, _ = streamed.read(valid, stream.columns, name, entry)
        stream = replace(stream, held=streamed.first_rows(found.source, stream))
    own = stream.held.examples if stream.held else None
    if not _is_share(valid) and own is None:
        own = read_one(valid, modality=entry.modality, columns=stream.columns)
    test = None
    if request.test:
        test = read_one(request.test, modality=entry.modality, columns=replace(request.columns, task=name))
    check_task(name, entry, own, test)
    return Data(name, stream.head, Validation(own), test, stream.scan.digest, stream=stream)


def _fixed(source: object, train: Examples, valid: Examples | None) -> tuple[Examples, Examples | None, Applied | None]:
    """Relabel and drop examples as a table of fixes says, if there is one."""
    if source is None:
        return train, valid, None
    parts, applied = fixes.apply(fixes.read(source), [train] if valid is None else [train, valid])
    say("fixes", f"{counted(applied.relabelled, 'example')} relabelled, {applied.dropped:,} dropped")
    return parts[0], parts[1] if valid is not None else None, applied


def _is_share(valid: object) -> bool:
    return valid is None or isinstance(valid, int | float)


def check_task(name: str, entry: Entry, *parts: Examples | None) -> None:
    """Raise RecipeError for a task that the backbone does not support, DataError for data that does not fit it."""
    kind, known = tasks.KINDS[name], entry.tasks or ("classify",)
    if name not in known and (not kind.labelled or (entry.modality == "image" and kind.reads == "tokens")):
        fix = f"task={known[0]!r}, or choose another backbone: zoo list --task {name}"
        raise RecipeError(f"{entry.name} does not support the task {name}; it supports {', '.join(known)}", fix=fix)
    for part in parts:
        if part is not None:
            kind.check(part.inputs, part.labels)


def keeps_lm_head(task: str) -> bool:
    """Return whether a task keeps the language-modelling head of the backbone."""
    return not tasks.KINDS[task].labelled


def preprocessing(
    backbone: Backbone, recipe: Recipe | Hyperparameters, *, cache: bool = True, blocks: bool = False
) -> Preprocessing:
    """Return how inputs are prepared for a backbone."""
    length = 0
    if isinstance(backbone.input, TextInput):
        length = min(recipe.max_length or MAX_LENGTH, backbone.input.max_length)
    return Preprocessing(backbone.input, backbone.tokenizer, recipe.skip_bad, cache, length, recipe.truncation, blocks)


def make_job(
    request: Request, data: Data, backbone: Backbone, known: Callable[[Task], nn.Linear | None], *, pretrained: bool
) -> Job:
    """Prepare the data and resolve the recipe; reports what the data is. Raises DataError and RecipeError.

    `known` returns a head that knows the labels of a task, or None.
    """
    kind, recipe = tasks.KINDS[data.task], request.recipe
    how = preprocessing(backbone, recipe, blocks=not kind.labelled)
    if data.stream is not None:
        return _stream_job(request, data, backbone, known, pretrained=pretrained)
    split = prepare.train_and_valid(data.train, data.validation, how, classes=kind.single_label, seed=recipe.seed)
    task = tasks.make(data.task, split.train.examples.labels)
    say("data", messages.data(split, task))
    if kind.single_label and (said := messages.single_examples(split)):
        say("warning", said)
    train = task.dataset(split.train.inputs, split.train.examples.labels, backbone.tokenizer)
    held = split.valid
    valid = None if held is None else task.dataset(held.inputs, held.examples.labels, backbone.tokenizer)
    setting = _setting(backbone, kind, len(train), 0 if valid is None else len(valid))
    hp = resolve(recipe, replace(setting, pretrained=pretrained))
    head = None if hp.strategy == "scratch" else known(task)
    describe = partial(_describe, split.train.examples, len(train))
    labels = () if held is None else held.examples.labels
    summary = _summary(split, _prepared_test(data, how, task, backbone), request, data)
    job = Job(task, train, valid, recipe, hp, summary, head, describe=describe, valid_labels=labels)
    return balance_classes(replace(job, callbacks=request.callbacks, groups=_groups(split.train.examples, len(train))))


def _stream_job(
    request: Request, data: Data, backbone: Backbone, known: Callable[[Task], nn.Linear | None], *, pretrained: bool
) -> Job:
    """Return the job of a stream, as `make_job`."""
    stream, recipe, kind = data.stream, request.recipe, tasks.KINDS[data.task]
    assert stream is not None
    how = replace(preprocessing(backbone, recipe, cache=False, blocks=not kind.labelled), lazy=True)
    task = stream.balanced(tasks.make(data.task, stream.task_labels()), recipe.class_balance)
    own, valid = data.validation.examples, None
    if own is not None:
        names = stream.held.names if stream.held else ()
        valid = streamed.dataset(own, names, task, how)
    train = stream.dataset(task, how, recipe)
    count = stream.examples
    say("data", messages.stream(stream, task, len(own) if own else 0))
    setting = _setting(backbone, kind, UNKNOWN if count is None else count, 0 if valid is None else len(valid))
    hp = resolve(recipe, replace(setting, pretrained=pretrained))
    head = None if hp.strategy == "scratch" else known(task)
    _prepared_test(data, how, task, backbone)
    summary = streamed.summary(stream, request.columns, own, data.test)
    labels = () if own is None else own.labels
    job = Job(task, train, valid, recipe, hp, summary, head, describe=train.name, valid_labels=labels)
    return replace(job, callbacks=request.callbacks)


def _groups(examples: Examples, count: int) -> Tensor | None:
    """Return the number of each example's group (N,); None without groups, and for blocks of several texts."""
    if examples.groups is None or len(examples) != count:
        return None
    numbers = {group: number for number, group in enumerate(dict.fromkeys(examples.groups))}
    return torch.tensor([numbers[group] for group in examples.groups])


def _prepared_test(data: Data, how: Preprocessing, task: Task, backbone: Backbone) -> Prepared | None:
    """Prepare the test data before the training, so that unreadable inputs and unknown labels raise at once."""
    if data.test is None:
        return None
    test = prepare.prepare_for_evaluation(data.test, how)
    task.dataset(test.inputs, test.examples.labels, backbone.tokenizer)
    return test


def _setting(backbone: Backbone, kind: type[Task], train: int, valid: int) -> Setting:
    spec = backbone.input
    return Setting(
        train=train,
        valid=valid,
        image_size=spec.size if isinstance(spec, ImageInput) else None,
        max_tokens=spec.max_length if isinstance(spec, TextInput) else None,
        stages=len(backbone.stages),
        batchnorm=has_batchnorm(backbone.module),
        labelled=kind.labelled,
        per_token=kind.reads == "tokens",
    )


def _summary(split: Split, test: Prepared | None, request: Request, data: Data) -> DataSummary:
    near, seen = None, None
    if split.valid is not None:
        near = len(_overlap(split.valid, split.train, ("validation", "training")))
    if test is not None:
        known = {"training": split.train} | ({"validation": split.valid} if split.valid else {})
        kept_apart = _is_share(request.test)
        seen = len(
            {i for name, part in known.items() for i in _overlap(test, part, ("test", name), new=not kept_apart)}
        )
    return DataSummary(
        origin=printable(data.train.origin),
        columns=request.columns,
        train=len(split.train.examples),
        valid=len(split.valid.examples) if split.valid else 0,
        test=len(data.test) if data.test else 0,
        pairs=isinstance(data.train.inputs[0], tuple),
        skipped=len(split.skipped),
        fingerprint=data.fingerprint,
        near_duplicates=near,
        test_duplicates=seen,
    )


def _overlap(held: Prepared, known: Prepared, names: tuple[str, str], *, new: bool = False) -> tuple[int, ...]:
    """Report and return the held-out examples with a near-duplicate in known data.

    With `new`, raises DataError where most are identical to known examples.
    """
    found = duplicates.near(known.inputs, held.inputs)
    if new and 2 * found.exact > len(held.inputs):
        what = f"{found.exact:,} of {len(held.inputs):,} {names[0]} examples are identical to {names[1]} examples"
        raise DataError(
            f"{held.examples.origin} is the {names[1]} data: {what}",
            fix="test=0.2 (--test 0.2) keeps a share of the data apart; or give other data",
        )
    if found.held:
        say("leak", messages.leak(held, known, found, names))
    return found.held


def identity(request: Request, data: Data, backbone: str) -> dict[str, Any]:
    """Return what a resumed run has to have in common: recipe, data and backbone; not what changes no result."""
    fields = {name: value for name, value in recipes.to_dict(request.recipe).items() if name not in recipes.FREE}
    return fields | {"backbone": backbone, "groups": request.columns.groups} | data.identity()


def _describe(examples: Examples, count: int, index: int) -> str:
    """Name a training example in errors; blocks of text correspond to no single example."""
    if len(examples) != count:
        return f"block {index}"
    item = examples.inputs[index]
    return f"text {index} ({item[:40]!r})" if isinstance(item, str) and " " in item else name_of(item, index)
