"""zoo.export.serving: app.py of gradio and litserve answers as run.py does."""

from __future__ import annotations

import types
from dataclasses import replace

import numpy as np
import pytest
import tiny
import words

import zoo
from zoo.errors import ExportError
from zoo.export import serving
from zoo.model import exporting


class Recorder(types.ModuleType):
    """A library whose functions return what they were called with."""

    class LitAPI:
        pass

    def __getattr__(self, name):
        return lambda *arguments, **named: (name, arguments, named)


def app(folder, source, form, monkeypatch) -> dict:
    """Return the names of app.py, with a recorder of the library, and a run.py that answers with lengths."""
    monkeypatch.setattr("zoo.export.serving.metadata.version", lambda name: "9.8")
    serving.write(folder, source, form)
    run = types.ModuleType("run")
    run.MODEL = {"labels": [1, "good"]}
    run.predict = lambda items: [np.float32([len(items), len(items[0])])]
    monkeypatch.setitem(__import__("sys").modules, "run", run)
    monkeypatch.setitem(__import__("sys").modules, form, Recorder(form))
    names = {"__name__": "app"}
    exec(compile((folder / "app.py").read_text(), "app.py", "exec"), names)
    return names


@pytest.fixture(scope="module")
def images(pretrained):
    return exporting.source(zoo.load(pretrained, "cpu"))


@pytest.fixture
def texts(serve):
    serve(net=tiny.repository("bert"))
    model = zoo.load("hf/tiny/net", "cpu")
    return exporting.source(model.finetune(words.reviews(8), strategy="probe", steps=1, valid=0, quiet=True))


def test_gradio_page_takes_an_image_or_texts(tmp_path, monkeypatch, images, texts):
    page = app(tmp_path, images, "gradio", monkeypatch)
    assert page["answer"]("abc") == {"1": 1.0, "good": 3.0}
    _, (answer,), named = page["page"]
    assert answer is page["answer"]
    assert named["inputs"] == ("Image", (), {"type": "filepath", "image_mode": None, "label": "Image"})
    assert named["outputs"][0] == "Label"
    needs = ["gradio>=9.8", "numpy>=9.8", "onnxruntime>=9.8", "pillow>=9.8"]
    assert (tmp_path / "requirements.txt").read_text().split() == needs
    page = app(tmp_path, replace(texts, pairs=True), "gradio", monkeypatch)
    assert page["answer"]("a", "b") == {"1": 1.0, "good": 2.0}
    assert [box[2]["label"] for box in page["page"][2]["inputs"]] == ["First text", "Second text"]
    assert "tokenizers>=9.8" in (tmp_path / "requirements.txt").read_text()


def test_litserve_api_takes_a_file_or_json(tmp_path, monkeypatch, images, texts):
    def answer(source, request):
        api = app(tmp_path, source, "litserve", monkeypatch)["Api"]()
        api.setup("cpu")
        return api.encode_response(api.predict(api.decode_request(request)))

    assert answer(images, {"image": types.SimpleNamespace(file="abc")}) == {"1": 1.0, "good": 3.0}
    assert answer(texts, {"text": "four"}) == {"1": 1.0, "good": 4.0}
    assert answer(replace(texts, pairs=True), {"first": "a", "second": "b"}) == {"1": 1.0, "good": 2.0}


def test_a_language_model_is_not_served(serve, tmp_path):
    serve(net=tiny.repository("gpt2"))
    data = [text for text, _ in words.reviews(12)]
    model = zoo.load("hf/tiny/net", "cpu").finetune(
        data, task="causal-lm", strategy="full", steps=1, valid=0, quiet=True
    )
    with pytest.raises(ExportError, match="gradio serves answers with a value for each label, and a causal-lm model"):
        serving.check("gradio", exporting.source(model))
