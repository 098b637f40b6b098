"""Facts: a fine-tuned model run once over the data it was trained, validated and tested on."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo import store
from zoo.console import quiet
from zoo.data import prepare
from zoo.data.datasets import Dataset, Inputs, LabelledDataset
from zoo.data.examples import Columns, Examples
from zoo.data.fingerprint import fingerprint
from zoo.data.prepare import Prepared
from zoo.data.reading import read_one
from zoo.data.seeding import generator
from zoo.data.summary import DataSummary
from zoo.errors import DataError, RecipeError, ZooError
from zoo.evidence.report import features
from zoo.evidence.report.explain import moved
from zoo.evidence.report.features import Examined
from zoo.finetune import inference, setup
from zoo.finetune.defaults import Hyperparameters
from zoo.finetune.features.stage_outputs import StageOutput
from zoo.finetune.heads import stages_of
from zoo.finetune.recipe import Recipe
from zoo.finetune.setup import Request
from zoo.model import answers
from zoo.model.load import load_entry
from zoo.model.model import Model
from zoo.plugin import Backbone, Entry
from zoo.tasks import KINDS, Task

MAX_TRAIN, MAX_HELD = 2_000, 20_000
"""Most examples of the training data and of each held-out part that a report runs; more are drawn at random."""
CHUNK = 4_096
"""Rows of features that the head reads at a time."""


@dataclass(frozen=True)
class Part:
    """Examples of one part of the data, and what the model says of those that it was run on.

    name       "train", "valid" or "test"
    whole      all examples with their prepared inputs (pixels, tokens), in the order of the data
    chosen     (N,) indices of those that were run, ascending; the fields below are of these, in this order
    data       prepared inputs with targets, as the network takes them (blocks of several texts for language models)
    values     outputs of the head (N, K), of a tagger a list of (words, K), of a language model one of (M, 2)
    targets    as finetune.inference.Outputs: (N, …), or a list
    features   (N, D) float32, pooled by the fine-tuned backbone
    examined   some of them with the outputs of stages as well
    """

    name: str
    whole: Prepared
    chosen: tuple[int, ...]
    data: Dataset
    values: Any
    targets: Any
    features: Tensor
    examined: Examined

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def is_blocks(self) -> bool:
        """Whether the inputs are blocks of several texts, as for language models."""
        return len(self.whole.examples) != len(self.whole.inputs)

    @cached_property
    def examples(self) -> Examples:
        """The examples that were run; of a language model the texts that its blocks are cut from."""
        return self.whole.examples if self.is_blocks else self.whole.examples.at(self.chosen)

    @cached_property
    def inputs(self) -> Inputs:
        """Prepared inputs of the examples that were run."""
        return self.whole.inputs.at(self.chosen)


@dataclass(frozen=True)
class Facts:
    """What a report is made of: the model, the parts of its data, and what the run recorded.

    model      the fine-tuned model
    task       its task
    entry      catalogue row of the backbone
    backbone   with the fine-tuned weights, in eval mode
    recipe     hyperparameters, all resolved
    summary    where the data came from and how it was divided
    parts      those there are of "train", "valid", "test", in this order
    history    one dict per evaluation of the run: step, loss, valid_<metric>
    metrics    recorded on the validation data; tested: on the test data
    training   what else was recorded: seconds, calibration, intervals, folds
    skipped    names of the inputs that could not be read
    notes      sentences on what could not be compared, and why
    """

    model: Model
    task: Task
    recipe: Hyperparameters
    summary: DataSummary
    parts: Mapping[str, Part]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def entry(self) -> Entry:
        """Catalogue row of the backbone."""
        return self.model.entry

    @property
    def backbone(self) -> Backbone:
        """The backbone with its fine-tuned weights."""
        return self.model.backbone

    @property
    def history(self) -> list[dict[str, float]]:
        """One dict per evaluation of the run."""
        return self.model.history

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics recorded on the validation data."""
        return self.model.metrics

    @property
    def tested(self) -> dict[str, float]:
        """Metrics recorded on the test data."""
        return self.model.tested

    @property
    def training(self) -> dict[str, Any]:
        """What else the run recorded."""
        return self.model.training

    @property
    def held_out(self) -> Part | None:
        """The part to measure on: test data, else validation data, None without any."""
        return self.parts.get("test") or self.parts.get("valid")

    @cached_property
    def is_frozen(self) -> bool | None:
        """Whether the backbone is bit-identical to the pretrained one; None without the pretrained weights."""
        pretrained = self.pretrained()
        return None if pretrained is None else moved.is_unchanged(self.backbone, pretrained)

    @cached_property
    def before(self) -> Mapping[str, Examined] | None:
        """The examined examples of each part by the pretrained weights, None without these: run when first asked."""
        pretrained = self.pretrained()
        if pretrained is None:
            return None
        if self.is_frozen:
            return {name: part.examined for name, part in self.parts.items()}
        precision = answers.precision(self.model)
        return {
            name: features.examine(
                pretrained.module, LabelledDataset(part.inputs), part.examined.rows, part.examined.stages, precision
            )
            for name, part in self.parts.items()
        }

    @property
    def folder(self) -> str:
        """The folder of the saved model as an argument of a command; MODEL for one that is not saved."""
        return "MODEL" if self.model.folder is None else shlex.quote(str(self.model.folder))

    def pretrained(self) -> Backbone | None:
        """Return the backbone with its pretrained weights, None where it has none or they are not in the store.

        Loaded when first asked for; makes no request.
        """
        return self._pretrained

    @cached_property
    def _pretrained(self) -> Backbone | None:
        entry = self.entry
        local = entry.source is not None and entry.source.startswith(("file://", "package://"))
        if self.recipe.strategy == "scratch" or entry.source is None or not (local or store.is_pulled(entry)):
            return None
        try:
            return load_entry(entry, str(self.model.device)).backbone
        except ZooError:  # weights that were moved or damaged: the report goes without them
            return None


