"""Exports to a folder of another library, which the plugin of the backbone writes."""

from __future__ import annotations

from pathlib import Path

from zoo.catalogue import plugins
from zoo.errors import ExportError
from zoo.export import source as sources
from zoo.export.source import Source
from zoo.plugin import Exported
from zoo.weights import safetensors_file


def write(folder: Path, source: Source, form: str) -> Exported:
    """Write the files of a library; returns what the plugin says of them.

    Raises ExportError if the plugin does not write the format, or the library cannot express the network.
    """
    plugin = plugins.load(source.entry.plugin)
    export = getattr(plugin, "export", None)
    found: Exported | None = export(form, source.entry, sources.trained(source), source.files) if export else None
    if found is None:
        what = f"{source.entry.name} is a model of the plugin {source.entry.plugin!r}, which does not export to {form}"
        raise ExportError(what, fix="--to onnx, torch-export or safetensors")
    for path, text in found.files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    for path, state in found.weights.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        safetensors_file.write_state(folder / path, state, {"format": "pt"})  # transformers requires the key
    return found
