"""Export of a Model: what is exported, and the inputs it is checked on."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from zoo.export.export import export as write
from zoo.export.source import Source, copied
from zoo.export.verify import Verified
from zoo.model import answers
from zoo.model.inputs import as_batch


class Exportable(answers.Predictor, Protocol):
    """What is read of a Model here."""

    files: dict[str, Path]


def export(model: Exportable, form: str, out: Path, data: object = None) -> Verified:
    """Export a model, checked on `data` or seeded random inputs."""
    inputs = None if data is None else list(as_batch(data, answers.reading(model))[0])
    return write(source(model), form, out, inputs)


def source(model: Exportable) -> Source:
    """Return the network of a model with its preprocessing, copied to the CPU."""
    network, task = answers.network(model)
    pairs = model.summary is not None and model.summary.pairs
    how = answers.preprocessing(model)
    return Source(model.entry, model.backbone, copied(network), task, how, model.files, pairs)
