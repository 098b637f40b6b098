"""Exports of the graph: a torch.export program (model.pt2), and ONNX (model.onnx)."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from zoo.console import printable
from zoo.errors import ExportError
from zoo.export.graph import IMAGES, TOKENS, Graph
from zoo.export.runner import MODEL
from zoo.export.source import Source
from zoo.plugin import ImageInput

ONNX = "model.onnx"
OPSET = 20
OUTPUT = "answers"


def write(folder: Path, source: Source, form: str, inputs: tuple[Tensor, ...]) -> None:
    """Write the graph for any batch size, of texts for any length, with model.json in its metadata.

    Raises ExportError if the network cannot be traced.
    """
    graph, described = Graph(source).eval(), (folder / MODEL).read_text(encoding="utf-8")
    names = [IMAGES] if isinstance(source.how.input, ImageInput) else list(TOKENS[: len(inputs)])
    batch, length = Dim("batch"), Dim("length", max=max(2, source.how.length)) if len(inputs) > 1 else None
    shapes = tuple({0: batch} if length is None else {0: batch, 1: length} for _ in inputs)
    with _failures_named(form, source), _no_noise(), torch.no_grad(), AttentionOf4Axes():
        program = torch.export.export(graph, inputs, dynamic_shapes={"inputs": shapes}, strict=False)
        if form == "torch-export":
            torch.export.save(program, folder / "model.pt2", extra_files={MODEL: described})
        else:
            _to_onnx(program, folder, names, described)


def _to_onnx(program: torch.export.ExportedProgram, folder: Path, names: list[str], described: str) -> None:
    import onnx

    made = torch.onnx.export(
        program, (), input_names=names, output_names=[OUTPUT], opset_version=OPSET, dynamo=True, verbose=False
    )
    assert made is not None
    made.save(str(folder / ONNX))
    model = onnx.load(str(folder / ONNX), load_external_data=False)
    entry = model.metadata_props.add()
    entry.key, entry.value = "model.json", json.dumps(json.loads(described))
    onnx.save(model, str(folder / ONNX))
    onnx.checker.check_model(str(folder / ONNX))


class AttentionOf4Axes(TorchFunctionMode):
    """Within the block, attention over windows (B, W, H, T, D) is computed as (B W, H, T, D).

    The ONNX exporter asserts "only 4D query, key, and value are supported" (torch 2.14).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch."""
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or len(args) != 3 or args[0].ndim < 5 or "attn_mask" in kwargs:
            return func(*args, **kwargs)
        lead = args[0].shape[:-3]
        found = func(*(part.flatten(0, -4) for part in args), **kwargs)
        return found.unflatten(0, lead)


@contextmanager
def _failures_named(form: str, source: Source) -> Iterator[None]:
    try:
        yield
    except ExportError:
        raise
    except Exception as error:  # exporters raise nearly all types
        said = printable(" ".join(str(error).split()) or type(error).__name__, 300)
        what = f"torch cannot trace {source.entry.name} for {form}: {type(error).__name__}: {said}"
        raise ExportError(
            what, fix="--to safetensors, or to the library of the backbone: timm, transformers"
        ) from error


@contextmanager
def _no_noise() -> Iterator[None]:
    """Silence what exporters print and log."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
