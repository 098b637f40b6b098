"""An ONNX export in int8, and what it costs: the score on labelled items against the float export, and the time."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data import prepare
from zoo.data.examples import Examples
from zoo.data.image_batches import Images
from zoo.errors import ExportError
from zoo.export import formats, graph
from zoo.export.source import Source, same_answer
from zoo.plugin import ImageInput
from zoo.tasks.intervals import paired_difference
from zoo.tasks.regress import Regress
from zoo.tasks.task import LOWER_IS_BETTER

MAX_LOSS = 0.02
"""Loss of the score above which int8 is refused; of errors of numbers, in standard deviations of the labels."""
CALIBRATION, MEASURED = 64, 500
"""Most items that ranges of activations are taken from, and most that the score is measured on."""
TEXT_OPERATORS = ("Gather", "Gemm", "MatMul")
"""Quantised operators of texts: layers and embeddings. Of images all that can be: an activation between layers that
stays in float has no tight range, and costs time (docs/log.md)."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """What is asked for: labelled items to measure on, others whose activations are read, and the most it may cost."""

    kind: str
    measured: Examples
    calibration: Examples
    max_loss: float = MAX_LOSS


@dataclass(frozen=True, slots=True)
class Cost:
    """What int8 costs on the same items: mean scores, the change int8 - float with its 95 % interval, and times.

    metric        the score of an item: accuracy, example_f1, text_accuracy, mae
    change        of the score; of errors of numbers in standard deviations of the labels, negative if they grow
    same_answer   items that both answer alike
    ms, ms_float  milliseconds an item, one at a time and in turn, decoding or tokenising included
    """

    metric: str
    items: int
    score: float
    score_float: float
    change: float
    low: float
    high: float
    same_answer: int
    ms: float
    ms_float: float

    def __str__(self) -> str:
        """Return one line."""
        unit = " standard deviations" if self.metric in LOWER_IS_BETTER else ""
        return (
            f"{self.metric} {self.score:.3f}, float {self.score_float:.3f}: {self.change:+.3f} "
            f"[{self.low:+.3f}, {self.high:+.3f}]{unit} on {self.items} items, the same answer on {self.same_answer}; "
            f"{self.ms:.1f} ms an item, float {self.ms_float:.1f}"
        )


def check(form: str, source: Source, quantization: Quantization) -> None:
    """Raise ExportError unless a model can be quantised in a format."""
    if form != "onnx":
        raise ExportError(f"{form} is not written in int8", fix="--to onnx --quantize int8")
    if quantization.kind not in formats.QUANTIZED:
        raise ExportError(f"quantize={quantization.kind!r} is not known", fix=f"--quantize {formats.QUANTIZED[0]}")
    if not source.task.labelled:
        what = f"what int8 costs is measured on labels, and a {source.task.name} model has none"
        raise ExportError(what, fix="--to onnx, and onnxruntime.quantization of your own")


def write(source: Source, floats: Path, target: Path, calibration: Sequence[Any]) -> None:
    """Write the int8 model of a float ONNX model.

    Texts have int8 weights, and activations whose range is taken from each batch (dynamic); images int8 weights by
    output channel, and fixed ranges of activations from the calibration items (static, QDQ nodes):
    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    from onnxruntime import quantization as ort

    is_image = isinstance(source.how.input, ImageInput)
    prepared = target.with_name("prepared.onnx")
    common: dict[str, Any] = {"weight_type": ort.QuantType.QInt8, "per_channel": True}
    with _quiet():
        ort.quant_pre_process(str(floats), str(prepared), skip_symbolic_shape=True)
        if is_image:
            reader = _Images(source, calibration)
            static = {"quant_format": ort.QuantFormat.QDQ, "activation_type": ort.QuantType.QUInt8}
            ort.quantize_static(str(prepared), str(target), reader, **static, **common)
        else:
            ort.quantize_dynamic(str(prepared), str(target), op_types_to_quantize=TEXT_OPERATORS, **common)
    prepared.unlink()


class _Images:
    """Calibration inputs, one after the other: a CalibrationDataReader of onnxruntime.quantization."""

    def __init__(self, source: Source, items: Sequence[Any]) -> None:
        spec = source.how.input
        assert isinstance(spec, ImageInput)
        found = prepare.prepare(prepare.unlabelled(items), source.how).inputs
        assert isinstance(found, Images)
        self.images = (found.batch(torch.tensor([i])) for i in range(len(found)))

    def get_next(self) -> dict[str, Any] | None:
        """Return the next input, None after the last."""
        image = next(self.images, None)
        return None if image is None else {graph.IMAGES: image.numpy()}


def cost(source: Source, labels: Sequence[Any], pairs: Sequence[tuple[Tensor, Tensor]], ms: dict[str, float]) -> Cost:
    """Return what int8 costs by the (int8, float) answers to the same items."""
    task, is_share = source.task, source.task.item_metric not in LOWER_IS_BETTER
    targets = task.targets(labels)
    if task.reads == "tokens":  # words that truncation leaves out have no answer
        targets = [truths[: len(answer)] for truths, (answer, _) in zip(targets, pairs, strict=True)]
    ours, floats = (task.item_scores(_outputs(source, list(side)), targets) for side in zip(*pairs, strict=True))
    change = ours - floats
    if isinstance(task, Regress):
        change = -change / float(torch.tensor(task.std).mean())
    mean, low, high = paired_difference(change, is_share=is_share)
    same = sum(same_answer(source, a, b) for a, b in pairs)
    return Cost(
        task.item_metric,
        len(pairs),
        float(ours.mean()),
        float(floats.mean()),
        mean,
        low,
        high,
        same,
        ms["run"],
        ms["float"],
    )


def _outputs(source: Source, answers: list[Tensor]) -> Any:
    """Return outputs of the head, up to a constant, from answers."""
    if source.takes_words:
        return answers
    rows = torch.stack(answers).double()  # (N, K)
    if source.activation == "sigmoid":
        return rows.logit()
    mean, std = source.unit
    return (rows - mean) / std if source.task.name == "regress" else rows


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