def collect(model: Model, data: object = None, columns: Columns | None = None) -> Facts:
    """Run a fine-tuned model over its data.

    Without `data`, or with that of the fine-tuning, the parts are those of the fine-tuning, split again in the same
    way; other labelled data is the test part. Raises RecipeError for a model without a head, or one that answers NaN,
    DataError where the data of the fine-tuning cannot be found or has changed.
    """
    _, task = answers.network(model)
    assert model.summary is not None
    assert model.recipe is not None
    notes: list[str] = []
    with quiet():
        parts, skipped = _prepared(model, data, columns, notes)
        stages = features.stages_read(model.backbone, model.head, model.recipe.head_stages)
        ran = {name: _run(model, name, part, stages) for name, part in parts.items()}
    _check_finite(ran.values())
    return Facts(model, task, model.recipe, model.summary, ran, skipped, tuple(notes))


def _check_finite(parts: Iterable[Part]) -> None:
    """Raise RecipeError where the model answers with NaN or infinity."""
    for part in parts:
        values = part.values if isinstance(part.values, Tensor) else torch.cat(list(part.values))
        if not values.isfinite().all():
            what = f"the model answers some {part.name} examples with NaN or infinity: its training diverged"
            raise RecipeError(what, fix="fine-tune again with a lower learning rate: --lr 1e-4, or --strategy probe")


def _prepared(
    model: Model, data: object, columns: Columns | None, notes: list[str]
) -> tuple[dict[str, Prepared], tuple[str, ...]]:
    """Return the prepared parts, and the names of unreadable inputs."""
    own = trained_on(model)
    if data is None and own is None:
        what = f"the data of this model was in memory ({model.summary and model.summary.origin})"
        raise DataError(what, fix="give it again: zoo.report(model, data)   (zoo report MODEL DATA)")
    try:
        found = _same_split(model, own if data is None else data, columns)
    except DataError:
        if data is None or _is_same(data, own):
            raise
        found = None  # other data, which may lack a split or have other columns
    if found is not None:
        return found
    other = _evaluation(model, data, columns)
    try:
        parts, skipped = _same_split(model, own, None) if own is not None else ({}, ())
    except DataError as error:
        notes.append(f"Training and validation data are left out: {error.what}.")
        parts, skipped = {}, ()
    return {**{name: part for name, part in parts.items() if name != "test"}, "test": other}, skipped


def _is_same(data: object, own: object) -> bool:
    """Return whether two names are of the same data."""
    if not (isinstance(data, str | os.PathLike) and isinstance(own, str)):
        return False
    return str(data) == own or Path(os.path.expanduser(data)).resolve() == Path(own).resolve()


def trained_on(model: Model) -> object:
    """Return the name of the data that a model was fine-tuned on, None if it was in memory."""
    known = model.training.get("split")
    if isinstance(known, dict):
        return known.get("data")
    origin = model.summary.origin if model.summary else ""
    return origin if origin.startswith("hf:") or Path(origin).exists() else None


def _same_split(model: Model, data: object, columns: Columns | None) -> tuple[dict[str, Prepared], tuple[str, ...]]:
    """Return the parts of the fine-tuning; DataError unless the data is what the model was fine-tuned on."""
    request = _request(model, data, columns)
    assert model.task is not None
    kind = KINDS[model.task.name]
    read = setup.read_data(request, model.entry)
    recorded = model.training.get("request", {})
    if any(value != recorded.get(name) for name, value in read.identity().items()):
        part = "data" if read.fingerprint != recorded.get("data") else "validation or test data"
        what = f"{read.train.origin} is not, or no longer, the {part} that this model was fine-tuned on"
        raise DataError(what, fix="give labelled data to test on (zoo report MODEL DATA), or fine-tune again")
    how = setup.preprocessing(model.backbone, model.recipe or Recipe(), blocks=not kind.labelled)
    seed = model.recipe.seed if model.recipe else 0
    split = prepare.train_and_valid(read.train, read.validation, how, classes=kind.single_label, seed=seed)
    found = {"train": split.train} | ({"valid": split.valid} if split.valid else {})
    test = _own_test(model, request, read) if read.test is None else prepare.prepare_for_evaluation(read.test, how)
    return found | ({} if test is None else {"test": test}), split.skipped


