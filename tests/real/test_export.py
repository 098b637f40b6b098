"""EfficientNet-Lite0 and MiniLM, fine-tuned on real data, open in every format that can express them."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import export_walk
import pytest
from fresh_processes import Fresh

import zoo
from zoo.errors import ExportError

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import real_data

pytestmark = pytest.mark.real
NAMES = {"photos": "timm/tf_efficientnet_lite0.in1k", "mails": "hf/sentence-transformers/all-MiniLM-L6-v2"}
FORMATS = {
    "photos": ("timm", "transformers", "onnx", "torch-export", "safetensors"),
    "mails": ("sentence-transformers", "onnx", "torch-export", "safetensors"),
}


def data(name: str) -> list:
    if name == "mails":
        return real_data.mail_split()[0][:48]
    paths = [path for kind in ("bird", "insect", "vehicle") for path in sorted((real_data.photos() / kind).iterdir())]
    return [(str(path), path.parent.name) for path in random.Random(0).sample(paths, 48)]


@pytest.mark.parametrize("name", NAMES)
def test_every_format_answers_as_the_model(hub, tmp_path, monkeypatch, name):
    items = data(name)
    fields = {"strategy": "lp-ft", "steps": 4, "valid": 0.25, "head_stages": 0, "quiet": True}
    fields |= {"max_length": 64} if name == "mails" else {}
    model = zoo.load(NAMES[name], "cpu").finetune(items, **fields)
    with Fresh(str(tmp_path)) as fresh:
        monkeypatch.setattr("zoo.export.verify.subprocess", fresh)
        for form in FORMATS[name]:
            verified = model.export(form, tmp_path / form, items[:12])
            assert verified.items == verified.top1_equal > 0
            print(f"{name} {form} {verified.max_difference:.1e}")
        if name == "mails":
            with pytest.raises(ExportError, match="has no head on the mean of the tokens"):
                model.export("transformers", tmp_path / "refused", items[:2])
            return
        verified = model.export("onnx", tmp_path / "int8", items, quantize="int8", max_loss=0.5)
        assert 10 <= verified.cost.items == verified.top1_equal
        assert (tmp_path / "int8" / "model.onnx").stat().st_size < 0.4 * (
            tmp_path / "onnx" / "model.onnx"
        ).stat().st_size


def test_small_ones_of_the_walk_are_verified(tmp_path, monkeypatch):
    drawn = sorted(export_walk.names(100, 0), key=lambda entry: entry.params)[:3]
    with Fresh(str(tmp_path)) as fresh:
        monkeypatch.setattr("zoo.export.verify.subprocess", fresh)
        rows = list(export_walk.walk(drawn, set()))
    assert [row["form"] for row in rows] == ["onnx", "torch-export"] * 3
    assert [row for row in rows if "error" in row] == []
    assert all(row["spread"] > 0.1 for row in rows)
