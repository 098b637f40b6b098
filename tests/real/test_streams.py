"""Real photos in tar shards and in Parquet files give the probe that a folder of them gives."""

from __future__ import annotations

import io
import random
import tarfile

import pandas as pd
import pytest
import real_data
from PIL import Image

import zoo

pytestmark = pytest.mark.real
SHARDS = 6


def jpeg(path) -> bytes:
    file = io.BytesIO()
    image = Image.open(path).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    Image.alpha_composite(white, image).convert("RGB").save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture(scope="module")
def photos() -> list[tuple[bytes, str]]:
    """144 photos of nine classes as JPEG, in random order."""
    found = sorted(path for path in real_data.photos().rglob("*.png"))[::2]
    return random.Random(0).sample([(jpeg(path), path.parent.name) for path in found], 144)


def test_photos_of_shards_give_the_probe_of_photos_in_memory(hub, photos, tmp_path):
    train, valid = photos[:96], photos[96:]
    for shard in range(SHARDS):
        part = train[shard::SHARDS]
        with tarfile.open(tmp_path / f"train-{shard}.tar", "w") as archive:
            for number, (image, label) in enumerate(part):
                for name, content in ((f"{number:03}.jpg", image), (f"{number:03}.cls", label.encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        frame = pd.DataFrame(part, columns=["image", "label"])
        (tmp_path / "parquet").mkdir(exist_ok=True)
        frame.to_parquet(tmp_path / "parquet" / f"train-{shard}.parquet", row_group_size=5)
    found = {}
    for name, data in (("memory", train), ("tar", f"{tmp_path}/*.tar"), ("parquet", tmp_path / "parquet")):
        model = zoo.load("timm/tf_efficientnet_lite0.in1k", "cpu")
        model.finetune(data, valid=valid, strategy="probe", views=1, head_stages=0, l2=0.01, quiet=True)
        found[name] = model.metrics
    assert found["tar"]["loss"] == pytest.approx(found["memory"]["loss"], abs=0.01)
    assert found["parquet"]["loss"] == pytest.approx(found["memory"]["loss"], abs=0.01)
    assert found["tar"]["accuracy"] > 0.6
    print(found)
