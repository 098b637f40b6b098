"""Export of a Model: what is exported, and the inputs it is checked on."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from zoo.data.examples import Columns, Examples
from zoo.data.fingerprint import fingerprint
from zoo.data.reading import read, read_one
from zoo.data.split import held_out
from zoo.errors import ExportError
from zoo.export import items
from zoo.export.export import export as write
from zoo.export.quantize import CALIBRATION, MAX_LOSS, MEASURED, Quantization
from zoo.export.source import Source, copied
from zoo.export.verify import Verified
from zoo.finetune.setup import AS_ONE
from zoo.model import answers
from zoo.model.inputs import as_batch


class Exportable(answers.Predictor, Protocol):
    """What is read of a Model here."""

    files: dict[str, Path]
    training: dict[str, Any]


def export(
    model: Exportable,
    form: str,
    out: Path,
    data: object = None,
    quantize: str | None = None,
    max_loss: float | None = None,
) -> Verified:
    """Export a model, checked on `data` or seeded random inputs; quantised, measured on `data`, which has labels."""
    if quantize is not None:
        return write(source(model), form, out, None, _quantization(model, data, quantize, max_loss))
    inputs = None if data is None else list(as_batch(data, answers.reading(model))[0])
    return write(source(model), form, out, inputs)


def source(model: Exportable) -> Source:
    """Return the network of a model with its preprocessing, copied to the CPU."""
    network, task = answers.network(model)
    pairs = model.summary is not None and model.summary.pairs
    how = answers.preprocessing(model)
    return Source(model.entry, model.backbone, copied(network), task, how, model.files, pairs)


def _quantization(model: Exportable, data: object, kind: str, max_loss: float | None) -> Quantization:
    if data is None:
        what = f"{kind} is calibrated and measured on labelled data like yours, and none is given"
        raise ExportError(what, fix="--data FOLDER (or data=…); that of the fine-tuning will do")
    calibration, measured = _parts(model, data)
    chosen = (_sample(calibration, CALIBRATION), _sample(measured, MEASURED))
    return Quantization(kind, chosen[1], chosen[0], MAX_LOSS if max_loss is None else max_loss)


def _parts(model: Exportable, data: object) -> tuple[Examples, Examples]:
    """Return examples to calibrate on, and others to measure on.

    The latter are the test or validation part; of the data that the model was trained on, what it held out; of other
    data a half.
    """
    _, task = answers.network(model)
    known = model.summary.columns if model.summary else Columns()
    request, seed = model.training.get("request", {}), model.recipe.seed if model.recipe else 0
    columns = replace(known, task=task.name, groups=request.get("groups"))
    train, _ = read(data, modality=model.entry.modality, columns=columns)
    measured = read_one(data, modality=model.entry.modality, columns=columns)
    task.check(measured.inputs, measured.labels)
    if fingerprint(train) != fingerprint(measured):
        return train, measured
    share, own = 0.5, model.summary is not None and model.summary.fingerprint == fingerprint(train)
    if own and isinstance(request.get("valid"), int | float) and request["valid"] > 0 and request.get("test") is None:
        share = float(request["valid"])
    whole = replace(train, labels=AS_ONE[task.name](train.labels)) if task.name in AS_ONE else train
    kept, held = held_out(whole, share, stratify=task.single_label, seed=seed)
    return train.at(kept), train.at(held)


def _sample(examples: Examples, most: int) -> Examples:
    """Return a seeded sample of at most so many examples, in their order."""
    count = len(examples)
    return examples.at(sorted(random.Random(items.SEED).sample(range(count), min(most, count))))