def _own_test(model: Model, request: Request, read: setup.Data) -> Prepared | None:
    """Return the labelled test part that the data comes with, None without one."""
    try:
        found = read_one(request.data, modality=model.entry.modality, columns=request.columns)
        valid = read.validation.examples
        if found.origin in (read.train.origin, valid and valid.origin):  # fixes may have changed the fingerprint
            return None
        if fingerprint(found) in (read.fingerprint, None if valid is None else fingerprint(valid)):
            return None
        return _prepare(model, found)
    except DataError:  # without labels, or with others
        return None


def _request(model: Model, data: object, columns: Columns | None) -> Request:
    """Return the request that makes the split of the fine-tuning again."""
    assert model.task is not None
    assert model.summary is not None
    recorded = model.training.get("request", {})
    known = model.training.get("split", {})
    valid, test, task = known.get("valid"), known.get("test"), known.get("task", model.task.name)
    if "valid" not in known and isinstance(recorded.get("valid"), int | float):
        valid = recorded["valid"]
    own = columns or model.summary.columns
    chosen = Columns(own.input or model.summary.columns.input, own.label, recorded.get("groups"), task)
    recipe, fixes = Recipe(seed=int(recorded.get("seed", 0))), model.training.get("fixes", {}).get("rows")
    return Request(data, recipe, task, valid, test, chosen, folds=known.get("folds", 0), fixes=fixes)


def _evaluation(model: Model, data: object, columns: Columns | None) -> Prepared:
    """Return prepared labelled data that the model was not trained on. Raises DataError for other data."""
    _, task = answers.network(model)
    known = columns or (model.summary.columns if model.summary else Columns())
    chosen = Columns(known.input, known.label, task=task.name)
    examples = read_one(data, modality=model.entry.modality, columns=chosen)
    if model.summary and fingerprint(examples) == model.summary.fingerprint:
        what = f"{examples.origin} is what this model was fine-tuned on, and it cannot be divided as it was then"
        raise DataError(what, fix="give data that it has not seen: zoo report MODEL DATA, or fine-tune again")
    return _prepare(model, examples)


def _prepare(model: Model, examples: Examples) -> Prepared:
    """Prepare labelled examples. Raises DataError for labels that the model does not know."""
    _, task = answers.network(model)
    if task.labelled:
        task.check(examples.inputs, examples.labels)
        task.targets(examples.labels)  # raise for an unknown label before decoding, which takes long
    how = setup.preprocessing(model.backbone, model.recipe or Recipe(), blocks=not task.labelled)
    return prepare.prepare_for_evaluation(examples, how)


def _run(model: Model, name: str, whole: Prepared, stages: tuple[StageOutput, ...]) -> Part:
    """Run the model over a part: features, stages and outputs in one pass, two where the head reads tokens."""
    network, task = answers.network(model)
    count = len(whole.inputs)
    chosen = _sample(count, MAX_TRAIN if name == "train" else MAX_HELD)
    labels = whole.examples.at(chosen).labels if len(whole.examples) == count else whole.examples.labels
    inputs = whole.inputs if len(chosen) == count else whole.inputs.at(chosen)
    data = task.dataset(inputs, labels, model.backbone.tokenizer)
    module, precision, plain = model.backbone.module, answers.precision(model), LabelledDataset(inputs)
    examined = features.examine(module, plain, features.examined_rows(len(chosen)), stages, precision)
    own = stages_of(model.head) if task.reads == "pooled" else ()
    rows = features.of_all(module, plain, examined, own, precision)
    pooled = rows[:, : model.backbone.dim]
    if task.reads == "pooled":
        assert isinstance(data, LabelledDataset)
        return Part(name, whole, chosen, data, _outputs(model, rows), data.targets, pooled, examined)
    measured = inference.measure(network, task, data, precision=precision).outputs
    return Part(name, whole, chosen, data, measured.values, measured.targets, pooled, examined)


def _sample(count: int, most: int) -> tuple[int, ...]:
    """Return indices of at most so many of `count` examples, ascending."""
    if count <= most:
        return tuple(range(count))
    drawn = torch.randperm(count, generator=generator(0, "report", count))[:most]
    return tuple(drawn.sort().values.tolist())


def _outputs(model: Model, rows: Tensor) -> Tensor:
    """Return the outputs of the head on its inputs (N, D), float32 on the CPU."""
    assert model.head is not None
    with torch.no_grad():
        return torch.cat([model.head(part.to(model.device)).float().cpu() for part in rows.split(CHUNK)])
