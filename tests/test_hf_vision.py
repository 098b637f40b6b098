"""zoo_hf image models: features, preprocessing and classifiers of every family equal those of transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pictures
import pytest
import tiny
import torch
from PIL import Image
from samples import every_fourth

import zoo
from zoo import store
from zoo.catalogue import plugins, registry
from zoo.data.datasets import LabelledDataset
from zoo.data.examples import Examples
from zoo.data.prepare import Preprocessing, prepare
from zoo.testing import kit
from zoo.weights import loader

TOWERS = ("dinov3_vit", "siglip_vision_model", "clip_vision_model")
WITH_CLASSIFIER = [kind for kind in tiny.VISION if kind not in (*TOWERS, "vit_mae")]
BGR = ("mobilevit", "mobilevitv2")
VARIANTS = ("mobilevitv2", "pvt_v2", "dinov2_with_registers", "vit_msn", "convnextv2", "swinv2")
"""Families with the same layers as another one."""


def images(entry, count=2):
    shape = (count, entry.input.channels, entry.input.size, entry.input.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", every_fourth(WITH_CLASSIFIER))
def test_pooled_features_are_the_input_of_the_classifier(kind, serve):
    serve(net=tiny.repository(kind))
    model = zoo.load("hf/tiny/net", "cpu")
    inputs = images(model.entry)
    whole = tiny.model(kind)
    head = getattr(whole, "classifier", None) or whole.head
    with torch.no_grad():
        pooled = model.backbone.module(inputs).pooled
        expected = whole(inputs.flip(1) if kind in BGR else inputs).logits
        found = head(pooled[:, :, None, None] if kind in ("resnet", "regnet") else pooled)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_masked_autoencoder_is_not_masked(serve):
    serve(net=tiny.repository("vit_mae"))
    model = zoo.load("hf/tiny/net", "cpu")
    whole = tiny.model("vit_mae")
    whole.config.mask_ratio = 0.0  # patches are still shuffled, which does not change the class token
    with torch.no_grad():
        expected = whole(images(model.entry)).last_hidden_state[:, 0]
        torch.testing.assert_close(model.backbone.module(images(model.entry)).pooled, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", TOWERS)
def test_pooled_features_of_a_vision_tower_are_its_pooler_output(kind, serve):
    serve(net=tiny.repository(kind))
    model = zoo.load("hf/tiny/net", "cpu")
    with torch.no_grad():
        expected = tiny.model(kind)(images(model.entry)).pooler_output
        torch.testing.assert_close(model.backbone.module(images(model.entry)).pooled, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", every_fourth(kind for kind in tiny.VISION if kind not in VARIANTS))
def test_vision_families_conform(kind, serve):
    serve(net=tiny.repository(kind))
    zoo.pull("hf/tiny/net")
    kit.check_plugin("hf", ["hf/tiny/net"])


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_dual_encoder_is_loaded_as_its_vision_model(kind, serve):
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


def of(kind, **values):
    """Return a preprocessor_config.json of an image processor class."""
    return {"image_processor_type": f"{kind}ImageProcessor", **values}


PREPROCESSORS = {
    "a number": of("ViT", size=48),
    "sides": of("ViT", size={"height": 48, "width": 48}, resample=3),
    "the name of old": {"feature_extractor_type": "ViTFeatureExtractor", "size": 48, "image_mean": [0.4, 0.5, 0.6]},
    "the name of a fast one": of("ViT", size=48) | {"image_processor_type": "ViTImageProcessorFast"},
    "no name": {"size": 48, "image_std": [0.2, 0.3, 0.4]},
    "cut from the centre": of("CLIP", size={"shortest_edge": 64}, crop_size={"height": 48, "width": 48}),
    "cut or not": of("CLIP", size={"shortest_edge": 64}, crop_size=48, do_center_crop=False),
    "a part of it": of("ConvNext", size={"shortest_edge": 48}, crop_pct=0.75),
    "all of a large one": of("ConvNext", size={"shortest_edge": 384}, crop_pct=0.75),
    "PoolFormer": of("PoolFormer", size={"shortest_edge": 48}, crop_size=48, crop_pct=0.8),
    "LeViT": of("Levit", size={"shortest_edge": 56}, crop_size=56),
    "EfficientNet": of("EfficientNet", size=48, image_mean=[0.485, 0.456, 0.406], image_std=[0.479, 0.473, 0.474]),
    "EfficientNet, offset": of("EfficientNet", size=48, rescale_factor=1 / 127.5, rescale_offset=True),
    "not normalised": of("ViT", size=48, do_normalize=False),
    "not scaled": of("ViT", size=48, do_rescale=False),
    "MobileViT": of("MobileViT", size={"shortest_edge": 64}, crop_size={"height": 48, "width": 48}),
}


@pytest.mark.parametrize("case", PREPROCESSORS)
def test_preprocessing_equals_the_image_processor(case, serve):
    """Families differ in preprocessing and in defaults for missing values."""
    from transformers import AutoImageProcessor

    values = PREPROCESSORS[case]
    serve(net={**tiny.repository("vit"), "preprocessor_config.json": json.dumps(values).encode()})
    image = Image.fromarray(pictures.array("red", 0, (96, 96)))
    spec = registry.find("hf/tiny/net").input
    prepared = prepare(Examples([image], ["red"], "data"), Preprocessing(spec, cache=False)).inputs
    found = LabelledDataset(prepared).batch(torch.tensor([0])).to(torch.device("cpu")).inputs
    Path("config.json").write_bytes(tiny.repository("vit")["config.json"])
    Path("preprocessor_config.json").write_text(json.dumps(values))
    expected = AutoImageProcessor.from_pretrained(".")(image, return_tensors="pt")["pixel_values"]
    if case == "MobileViT":
        expected = expected.flip(1)  # the backbone flips channels itself
    scale = expected.abs().max()
    assert found.shape == expected.shape
    assert (found - expected).abs().mean() < 0.01 * scale


def test_channels_are_flipped_for_bgr_models(serve):
    values = of("MobileViT", size={"shortest_edge": 32}, crop_size=32)
    plain = {**values, "do_flip_channel_order": False}
    serve(
        **{
            name: {**tiny.repository("vit"), "preprocessor_config.json": json.dumps(content).encode()}
            for name, content in (("swapped", values), ("plain", plain))
        }
    )
    swapped, plain = (zoo.load(f"hf/tiny/{name}", "cpu").backbone.module for name in ("swapped", "plain"))
    inputs = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(swapped(inputs).pooled, plain(inputs.flip(1)).pooled)


@pytest.mark.parametrize(("kind", "expected"), [("vit", (32, 1.0)), ("levit", (64, 0.875)), ("convnext", (32, 0.875))])
def test_without_a_preprocessor_the_size_is_that_of_the_model(kind, expected, serve):
    files = dict(tiny.repository(kind))
    del files["preprocessor_config.json"]
    serve(net=files)
    found = registry.find("hf/tiny/net").input
    assert (found.size, pytest.approx(found.crop, abs=0.01)) == expected


def test_a_grey_model_takes_one_channel(serve):
    whole = tiny.model_class(config := tiny.config("vit", num_channels=1))(config)
    serve(net=tiny.files(whole, text=False))
    assert registry.find("hf/tiny/net").input.channels == 1


def test_the_head_is_initialised_from_the_classifier_for_known_labels(serve, capsys):
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


def test_a_saved_model_loads_offline(serve, monkeypatch, tmp_path):
    serve(net=tiny.repository("convnext"))
    model = zoo.load("hf/tiny/net", "cpu").finetune(pictures.pairs(4), out=tmp_path / "saved")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "empty"))
    again = zoo.load(Path(tmp_path, "saved"), "cpu")
    pixels = [image for image, _ in pictures.pairs(1)]
    assert again.predict(pixels) == model.predict(pixels)


def classifier(name="hf/tiny/net"):
    entry, backbone = registry.find(name), zoo.load(name, "cpu").backbone
    return loader.classifier(plugins.load("hf"), entry, store.pull(entry), backbone.dim)


@pytest.mark.parametrize("kind", ["vit", "dinov2", "swin", "resnet"])
def test_the_classifier_of_a_checkpoint_gives_the_logits_of_transformers(kind, serve):
    whole = tiny.model(kind, labels=3)
    whole.config.id2label = {0: "owl, bubo", 1: "cat", 2: "dog"}
    serve(net=tiny.files(whole, text=False))
    found, model = classifier(), zoo.load("hf/tiny/net", "cpu")
    assert found.labels == (("owl", "bubo"), ("cat",), ("dog",))
    with torch.no_grad():
        logits = model.backbone.module(images(model.entry)).pooled @ found.weight.T + found.bias
        torch.testing.assert_close(logits, whole(images(model.entry)).logits, atol=1e-5, rtol=0)


def test_a_classifier_on_other_features_or_without_class_names_is_none(serve):
    from transformers import CLIPConfig, CLIPForImageClassification

    text = tiny.WORDS | {"projection_dim": 16}
    clip = CLIPConfig(text_config=text, vision_config=tiny.PATCHES, projection_dim=16, id2label={0: "owl", 1: "cat"})
    serve(net=tiny.files(CLIPForImageClassification(clip), text=False), vit=tiny.repository("vit"))
    assert classifier() is None  # CLIP's classifier uses the mean of the patches
    assert classifier("hf/tiny/vit") is None  # LABEL_0, LABEL_1
