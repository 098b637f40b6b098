"""Answers for any number of inputs, chunk by chunk in constant memory: outputs, predictions, embeddings."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import console
from zoo.data import images, prepare
from zoo.data.datasets import LabelledDataset
from zoo.data.items import Item, Reading
from zoo.data.prepare import Preprocessing
from zoo.data.summary import DataSummary
from zoo.errors import DataError, RecipeError
from zoo.finetune import inference, setup
from zoo.finetune.defaults import Hyperparameters
from zoo.finetune.features import stage_search
from zoo.finetune.features.stage_outputs import StageOutput
from zoo.finetune.heads import stages_of
from zoo.finetune.network import Network, set_memory_format
from zoo.finetune.recipe import Recipe
from zoo.model import generation
from zoo.model.inputs import CHUNK, batches, chunks
from zoo.plugin import Backbone, Entry, ImageInput
from zoo.tasks import Prediction, Task

NUMBERED = re.compile(r"^(image|input) ([0-9]+)\b")
"""The number of an input in a message of the decoder or the tokenizer, which see one chunk."""

PARTS = 8
"""Parts into which values are divided to find the unreadable ones."""


class Predictor(Protocol):
    """What is read of a Model here."""

    entry: Entry
    backbone: Backbone
    head: nn.Module | None
    task: Task | None
    recipe: Hyperparameters | None
    summary: DataSummary | None

    def generate(self, prompts: Any, *, batch_size: int = ...) -> Any:
        """Continue prompts, by a causal language model."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says of an item: a result, or the error of an item that cannot be read."""

    item: Item
    result: Any = None
    error: DataError | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A prediction, with the probabilities of all labels where the task has them: (K,), of a tagger (words, K)."""

    prediction: Prediction
    probabilities: Tensor | None = None


def outputs(model: Predictor, inputs: Iterable[Any], batch_size: int) -> Any:
    """Return the outputs of a task with labels: (N, K), or a list of (words, K)."""
    return _joined(list(_by_chunk(inputs, lambda chunk: _outputs(model, chunk, batch_size))))


def predictions(model: Predictor, inputs: Iterable[Any], top: int, batch_size: int) -> list[Prediction]:
    """Return one prediction for each input."""
    parts = _by_chunk(inputs, lambda chunk: _predictions(model, chunk, top, batch_size))
    return [found for part in parts for found in part]


def embeddings(
    model: Predictor,
    inputs: Iterable[Any],
    batch_size: int,
    *,
    normalize: bool,
    stages: Sequence[StageOutput] = (),
) -> Tensor:
    """Return pooled features and outputs of stages (N, D), float32, on the CPU; with `normalize` each of length 1."""
    found: Tensor = _joined(list(_by_chunk(inputs, lambda chunk: _embeddings(model, chunk, batch_size, stages))))
    return F.normalize(found, dim=1) if normalize else found


def stages(model: Predictor) -> tuple[StageOutput, ...]:
    """Return the stage outputs that the head reads, or without such a head the last ones that can be pooled.

    Raises RecipeError where there are none.
    """
    found = stages_of(model.head) or stage_search.find(model.backbone)
    if not found:
        what = f"no output of a stage of {model.entry.name} can be pooled"
        raise RecipeError(what, fix="embed its pooled features: leave out stages=True")
    return found


def _by_chunk(inputs: Iterable[Any], compute: Callable[[list[Any]], Any]) -> Iterator[Any]:
    """Yield the result of each chunk; an error names an input by its number among all."""
    for number, chunk in enumerate(chunks(inputs)):
        try:
            yield compute(chunk)
        except DataError as error:
            start = number * CHUNK
            if not start:
                raise
            raise DataError(_renamed(error, start), fix=error.fix) from error


def _renamed(error: DataError, start: int) -> str:
    return NUMBERED.sub(lambda found: f"{found[1]} {int(found[2]) + start}", error.what)


def each_prediction(model: Predictor, items: Iterable[Item], top: int, batch_size: int) -> Iterator[Answer]:
    """Yield a Result for each item, in order; an item that cannot be read gets its error."""

    def compute(values: Sequence[Any]) -> list[Result]:
        if not task.labelled:
            return [Result(found) for found in _predictions(model, values, top, batch_size)]
        found = _outputs(model, values, batch_size)
        decoded = task.decode(found, top)
        if task.name == "regress":
            return list(map(Result, decoded))
        return list(map(Result, decoded, task.probabilities(found)))

    _, task = network(model)
    return _each(_read(model, items), compute)


def each_embedding(
    model: Predictor,
    items: Iterable[Item],
    batch_size: int,
    *,
    normalize: bool,
    stages: Sequence[StageOutput] = (),
) -> Iterator[Answer]:
    """Yield the embedding (D,) of each item, in order; an item that cannot be read gets its error."""

    def compute(values: Sequence[Any]) -> list[Tensor]:
        return list(embeddings(model, values, batch_size, normalize=normalize, stages=stages))

    return _each(_read(model, items), compute)


def _read(model: Predictor, items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield chunks of items, images decoded once, in threads; those that cannot be decoded get their error."""
    spec = model.backbone.input

    def decoded(item: Item) -> Item:
        if not isinstance(spec, ImageInput) or not isinstance(item.value, os.PathLike | bytes | dict):
            return item
        name = str(item.value) if isinstance(item.value, os.PathLike) else str(item.name)
        return Item.reading(item.name, lambda: images.pixels(item.value, spec, name))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for chunk in chunks(items):
            yield list(pool.map(decoded, chunk)) if isinstance(spec, ImageInput) else chunk


