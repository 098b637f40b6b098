"""zoo.export.quantize: int8 is measured on labels, against the float export, and refused where it costs too much."""

from __future__ import annotations

import json
from pathlib import Path

import pictures
import pytest
import tiny
import torch
import words
from commands import run

import zoo
from zoo.data.examples import Examples
from zoo.errors import ExportError, ZooError
from zoo.evidence import statistics
from zoo.export import quantize
from zoo.export.quantize import Quantization
from zoo.model import exporting
from zoo.tasks.intervals import paired_difference


@pytest.fixture(scope="module")
def colours(pretrained):
    return exporting.source(zoo.load(pretrained, "cpu"))


def rows(*labels: int) -> list[torch.Tensor]:
    return [torch.eye(3)[label] * 0.8 + 0.1 for label in labels]


def test_cost_is_the_paired_change_of_the_accuracy(colours):
    truths = ["blue", "green", "red", "red", "blue", "green"]
    ours, floats = rows(0, 1, 2, 0, 0, 0), rows(0, 1, 2, 2, 1, 1)
    found = quantize.cost(colours, truths, list(zip(ours, floats, strict=True)), {"run": 2.0, "float": 4.0})
    assert (found.metric, found.items, found.same_answer) == ("accuracy", 6, 3)
    assert (found.score, found.score_float) == (4 / 6, 5 / 6)
    expected = statistics.mean_difference([1, 1, 1, 0, 1, 0], [1, 1, 1, 1, 0, 1], is_share=True)
    assert (found.change, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))
    assert str(found).startswith("accuracy 0.667, float 0.833: -0.167 [")
    assert str(found).endswith("on 6 items, the same answer on 3; 2.0 ms an item, float 4.0")


@pytest.mark.parametrize("is_share", [True, False])
def test_paired_difference_is_that_of_the_evidence(is_share):
    a, b = torch.rand(2, 20, generator=torch.Generator().manual_seed(0)).double()
    expected = statistics.mean_difference(a, b, is_share=is_share)
    found = paired_difference(a - b, is_share=is_share)
    assert found == pytest.approx((expected.mean, expected.low, expected.high))


def test_errors_of_numbers_count_in_standard_deviations(serve):
    serve(net=tiny.repository("bert"))
    data = [(text, float(i % 5) * 100) for i, (text, _) in enumerate(words.reviews(12))]
    model = zoo.load("hf/tiny/net", "cpu").finetune(data, strategy="probe", steps=1, valid=0, quiet=True, head_stages=0)
    source = exporting.source(model)
    std = float(source.unit[1])
    exact, off = [torch.tensor([100.0])] * 4, [torch.tensor([100.0 + std])] * 4
    found = quantize.cost(source, [100.0] * 4, list(zip(off, exact, strict=True)), {"run": 1.0, "float": 1.0})
    assert (found.metric, found.score_float) == ("mae", pytest.approx(0, abs=1e-4))
    assert (found.score, found.change) == (pytest.approx(std), pytest.approx(-1))
    assert "-1.000 [-1.000, -1.000] standard deviations on 4 items" in str(found)


def test_what_the_model_held_out_is_measured(isolated, pretrained):
    folder = pictures.folder(isolated / "photos", 8)
    model = zoo.load(pictures.catalogue(isolated), "cpu")
    model.finetune(folder, strategy="scratch", steps=1, valid=0.25, quiet=True, seed=3)
    calibration, measured = exporting._parts(model, folder)
    assert (len(calibration), len(measured)) == (18, 6)
    assert set(map(str, calibration.inputs)).isdisjoint(map(str, measured.inputs))
    from zoo.data import split
    from zoo.data.reading import read

    held = split.held_out(read(folder)[0], 0.25, stratify=True, seed=3)[1]
    assert list(measured.inputs) == [read(folder)[0].inputs[i] for i in held]
    other = pictures.folder(isolated / "others", 4, seed=9)
    assert list(map(len, exporting._parts(model, other))) == [6, 6]


def test_int8_without_labels_or_of_another_format_is_refused(isolated, pretrained, colours):
    said = run("export", pretrained, "--to", "onnx", "--quantize", "int8", code=1)
    assert "int8 is calibrated and measured on labelled data like yours" in said
    assert "fix: --data FOLDER" in said
    photos = pictures.folder(isolated / "photos", 4)
    said = run("export", pretrained, "--to", "torch-export", "--quantize", "int8", "--data", photos, code=1)
    assert "torch-export is not written in int8\nfix: --to onnx --quantize int8" in said
    empty = Examples([], [], "")
    with pytest.raises(ExportError, match="quantize='int4' is not known\nfix: --quantize int8"):
        quantize.check("onnx", colours, Quantization("int4", empty, empty))
    assert {path.name for path in isolated.iterdir()} == {"photos"}


@pytest.mark.real
def test_an_image_model_is_measured_in_int8(isolated, pretrained):
    photos = pictures.folder(isolated / "photos", 12, seed=5)
    arguments = ("--to", "onnx", "--quantize", "int8", "--data", photos, "--max-loss", 0.5, "--json")
    found = json.loads(run("export", pretrained, *arguments))["verified"]
    assert found["int8"]["items"] == 18
    assert found["int8"]["score_float"] == 1.0
    kept = json.loads(Path(f"{pretrained}-onnx-int8", "verified.json").read_text())
    assert kept["int8"] == found["int8"]
    with pytest.raises(ZooError, match=r"it loses more than -1: accuracy .*\n?.*fix: .*--max-loss"):
        zoo.load(pretrained, "cpu").export("onnx", "out", photos, quantize="int8", max_loss=-1)
    assert not Path("out").exists()


@pytest.mark.real
@pytest.mark.parametrize("task", ["classify", "multilabel", "regress", "tag"])
def test_text_models_are_measured_in_int8(serve, isolated, task):
    import onnx

    serve(net=tiny.repository("bert"))
    labels = {
        "classify": lambda i, text, label: label,
        "multilabel": lambda i, text, label: ["x", "y"][: i % 3],
        "regress": lambda i, text, label: float(i % 5),
        "tag": lambda i, text, label: ["A" if word in words.GOOD else "O" for word in text.split()],
    }[task]
    data = [
        (text.split() if task == "tag" else text, labels(i, text, label))
        for i, (text, label) in enumerate(words.reviews(12))
    ]
    model = zoo.load("hf/tiny/net", "cpu").finetune(data, strategy="probe", valid=0.5, task=task, quiet=True)
    verified = model.export("onnx", "out", data, quantize="int8", max_loss=1.0)
    assert verified.cost.items == len(data) // 2
    assert verified.cost.score_float == pytest.approx(verified.cost.score, abs=1)
    nodes = {node.op_type for node in onnx.load("out/model.onnx").graph.node}
    assert "MatMulInteger" in nodes
