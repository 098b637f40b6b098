"""zoo.export: folders of other libraries give the same answers, and a wrong one is never kept."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pictures
import pytest
import tiny
import torch
import transformers
import words
from click.testing import CliRunner
from PIL import Image, ImageOps

import zoo
from zoo.cli import main
from zoo.data import prepare
from zoo.errors import ExportError
from zoo.export import items, library, verify
from zoo.export import source as sources
from zoo.export.runner import TEMPLATES
from zoo.export.source import Source
from zoo.model import exporting
from zoo.plugin import ImageInput

CLS = {"1_Pooling/config.json": b'{"pooling_mode_cls_token": true}'}
TEXTS = ["a great film", "the plot was dull and the cast poor", "lovely"]
WRONG_GRAPH = """
import torch
from zoo.plugin import Backbone, Features, Plugin

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, images):
        pooled = self.conv(images).relu().mean((2, 3))
        return Features(pooled.flip(1) if torch.compiler.is_exporting() else pooled)

class Fake(Plugin):
    api = 1

    def build(self, entry, files):
        return Backbone(Net(), 4, entry.input, (("conv",),))

plugin = Fake()
"""


def fitted(serve, kind: str, data: list, pooled: dict[str, bytes] | None = None, **fields: object) -> Source:
    """Return a tiny transformers model after one step, as it is exported."""
    serve(net={**tiny.repository(kind), **(pooled or {})})
    fields = {"strategy": "probe", "valid": 0, "steps": 1, "quiet": True, "head_stages": 0} | fields
    return with_random_head(exporting.source(zoo.load("hf/tiny/net", "cpu").finetune(data, **fields)))


def with_random_head(source: Source) -> Source:
    """Return a model whose answers depend on all features: a head after one step is nearly zero."""
    if source.task.labelled:
        head = source.network.head.weight
        head.normal_(std=head.shape[1] ** -0.5, generator=torch.Generator().manual_seed(0))
    return source


def opened(source: Source, folder: Path, form: str = "transformers"):
    """Write a folder and open it with the class of transformers that it names."""
    found = library.write(folder, source, form)
    model = getattr(transformers, found.opens).from_pretrained(folder, dtype="float32").eval()
    return model, found


def outputs(source: Source, model, names: tuple[str, ...], text: object):
    """Return the outputs of a network, and those of the class of transformers."""
    inputs, _ = sources.prepared(source, [text])
    with torch.inference_mode():
        return source.network(inputs), model(**{name: inputs[name] for name in names}).logits


@pytest.mark.parametrize(
    ("kind", "pooled"), [("bert", CLS), ("roberta", CLS), ("albert", CLS), ("gpt2", {}), ("gpt_neox", {})]
)
def test_text_classifiers_open_in_transformers(serve, tmp_path, kind, pooled):
    source = fitted(serve, kind, words.reviews(12), pooled)
    model, found = opened(source, tmp_path)
    for text in TEXTS:
        expected, logits = outputs(source, model, found.inputs, text)
        torch.testing.assert_close(logits.softmax(1), expected.softmax(1), atol=1e-5, rtol=0)
    assert model.config.id2label == {0: "bad", 1: "good"}


@pytest.mark.parametrize(
    ("task", "data"),
    [
        ("regress", [(text, float(i % 5) * 100) for i, (text, _) in enumerate(words.reviews(12))]),
        ("multilabel", [(text, ["x", "y"][: i % 3]) for i, (text, _) in enumerate(words.reviews(12))]),
    ],
)
def test_numbers_and_label_sets_open_in_transformers(serve, tmp_path, task, data):
    source = fitted(serve, "bert", data, CLS, task=task)
    model, found = opened(source, tmp_path)
    expected, logits = outputs(source, model, found.inputs, TEXTS[1])
    mean, std = source.unit
    torch.testing.assert_close(logits, expected * std + mean, atol=1e-3, rtol=0)


def test_tags_open_in_transformers(serve, tmp_path):
    data = [
        (text.split(), ["A" if word in words.GOOD else "O" for word in text.split()]) for text, _ in words.reviews(9)
    ]
    source = fitted(serve, "bert", data)
    model, found = opened(source, tmp_path)
    expected, logits = outputs(source, model, found.inputs, TEXTS[1].split())
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "task"), [("bert", "masked-lm"), ("gpt2", "causal-lm")])
def test_language_models_open_in_transformers(serve, tmp_path, kind, task):
    source = fitted(serve, kind, [text for text, _ in words.reviews(12)], task=task, strategy="full")
    model, found = opened(source, tmp_path)
    expected, logits = outputs(source, model, found.inputs, TEXTS[1])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["vit", "resnet", "dinov2", "swin"])
def test_images_open_in_transformers(serve, tmp_path, kind):
    source = fitted(serve, kind, pictures.pairs(4))
    model, _ = opened(source, tmp_path)
    size = source.how.input.size
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(model(images).logits, source.network(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("bert", "has no head on the mean of the tokens"), ("llama", "no bias for its 2 outputs, and .* no LayerNorm")],
)
def test_heads_that_transformers_lacks_name_another_format(serve, tmp_path, kind, message):
    source = fitted(serve, kind, words.reviews(12))
    with pytest.raises(ExportError, match=rf"{message}(.|\n)*fix: --to sentence-transformers, onnx or torch-export"):
        library.write(tmp_path, source, "transformers")


def test_a_mean_is_a_sentence_transformers_folder(serve, tmp_path):
    source = fitted(serve, "bert", words.reviews(12))
    base, _ = transformers.AutoModel, library.write(tmp_path, source, "sentence-transformers")
    model = base.from_pretrained(tmp_path).eval()
    inputs, _ = sources.prepared(source, [TEXTS[1]])
    with torch.inference_mode():
        features = source.backbone.module(inputs)
        torch.testing.assert_close(model(**inputs).last_hidden_state, features.tokens, atol=1e-5, rtol=0)
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [part["type"].rpartition(".")[2] for part in modules] == ["Transformer", "Pooling", "Dense"]
    assert json.loads((tmp_path / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"] is True


@pytest.mark.parametrize("arch", ["test_vit", "test_resnet", "test_efficientnet"])
def test_timm_opens_its_own_models(isolated, tmp_path, arch):
    import timm

    scale = "mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5]"
    row = f'["tiny/{arch}"]\nplugin = "timm"\nmodality = "image"\noptions = {{ arch = "{arch}" }}\n'
    (isolated / "zoo.toml").write_text(f"{row}input = {{ size = 160, {scale} }}\n")
    model = zoo.load(f"tiny/{arch}", "cpu").finetune(pictures.pairs(2), strategy="scratch", steps=1, valid=0)
    source = exporting.source(model)
    library.write(tmp_path, source, "timm")
    net = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        torch.testing.assert_close(net(images), source.network(images), atol=1e-5, rtol=0)
    assert net.pretrained_cfg["label_names"] == ["blue", "green", "red"]
    assert net.pretrained_cfg["input_size"] == (3, 160, 160)


def test_export_command_runs_without_zoo(isolated, pretrained, monkeypatch, capsys):
    pictures.folder(isolated / "photos", 3)
    out = isolated / "exported"
    arguments = ["export", str(pretrained), "--to", "torch-export", "--out", str(out), "--data", "photos", "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["format"] == "torch-export"
    assert found["verified"]["items"] == found["verified"]["top1_equal"] == 9
    assert found["verified"]["max_difference"] <= verify.TOLERANCE
    kept = json.loads((out / "verified.json").read_text())
    assert kept["libraries"].keys() == {"torch"}
    assert {path.name for path in out.iterdir()} == {"model.json", "model.pt2", "run.py", "verified.json"}
    photo = "photos/red/012.png" if Path("photos/red/012.png").exists() else str(next(Path("photos/red").iterdir()))
    monkeypatch.setattr(sys, "argv", ["run.py", photo])
    runpy.run_path(str(out / "run.py"), run_name="__main__")
    assert capsys.readouterr().out.split("\t")[1] == zoo.load(pretrained, "cpu").predict(photo).label


@pytest.mark.real
def test_a_wrong_graph_is_not_kept(distribution, isolated):
    row = '["fake/net"]\nmodality = "image"\ninput = { size = 8, mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }\n'
    distribution("fake", WRONG_GRAPH, row)
    model = zoo.load("fake/net", "cpu").finetune(pictures.pairs(4), strategy="scratch", steps=5, valid=0, lr=0.1)
    with pytest.raises(ExportError, match=r"run\.py answers '000\.png' with a difference of \d.*\(limit 1e-04\)"):
        model.export("torch-export", "out")
    assert {path.name for path in isolated.iterdir()} == set()


@pytest.mark.real
@pytest.mark.parametrize("form", ["onnx", "torch-export"])
@pytest.mark.parametrize(("kind", "data"), [("bert", words.reviews(12)), ("vit", pictures.pairs(6))])
def test_a_graph_contains_a_head_on_stages(serve, isolated, form, kind, data):
    serve(net=tiny.repository(kind))
    model = zoo.load("hf/tiny/net", "cpu").finetune(data, strategy="probe", valid=0, head_stages=2)
    verified = model.export(form, "out", data)
    assert verified.top1_equal == verified.items
    assert verified.max_difference < 1e-5


@pytest.mark.parametrize(
    ("task", "labels"),
    [("multilabel", lambda i: ["x", "y"][: i % 3]), ("regress", lambda i: float(i % 5)), ("tag", lambda i: None)],
)
def test_a_wrong_answer_is_named_for_every_task(serve, task, labels):
    data = [(text, labels(i)) for i, (text, _) in enumerate(words.reviews(12))]
    if task == "tag":
        data = [(text.split(), ["A", *["O"] * (len(text.split()) - 1)]) for text, _ in data]
    source = fitted(serve, "bert", data, task=task)
    given = TEXTS[1].split() if task == "tag" else TEXTS[1]
    expected = sources.answers(source, [given])
    report = {"ms": {"run": 1.0}, "libraries": {}}
    right = verify.verify(source, "onnx", expected, ({"run.0": expected[0]}, report), [given])
    assert (right.top1_equal, right.max_difference) == (1, 0)
    wrong = {"run.0": expected[0], "app.0": expected[0] + 2 * source.unit[1]}
    with pytest.raises(
        ExportError, match=r"is not kept: app\.py answers .*the.* with a difference of 2\.0e\+00 \(limit"
    ):
        verify.verify(source, "onnx", expected, (wrong, report), [given])
    with pytest.raises(ExportError, match=r"onnx, .*the.*: an answer of shape .*\nfix: choose another format"):
        verify.verify(source, "onnx", expected, ({"run.0": expected[0][:0]}, report), [given])


def test_tensors_are_compared_bit_by_bit(isolated, pretrained):
    model = zoo.load(pretrained, "cpu")
    verified = model.export("safetensors", "plain")
    assert verified.items == len(model.backbone.module.state_dict()) + 2
    described = json.loads(Path("plain/model.json").read_text())
    assert described["labels"] == ["blue", "green", "red"]
    assert described["activation"] == "softmax"


def test_errors_name_a_format_that_works(isolated, pretrained, monkeypatch):
    model = zoo.load(pretrained, "cpu")
    with pytest.raises(ExportError, match=r"'tflite' is not an export format; known: timm, .*\nfix: --to timm"):
        model.export("tflite", "out")
    with pytest.raises(ExportError, match=r"timm has no resnet14 with width\nfix: --to onnx or torch-export"):
        model.export("timm", "out")
    with pytest.raises(ExportError, match=r"'native', which does not export to sentence-transformers\nfix: --to onnx"):
        model.export("sentence-transformers", "out")
    monkeypatch.setattr("zoo.export.formats.find_spec", lambda name: None)
    with pytest.raises(
        ExportError, match=r"takes onnx, .*, not installed here\nfix: pip install 'backbone-zoo\[onnx\]'"
    ):
        model.export("onnx", "out")
    monkeypatch.undo()
    assert not Path("out").exists()


def test_a_head_on_more_features_names_a_strategy(pretrained):
    source = exporting.source(zoo.load(pretrained, "cpu"))
    source.network.head = torch.nn.Sequential(torch.nn.Linear(16, 3))
    with pytest.raises(ExportError, match=r"reads more than the last features.*\nfix: train with head_stages=0"):
        sources.answer_head(source)


def test_random_items_are_seeded_and_readable(serve, pretrained, tmp_path):
    source = exporting.source(zoo.load(pretrained, "cpu"))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (items.chosen(source, None, tmp_path / name) for name in ("a", "b"))
    assert len(first) == items.COUNT
    assert all(Path(one).read_bytes() == Path(two).read_bytes() for one, two in zip(first, second, strict=True))
    texts = fitted(serve, "bert", words.reviews(8), max_length=16)
    lengths = [sources.prepared(texts, [text])[0]["input_ids"].shape[1] for text in items.chosen(texts, None, tmp_path)]
    assert max(lengths) == 16  # truncated
    pairs = items.chosen(replace(texts, pairs=True), None, tmp_path)
    assert all(len(pair) == 2 for pair in pairs)


def read_alike(path: Path) -> bool:
    """Return whether run.py reads of an image file what zoo reads."""
    spec = ImageInput(48, (0.0,) * 3, (1.0,) * 3, "bicubic", 0.875)
    values = {"size": spec.size, "crop": spec.crop, "interpolation": spec.interpolation, "channels": 3}
    names = {"MODEL": values, "Image": Image, "ImageOps": ImageOps, "np": np}
    exec((TEMPLATES / "images.py.txt").read_text(), names)
    how = prepare.Preprocessing(spec, cache=False)
    found = prepare.prepare(prepare.unlabelled([path]), how).inputs.batch(torch.tensor([0]))[0]
    return np.array_equal(names["pixels"](path), found.numpy())


@pytest.mark.parametrize("size", [(30, 125), (400, 31), (33, 47), (97, 64), (64, 64)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_run_py_reads_images_as_zoo_does(tmp_path, size, mode):
    noise = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 4), np.uint8)
    Image.fromarray(noise).convert(mode).save(tmp_path / "image.png")
    assert read_alike(tmp_path / "image.png")


@pytest.mark.parametrize(("mode", "top"), [("I;16", 40_000), ("I;16", 200), ("I", 90_000), ("F", 1.0), ("F", 255.0)])
def test_run_py_scales_deep_grey_as_zoo_does(tmp_path, mode, top):
    kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    Image.fromarray(np.random.default_rng(0).uniform(0, top, (64, 48)).astype(kind)).save(tmp_path / "image.tiff")
    assert Image.open(tmp_path / "image.tiff").mode == mode
    assert read_alike(tmp_path / "image.tiff")
