"""All timm rows build, load timm files and return timm features; real weights classify real photos."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import zoo
from zoo.catalogue import plugins
from zoo.catalogue.search import search
from zoo.plugin import Classifier
from zoo.weights import loader

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import real_data

pytestmark = pytest.mark.real
WALK = Path(real_data.__file__).with_name("timm_walk.py")
LITE0 = "timm/tf_efficientnet_lite0.in1k"
SHARDS = 2
ANIMALS = 398
"""Number of animal classes of ImageNet-1k: the first ones, tench to puffer."""


def test_every_row_builds_loads_and_matches_timm():
    commands = [[sys.executable, str(WALK), f"{shard}/{SHARDS}"] for shard in range(SHARDS)]
    shards = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    found = [json.loads(shard.communicate()[0]) for shard in shards]
    wrong = {name: what for shard in found for name, what in shard["problems"].items()}
    rows, nets, run = (sum(shard[key] for shard in found) for key in ("rows", "nets", "run"))
    print(f"{rows - len(wrong)} of {rows} rows pass: {nets} nets on the meta device, {run} also with random weights")
    assert rows == len(search(plugin="timm"))
    assert not wrong, json.dumps(wrong, indent=1)


@pytest.fixture
def model(hub) -> zoo.Model:
    return zoo.load(LITE0, "cpu")


def photos(*kinds: str) -> list[str]:
    return [str(path) for kind in kinds for path in sorted((real_data.photos() / kind).iterdir())[:20]]


def classifier(model: zoo.Model) -> Classifier:
    found = loader.classifier(plugins.load("timm"), model.entry, model.files, model.backbone.dim)
    assert found is not None
    return found


def test_real_weights_match_timm_features_and_logits(lite0, model):
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=lite0))
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path in photos("bird", "vehicle")])
    known = classifier(model)
    with torch.inference_mode():
        features = model.backbone.module(images).pooled
        theirs, logits = lite0.forward_head(lite0.forward_features(images), pre_logits=True), lite0(images)
    torch.testing.assert_close(features, theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(features @ known.weight.T + known.bias, logits, atol=1e-4, rtol=1e-4)


def test_real_weights_separate_animals_from_objects(model):
    known = classifier(model)
    for kinds, are_animals in ((("bird", "insect", "mammal"), True), (("vehicle", "household"), False)):
        paths = photos(*kinds)
        best = (model.embed(paths) @ known.weight.T + known.bias).argmax(1)
        for path, index in list(zip(paths, best, strict=True))[::6]:
            print(f"{Path(path).stem[:40]:<40} {known.labels[index][0]}")
        right = ((best < ANIMALS) == are_animals).float().mean()
        print(f"{kinds}: {float(right):.2f}")
        assert right > 0.8
