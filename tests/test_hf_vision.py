"""zoo_hf, images: every family through the real Hub client, equal to what transformers' own classifier reads."""

from __future__ import annotations

import json
from pathlib import Path

import pictures
import pytest
import tiny
import torch
from hub import Hub

import zoo
from zoo import registry, testing

CLASSIFIED = [kind for kind in tiny.VISION if kind not in ("dinov3_vit", "siglip_vision_model", "clip_vision_model")]


@pytest.fixture
def serve(monkeypatch):
    """Return a function that serves repositories by name until the test ends."""
    hubs = []

    def start(**repos):
        hub = Hub({f"tiny/{name}": files for name, files in repos.items()}).__enter__()
        hubs.append(hub)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        return hub

    yield start
    for hub in hubs:
        hub.__exit__()


def images(entry, count=2):
    shape = (count, entry.input.channels, entry.input.size, entry.input.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", CLASSIFIED)
def test_pooled_features_are_what_the_familys_own_classifier_reads(kind, serve):
    serve(net=tiny.repository(kind))
    model = zoo.load("hf/tiny/net", "cpu")
    inputs = images(model.entry)
    whole = tiny.model(kind)
    head = getattr(whole, "classifier", None) or whole.head
    with torch.no_grad():
        pooled = model.backbone.module(inputs).pooled
        expected = whole(inputs).logits
        found = head(pooled[:, :, None, None] if kind in ("resnet", "regnet") else pooled)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["dinov3_vit", "siglip_vision_model", "clip_vision_model"])
def test_a_tower_gives_its_pooler_output(kind, serve):
    serve(net=tiny.repository(kind))
    model = zoo.load("hf/tiny/net", "cpu")
    with torch.no_grad():
        expected = tiny.model(kind)(images(model.entry)).pooler_output
        torch.testing.assert_close(model.backbone.module(images(model.entry)).pooled, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", tiny.VISION)
def test_a_family_keeps_the_contract(kind, serve):
    serve(net=tiny.repository(kind))
    zoo.pull("hf/tiny/net")
    testing.check_plugin("hf", ["hf/tiny/net"])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_image_half_of_an_image_and_text_model(kind, serve):
    from transformers import CONFIG_MAPPING, AutoModel

    text = tiny.WORDS | {"projection_dim": 16}
    config = CONFIG_MAPPING[kind](text_config=text, vision_config=tiny.PATCHES, projection_dim=16)
    torch.manual_seed(0)
    whole = AutoModel.from_config(config).eval()
    serve(net=tiny.files(whole, text=False))
    model = zoo.load("hf/tiny/net", "cpu")
    with torch.no_grad():
        expected = whole.vision_model(images(model.entry)).pooler_output
        torch.testing.assert_close(model.backbone.module(images(model.entry)).pooled, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"size": 48, "resample": 2}, (48, "bilinear", 1.0)),
        ({"size": {"height": 48, "width": 48}, "resample": 3}, (48, "bicubic", 1.0)),
        ({"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}}, (48, "bilinear", 0.75)),
        ({"size": {"shortest_edge": 64}, "crop_size": 48, "do_center_crop": False}, (64, "bilinear", 1.0)),
        ({"size": {"shortest_edge": 48}, "crop_pct": 0.75}, (48, "bilinear", 0.75)),
        ({}, (32, "bilinear", 1.0)),
    ],
)
def test_sizes_are_read_in_every_form(values, expected, serve):
    serve(net={**tiny.repository("vit"), "preprocessor_config.json": json.dumps(values).encode()})
    found = registry.find("hf/tiny/net").input
    assert (found.size, found.interpolation, found.crop) == expected


@pytest.mark.parametrize(
    ("values", "pixel"),
    [
        ({"image_mean": [0.4] * 3, "image_std": [0.2] * 3}, (1.0 - 0.4) / 0.2),
        ({"do_normalize": False}, 1.0),
        ({"do_normalize": False, "rescale_factor": 1 / 127.5}, 2.0),
        ({"do_normalize": False, "rescale_factor": 1 / 127.5, "rescale_offset": True}, 1.0),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 127.5, "rescale_offset": True}, 1.0),
    ],
)
def test_a_white_pixel_becomes_what_the_preprocessor_makes_of_it(values, pixel, serve):
    serve(net={**tiny.repository("vit"), "preprocessor_config.json": json.dumps(values).encode()})
    spec = registry.find("hf/tiny/net").input
    assert (1.0 - spec.mean[0]) / spec.std[0] == pytest.approx(pixel)


def test_images_are_prepared_as_transformers_does(serve):
    import numpy as np
    from PIL import Image
    from transformers import ViTImageProcessor

    from zoo.data.examples import Examples
    from zoo.data.prepare import How, prepare

    values = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    serve(net={**tiny.repository("vit"), "preprocessor_config.json": json.dumps(values).encode()})
    image = Image.fromarray(pictures.array("red", 0, (32, 32)))
    found = prepare(Examples([image], ["red"], "data"), How(registry.find("hf/tiny/net").input, keep=False))
    expected = ViTImageProcessor(**values)(image, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(found.inputs.batch(torch.tensor([0])).numpy(), expected, atol=1e-5)


def test_labels_the_classifier_knows_start_its_head(serve, capsys):
    whole = tiny.model("vit", labels=4)
    whole.config.id2label = {0: "red, crimson", 1: "owl", 2: "blue", 3: "green"}
    serve(net=tiny.files(whole, text=False))
    model = zoo.load("hf/tiny/net", "cpu").finetune(
        pictures.pairs(4), strategy="full", steps=1, backbone_lr=1e-9, lr=1e-9
    )
    assert "the head starts from the pretrained one" in capsys.readouterr().out
    expected = whole.classifier.weight[[2, 3, 0]]  # blue, green, red
    torch.testing.assert_close(model.head.weight, expected, atol=1e-5, rtol=0)
    other = zoo.load("hf/tiny/net", "cpu").finetune(pictures.pairs(4, ("blue", "grey")), strategy="probe")
    assert "pretrained one" not in capsys.readouterr().out
    assert other.metrics


def test_a_saved_model_needs_no_hub(serve, monkeypatch, tmp_path):
    serve(net=tiny.repository("convnext"))
    model = zoo.load("hf/tiny/net", "cpu").finetune(pictures.pairs(4), out=tmp_path / "saved")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "empty"))
    again = zoo.load(Path(tmp_path, "saved"), "cpu")
    pixels = [image for image, _ in pictures.pairs(1)]
    assert again.predict(pixels) == model.predict(pixels)
