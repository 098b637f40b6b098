"""End to end with a row of the catalogue: name -> download from the Hub -> verified file -> strict load -> features."""

from __future__ import annotations

import json

import pictures
import pytest
import torch
import torchvision
from click.testing import CliRunner
from hub import Hub
from safetensors.torch import save

import zoo
from zoo.cli import main
from zoo.errors import WeightsError

NAME, REPO = "native/resnet18.tv_in1k", "timm/resnet18.tv_in1k"


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18().eval()


def test_a_catalogue_row_gives_the_features_of_torchvision(theirs, monkeypatch):
    with Hub({REPO: {"model.safetensors": save(theirs.state_dict())}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        model = zoo.load(NAME, "cpu")
        images = torch.randn(2, 3, 64, 64)
        with torch.inference_mode():
            trunk = torch.nn.Sequential(*list(theirs.children())[:-1], torch.nn.Flatten())
            difference = (model.backbone.module(images).pooled - trunk(images)).abs().max()
        assert difference < 1e-5
        requests = len(hub.requests)
        zoo.load(NAME, "cpu")
        assert len(hub.requests) == requests


def test_a_fine_tuned_model_records_the_provenance_of_its_backbone(theirs, monkeypatch, tmp_path):
    with Hub({REPO: {"model.safetensors": save(theirs.state_dict())}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        zoo.load(NAME, "cpu").finetune(pictures.pairs(2), strategy="probe", valid=0, out=tmp_path / "model")
    provenance = json.loads((tmp_path / "model" / "zoo.json").read_text())["provenance"]
    assert provenance["backbone"] == NAME
    assert provenance["source"] == "hf://timm/resnet18.tv_in1k"
    assert len(provenance["commit"]) == 40
    assert len(provenance["files"][0]["sha256"]) == 64


@pytest.mark.parametrize(
    ("change", "message"), [("missing", "1 missing: layer4.1.bn2.bias"), ("extra", "1 unexpected: x")]
)
def test_missing_or_unexpected_keys_raise(theirs, monkeypatch, change, message):
    state = dict(theirs.state_dict())
    if change == "missing":
        del state["layer4.1.bn2.bias"]
    else:
        state["x"] = torch.zeros(1)
    with Hub({REPO: {"model.safetensors": save(state)}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with pytest.raises(WeightsError, match=message):
            zoo.load(NAME, "cpu")


def test_a_pulled_backbone_is_in_list_pulled(theirs, monkeypatch):
    with Hub({REPO: {"model.safetensors": save(theirs.state_dict())}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert CliRunner().invoke(main, ["pull", NAME]).exit_code == 0
    listed = CliRunner().invoke(main, ["list", "--pulled"]).output
    assert NAME in listed
    assert "1 of" in listed
