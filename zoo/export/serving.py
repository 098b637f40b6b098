"""app.py, which serves an export as a web page (gradio) or an HTTP API (litserve), and requirements.txt."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from zoo.errors import ExportError
from zoo.export.runner import TEMPLATES
from zoo.export.source import Source
from zoo.plugin import ImageInput

TASKS = ("classify", "multilabel", "regress")
RETURNED = {"softmax": "the probability of each label", "sigmoid": "the probability of each label"}
ADDRESS = "http://127.0.0.1:8000/predict"


def check(form: str, source: Source) -> None:
    """Raise ExportError for a task that has no page."""
    if source.task.name not in TASKS:
        what = f"{form} serves answers with a value for each label, and a {source.task.name} model has none"
        raise ExportError(what, fix="--to onnx, and call predict of its run.py")


def write(folder: Path, source: Source, form: str) -> None:
    """Write app.py, which imports `predict` of run.py, and the packages it takes, at least of the versions here."""
    text = (TEMPLATES / f"{form}.py.txt").read_text(encoding="utf-8")
    for name, value in _parts(source).items():
        text = text.replace(f"{{{name}}}", value)
    (folder / "app.py").write_text(text, encoding="utf-8")
    reader = "pillow" if _is_image(source) else "tokenizers"
    packages = sorted((form, "numpy", "onnxruntime", reader))
    lines = (f"{name}>={metadata.version(name)}\n" for name in packages)
    (folder / "requirements.txt").write_text("".join(lines), encoding="utf-8")


def _is_image(source: Source) -> bool:
    return isinstance(source.how.input, ImageInput)


def _parts(source: Source) -> dict[str, str]:
    """Return the code of each place of the templates."""
    returned = RETURNED.get(source.activation, "the value of each number")
    outputs = 'gradio.JSON(label="Answer")' if source.task.name == "regress" else 'gradio.Label(label="Answer")'
    common = {"returned": returned, "outputs": outputs, "title": repr(source.entry.name)}
    if _is_image(source):
        inputs = 'gradio.Image(type="filepath", image_mode=None, label="Image")'
        curl = f"curl -F image=@photo.jpg {ADDRESS}"
        return (
            common
            | {"arguments": "image", "item": "image", "inputs": inputs, "given": "request"}
            | {"decoded": 'request["image"].file', "curl": curl}
        )
    if source.pairs:
        inputs = '[gradio.Textbox(label="First text"), gradio.Textbox(label="Second text")]'
        body = '{"first": "a text", "second": "another"}'
        return (
            common
            | {"arguments": "first, second", "item": "(first, second)", "inputs": inputs}
            | {"given": "*request", "decoded": 'request["first"], request["second"]', "curl": _json(body)}
        )
    return (
        common
        | {"arguments": "text", "item": "text", "inputs": 'gradio.Textbox(label="Text")'}
        | {"given": "request", "decoded": 'request["text"]', "curl": _json('{"text": "a text"}')}
    )


def _json(body: str) -> str:
    return f"curl -H 'content-type: application/json' -d '{body}' {ADDRESS}"
