"""Faults planted in real photos: copies between the parts, changed labels, a cue that gives a class away."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import real_data
from PIL import Image

import zoo
from zoo.evidence.report import facts
from zoo.evidence.report.doctor.diagnosis import diagnose

pytestmark = pytest.mark.real
COPIES, CHANGED = 6, 10


def saved(source: Path, target: Path, *, mirrored: bool = False, marked: bool = False) -> None:
    """Save a photo on white, mirrored or with a coloured corner."""
    image = Image.open(source).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
    side = min(image.size)
    image = image.crop((0, 0, side, side)).resize((224, 224)) if marked else image
    if marked:
        image.paste((20, 200, 40), (0, 0, 32, 32))
    target.parent.mkdir(parents=True, exist_ok=True)
    image.save(target)


def test_planted_faults_are_found_in_real_photos(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "store"))
    chance = random.Random(0)
    photos = {path.name: sorted(path.glob("*.png")) for path in sorted(real_data.photos().iterdir())}
    changed, copies = set(), set()
    for label, paths in photos.items():
        chance.shuffle(paths)
        held = paths[: len(paths) // 4]
        for path in held:
            saved(path, tmp_path / "data" / "valid" / label / path.name, marked=label == "vehicle")
        for number, path in enumerate(paths[len(held) :]):
            wrong = label in ("mammal", "food") and number < CHANGED // 2
            given = "insect" if wrong else label
            changed |= {path.name} if wrong else set()
            saved(path, tmp_path / "data" / "train" / given / path.name, marked=given == "vehicle")
            if label == "plant" and number < COPIES:
                saved(path, tmp_path / "data" / "valid" / label / f"copy-{path.name}", mirrored=number % 2 == 0)
                copies.add(f"copy-{path.name}")
    model = zoo.load("timm/tf_efficientnet_lite0.in1k", "cpu")
    model.finetune(tmp_path / "data", strategy="probe", views=1, l2=0.1, quiet=True)
    collected = facts.collect(model)
    found = {one.kind: one for one in diagnose(collected)}
    names = {
        kind: {collected.parts[item.part].whole.examples.inputs[item.index].name for item in one.items}
        for kind, one in found.items()
    }
    assert copies <= names["leakage"]
    assert len(names["leakage"]) <= COPIES + 4, "the photos have four mirrored pairs by themselves"
    assert len(changed & names["label-issues"]) >= 0.6 * CHANGED, "half of the insects are none"
    assert "vehicle" in found["shortcut"].evidence
    assert "grouped-leakage" not in found
    assert "drift" not in found
