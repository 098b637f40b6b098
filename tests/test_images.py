"""zoo.data.images: images of any mode and size are decoded to uint8 pixels, or rejected by name."""

from __future__ import annotations

import io
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile import images as hostile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zoo.data import decode_cache
from zoo.data.image_files import MAX_BYTES, Budget
from zoo.data.images import pixels
from zoo.errors import DataError
from zoo.plugin import ImageInput

RGB = ImageInput(8, (0.5,) * 3, (0.5,) * 3)
GREY = ImageInput(8, (0.5,), (0.5,))


def save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def half(mode: str, left, right, size: int = 16) -> Image.Image:
    """Return an image whose left half has one colour and whose right half has another."""
    image = Image.new(mode, (size, size), left)
    image.paste(right, (size // 2, 0, size, size))
    return image


@pytest.mark.parametrize("spec", [RGB, GREY], ids=["rgb", "grey"])
@pytest.mark.parametrize(
    ("mode", "left", "right", "suffix"),
    [
        ("1", 0, 1, "png"),
        ("L", 10, 200, "png"),
        ("LA", (10, 255), (200, 255), "png"),
        ("RGB", (10, 10, 10), (200, 200, 200), "jpg"),
        ("RGBA", (10, 10, 10, 255), (200, 200, 200, 255), "webp"),
        ("CMYK", (0, 0, 0, 245), (0, 0, 0, 55), "jpg"),
        ("YCbCr", (10, 128, 128), (200, 128, 128), "jpg"),
        ("P", 0, 1, "gif"),
        ("I;16", 10 * 257, 200 * 257, "png"),
        ("I", 10 * 257, 200 * 257, "tiff"),
        ("F", 0.04, 0.78, "tiff"),
    ],
)
def test_every_mode_keeps_dark_and_light(tmp_path, mode, left, right, suffix, spec):
    image = half(mode, left, right)
    if mode == "P":
        image.putpalette([10, 10, 10, 200, 200, 200])
    found = pixels(save(tmp_path / f"image.{suffix}", image), spec, "image")
    assert found.shape == (spec.channels, 8, 8)
    assert found.dtype == torch.uint8
    assert found[:, :, :2].float().mean() < 40
    assert found[:, :, 6:].float().mean() > 160


def test_transparency_is_composited_on_white(tmp_path):
    path = save(tmp_path / "stamp.png", half("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)))
    found = pixels(path, RGB, "stamp")
    assert found[:, :, 0].min() == 255
    assert found[:, :, 7].max() == 0


def test_a_transparent_palette_colour_is_composited_on_white(tmp_path):
    image = half("P", 0, 1)
    image.putpalette([0, 0, 0, 50, 50, 50])
    found = pixels(save(tmp_path / "palette.png", image, transparency=0), RGB, "palette")
    assert found[:, :, 0].min() == 255
    assert found[:, :, 7].max() == 50


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated camera: the left of the file is the top of the scene
    path = save(tmp_path / "turned.png", half("RGB", (0, 0, 0), (255, 255, 255)), exif=exif)
    found = pixels(path, RGB, "turned")
    assert found[:, 0].max() == 0
    assert found[:, 7].min() == 255


def test_an_animation_is_read_as_its_first_frame(tmp_path):
    first, second = Image.new("RGB", (8, 8), (250, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 250))
    path = save(tmp_path / "film.gif", first, save_all=True, append_images=[second])
    found = pixels(path, RGB, "film")
    assert found[0].float().mean() > 200
    assert found[2].float().mean() < 50


def test_resize_sets_the_short_side_to_size_over_crop_and_keeps_the_aspect_ratio():
    spec = ImageInput(224, (0.5,) * 3, (0.5,) * 3, "bicubic", 0.875)
    assert pixels(Image.new("RGB", (512, 256)), spec, "wide").shape == (3, 256, 512)


def test_resize_equals_pillow():
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    spec = ImageInput(15, (0.5,) * 3, (0.5,) * 3, "bicubic", 1.0)
    expected = np.asarray(Image.fromarray(noise).resize((15, 20), Image.Resampling.BICUBIC))
    assert np.array_equal(pixels(noise, spec, "noise").numpy().transpose(1, 2, 0), expected)


def test_a_panorama_is_cropped_to_the_maximum_aspect_ratio():
    assert pixels(Image.new("RGB", (4000, 10)), RGB, "panorama").shape == (3, 8, 32)


def test_an_array_of_the_target_size_is_unchanged():
    ready = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    assert np.array_equal(pixels(ready, GREY, "ready")[0].numpy(), ready)


def test_arrays_of_the_target_size_may_have_any_number_of_channels():
    five = np.random.default_rng(0).integers(0, 256, (8, 8, 5), dtype=np.uint8)
    assert pixels(five, ImageInput(8, (0.5,) * 5, (0.5,) * 5), "five").shape == (5, 8, 8)


def test_float_tensors_must_be_in_zero_to_one():
    assert pixels(torch.full((3, 8, 8), 0.5), RGB, "half").unique().tolist() == [128]
    with pytest.raises(DataError, match=r"values from -1 to 1.*\n?fix: scale it"):
        pixels(torch.linspace(-1, 1, 192).view(3, 8, 8), RGB, "normalised")


def test_a_truncated_file_is_named(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    path = tmp_path / "cut.jpg"
    path.write_bytes(buffer.getvalue()[:600])
    with pytest.raises(DataError, match=r"cut\.jpg is damaged.*\n?fix: replace or remove .*skip_bad=true"):
        pixels(path, RGB, str(path))


def test_a_file_that_is_not_an_image_is_named(tmp_path):
    path = tmp_path / "text.png"
    path.write_text("not an image")
    with pytest.raises(DataError, match=r"text\.png is not a readable image"):
        pixels(path, RGB, str(path))


def test_a_decompression_bomb_is_rejected_before_decoding(tmp_path):
    side = 20_000
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert side**2 * 5 > MAX_BYTES
    with pytest.raises(DataError, match=r"bomb\.png is too large to decode safely"):
        pixels(path, RGB, str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png does not exist"):
        pixels(tmp_path / "gone.png", RGB, "gone")


def test_an_unsupported_array_raises_with_the_accepted_types():
    with pytest.raises(DataError, match=r"int64 array of shape \(4, 4\), not an image\nfix: pass a path"):
        pixels(np.zeros((4, 4), dtype=int), RGB, "image 0")


@pytest.mark.parametrize("image", [torch.zeros(3, 4, 4, dtype=torch.int64), np.zeros((0, 4, 3), np.uint8)])
def test_whole_numbers_other_than_uint8_and_empty_arrays_are_no_images(image):
    with pytest.raises(DataError, match=r"image 0 is (int64|uint8) array of shape .*, not an image"):
        pixels(image, RGB, "image 0")


def test_grey_images_may_have_a_channel_axis():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for image in (grey[:, :, None], grey[:, :, None] / np.float32(255), torch.from_numpy(grey)[None]):
        assert torch.equal(pixels(image, RGB, "image 0"), pixels(grey, RGB, "image 0"))


def test_float_arrays_equal_their_uint8_pixels():
    array = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    assert torch.equal(pixels(array / np.float32(255), RGB, "image 0"), pixels(array, RGB, "image 0"))
    with pytest.raises(DataError, match="image 0 is a float image with values from nan to nan"):
        pixels(np.full((8, 8), np.nan), RGB, "image 0")


def test_image_files_are_rejected_for_a_backbone_of_five_channels(tmp_path):
    with pytest.raises(DataError, match="takes 5 channels"):
        pixels(Image.new("RGB", (9, 9)), ImageInput(8, (0.5,) * 5, (0.5,) * 5), "photo")


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 90), height=st.integers(1, 90), mode=st.sampled_from(["1", "L", "RGB", "RGBA", "CMYK"]))
def test_the_short_side_equals_the_input_size_for_any_size_and_mode(width, height, mode):
    found = pixels(Image.new(mode, (width, height)), RGB, "image")
    assert found.shape[0] == 3
    assert min(found.shape[1:]) == 8
    assert max(found.shape[1:]) <= 8 * 4


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0", b"BM", b"II*\0"]),
)
def test_random_bytes_give_pixels_or_a_data_error(tmp_path_factory, noise, start):
    path = tmp_path_factory.getbasetemp() / "noise.img"
    path.write_bytes(start + noise)
    try:
        assert pixels(path, RGB, "noise").shape[0] == 3
    except DataError:
        return


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_float_images_with_undefined_pixels_raise(value):
    values = np.full((8, 8), 0.5, dtype=np.float32)
    values[0, 0] = value
    with pytest.raises(DataError, match=r"scan\.tif has pixels that are NaN or infinite\nfix: replace or remove scan"):
        pixels(Image.fromarray(values), RGB, "scan.tif")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.5])
def test_float_tensors_outside_0_to_1_raise(value):
    image = torch.full((3, 8, 8), 0.5)
    image[0, 0, 0] = value
    with pytest.raises(DataError, match=r"image 0 is a float image with values from .*\nfix: scale it to \[0, 1\]"):
        pixels(image, ImageInput(8, (0.5,) * 3, (0.5,) * 3), "image 0")


@pytest.mark.parametrize(
    "content",
    [pytest.param(content, id=name) for name, content in [*hostile.FOREIGN.items(), *hostile.damaged()]],
)
def test_damaged_and_foreign_files_give_pixels_or_a_data_error(content):
    try:
        found = pixels(content, RGB, "image 3")
    except DataError:
        return
    assert found.shape[0] == 3


@pytest.mark.parametrize("name", [name for name in hostile.BOMBS if "JPEG" not in name])
def test_bombs_raise_before_they_are_decoded(name):
    with pytest.raises(DataError, match=r"image 3 is (too large to decode safely|not a readable image|damaged)"):
        pixels(hostile.BOMBS[name](), RGB, "image 3")


@pytest.mark.parametrize("error", [struct.error, OverflowError, AttributeError, KeyError, RecursionError, MemoryError])
def test_any_error_of_a_decoder_is_a_data_error(monkeypatch, error):
    def load(image):
        raise error("unexpected")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(DataError, match=r"image 3 is damaged: .*unexpected"):
        pixels(hostile.encoded("PNG"), RGB, "image 3")


def test_a_pil_image_is_decoded_within_the_same_limits(tmp_path):
    (tmp_path / "cut.png").write_bytes(hostile.encoded("PNG")[:600])
    (tmp_path / "bomb.png").write_bytes(hostile.png(13_300, 8, 6))
    (tmp_path / "page.eps").write_bytes(hostile.FOREIGN["EPS"])
    found = {
        "cut.png": "is damaged",
        "bomb.png": "is too large",
        "page.eps": "has the format EPS, which is not decoded",
    }
    for name, message in found.items():
        with Image.open(tmp_path / name) as image, pytest.raises(DataError, match=message):
            pixels(image, RGB, name)


@pytest.mark.parametrize(
    ("mode", "form"), [("RGBA", "PNG"), ("P", "PNG"), ("I;16", "PNG"), ("CMYK", "TIFF"), ("F", "TIFF"), ("1", "PNG")]
)
def test_an_image_is_converted_alike_in_strips(monkeypatch, mode, form):
    if mode == "I;16":
        noise = np.random.default_rng(0).integers(0, 65536, (40, 40)).astype(np.uint16)
    buffer = io.BytesIO()
    image = Image.fromarray(noise) if mode == "I;16" else Image.open(io.BytesIO(hostile.encoded("PNG"))).convert(mode)
    image.save(buffer, form)
    whole = pixels(buffer.getvalue(), RGB, "whole")
    monkeypatch.setattr("zoo.data.images.STRIP_PIXELS", 300)
    assert torch.equal(pixels(buffer.getvalue(), RGB, "strips"), whole)


def test_a_jpeg_beyond_the_limit_is_decoded_at_a_part_of_its_size(monkeypatch):
    content = hostile.encoded("JPEG", size=400)
    whole = pixels(content, RGB, "whole").float()
    monkeypatch.setattr("zoo.data.image_files.MAX_BYTES", 400 * 400 * 8)
    part = pixels(content, RGB, "part").float()
    assert part.shape == whole.shape
    assert (part - whole).abs().mean() < 8
    monkeypatch.setattr("zoo.data.image_files.MAX_BYTES", 400 * 400 * 6)
    with pytest.raises(DataError, match="too large to decode"):
        pixels(content, RGB, "whole")


def test_threads_share_the_memory_of_decoding():
    budget, most, running = Budget(100), [], []

    def work(_):
        with budget.take(40):
            running.append(1)
            most.append(len(running))
            time.sleep(0.005)
            running.pop()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))
    assert max(most) == 2
    assert budget.free == 100


def test_images_of_several_shapes_are_views_of_their_pixels():
    shapes = ((3, 2, 4), (3, 5, 2), (1, 2, 2))
    parts = [torch.randint(256, shape, dtype=torch.uint8) for shape in shapes]
    found = decode_cache.Decoded(torch.cat([part.flatten() for part in parts]), shapes).images()
    assert len(found) == 3
    assert all(torch.equal(found[i], part) for i, part in enumerate(parts))
    assert torch.equal(found[-1], parts[-1])
    assert len(list(found)) == 3
    alike = decode_cache.Decoded(torch.arange(12, dtype=torch.uint8), ((1, 2, 3),) * 2).images()
    assert alike.shape == (2, 1, 2, 3)
