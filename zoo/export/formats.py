"""Names of the export formats, and what each needs."""

from __future__ import annotations

from importlib.util import find_spec

from zoo.errors import ExportError

LIBRARIES = ("timm", "transformers", "sentence-transformers")
"""Folders that another library opens; a plugin writes them."""
GRAPHS = ("onnx", "torch-export")
"""The whole computation as a graph, normalisation and probabilities included."""
SERVED = ("gradio", "litserve")
"""The graph in ONNX, with a program that serves it."""
FORMATS = (*LIBRARIES, *GRAPHS, *SERVED, "safetensors")
QUANTIZED = ("int8",)
ONNX = ("onnx", "onnxscript", "onnxruntime")
NEEDS = {
    "onnx": ONNX,
    "gradio": ("gradio", *ONNX),
    "litserve": ("litserve", *ONNX),
    "sentence-transformers": ("sentence_transformers",),
}
"""Modules of extras that writing or checking a format takes."""


def check(name: str) -> None:
    """Raise ExportError unless `name` is a format whose libraries are installed."""
    if name not in FORMATS:
        raise ExportError(f"{name!r} is not an export format; known: {', '.join(FORMATS)}", fix=f"--to {FORMATS[0]}")
    missing = [module for module in NEEDS.get(name, ()) if find_spec(module) is None]
    if missing:
        what = f"exporting to {name} takes {', '.join(missing)}, not installed here"
        raise ExportError(what, fix=f"pip install 'backbone-zoo[{name}]'")


def inner(name: str) -> str:
    """Return the format that run.py of a folder reads: served folders hold ONNX."""
    return "onnx" if name in SERVED else name