def _each(read: Iterable[list[Item]], compute: Callable[[Sequence[Any]], list[Any]]) -> Iterator[Answer]:
    for chunk in read:
        values = [item.value for item in chunk if item.error is None]
        with console.quiet():
            found = iter(_isolated(compute, values) if values else [])
        for item in chunk:
            result = item.error or next(found)
            is_error = isinstance(result, DataError)
            yield Answer(item, error=result) if is_error else Answer(item, result)


def _isolated(compute: Callable[[Sequence[Any]], list[Any]], values: Sequence[Any]) -> list[Any]:
    """Compute a result for each value; the DataError of those that cannot be read, found by dividing into PARTS."""
    try:
        return compute(values)
    except DataError as error:
        if len(values) == 1:
            return [DataError(NUMBERED.sub("the input", error.what), fix=error.fix)]
    size = math.ceil(len(values) / PARTS)
    return [found for at in range(0, len(values), size) for found in _isolated(compute, values[at : at + size])]


def network(model: Predictor) -> tuple[Network, Task]:
    """Return backbone with head, and the task; RecipeError for a model without a head."""
    if model.head is None or model.task is None:
        raise RecipeError(
            f"{model.entry.name} has no head yet: it has not been fine-tuned",
            fix=f'zoo.load("{model.entry.name}").finetune(data), or load a saved model: zoo.load("runs/…")',
        )
    return Network(model.backbone.module, model.head, model.task.reads, model.backbone.stages), model.task


def precision(model: Predictor) -> str:
    """Return the precision of the last fine-tuning, after choosing the memory format that is usually fastest."""
    set_memory_format(model.backbone.module)
    return model.recipe.precision if model.recipe else "fp32"


def reading(model: Predictor, column: tuple[str, ...] = ()) -> Reading:
    """Return how inputs are read, by the data of the last fine-tuning; `column` overrides its input columns."""
    known, spec = model.summary, model.backbone.input
    return Reading(
        modality=model.entry.modality,
        column=column or (known.columns.input if known else ()),
        pairs=known is not None and known.pairs,
        words=model.task is not None and model.task.reads == "tokens" and model.task.labelled,
        channels=spec.channels if isinstance(spec, ImageInput) else 3,
    )


def preprocessing(model: Predictor) -> Preprocessing:
    """Return how inputs are prepared, with the settings of the last fine-tuning; each of them has to be readable."""
    how = setup.preprocessing(model.backbone, model.recipe or Recipe(), cache=False)
    return replace(how, skip_bad=False)


def _outputs(model: Predictor, inputs: Sequence[Any], batch_size: int) -> Any:
    net, task = network(model)
    examples = prepare.unlabelled(task.parse(inputs))
    prepared = prepare.prepare(examples, preprocessing(model)).inputs
    data = task.dataset(prepared, None, model.backbone.tokenizer)
    found = inference.predict(net, data, precision=precision(model), batch_size=batch_size)
    if task.reads == "tokens":
        _check_not_truncated(examples.inputs, found)
    return found


def _predictions(model: Predictor, inputs: Sequence[Any], top: int, batch_size: int) -> list[Prediction]:
    net, task = network(model)
    if task.labelled:
        return task.decode(_outputs(model, inputs, batch_size), top)
    if task.autoregressive:
        return list(map(Prediction, model.generate(list(inputs), batch_size=batch_size)))
    how, parts = preprocessing(model), batches(inputs, batch_size)
    return [found for part in parts for found in generation.fill_mask(net, model.backbone, part, how, top)]


def _embeddings(model: Predictor, inputs: Sequence[Any], batch_size: int, stages: Sequence[StageOutput]) -> Tensor:
    examples = prepare.unlabelled(inputs)
    data = LabelledDataset(prepare.prepare(examples, preprocessing(model)).inputs)
    set_memory_format(model.backbone.module)
    features = inference.extract_features(
        model.backbone.module, data, reads="pooled", precision="fp32", stages=stages, batch_size=batch_size
    )
    found: Tensor = features.values
    return found


def _joined(parts: Sequence[Any]) -> Any:
    """Join the outputs of chunks: tensors (N, …), or lists."""
    return torch.cat(list(parts)) if isinstance(parts[0], Tensor) else [row for part in parts for row in part]


def _check_not_truncated(texts: Sequence[Any], outputs: Sequence[Tensor]) -> None:
    """Raise DataError for a text with more words than fit into the input: tags for some of them would mislead."""
    for words, tags in zip(texts, outputs, strict=True):
        if len(words) != len(tags):
            what = f"a text of {len(words)} words is too long for this model, which read {len(tags)}"
            raise DataError(what, fix="split it into sentences")
