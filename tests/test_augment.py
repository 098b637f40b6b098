"""zoo.data.augmentation and zoo.data.mixup: each operation against PIL, slices of a batch, mixup and CutMix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from torch.nn import functional as F

from zoo.data import augmentation, mixup
from zoo.data.augmentation import OPERATIONS
from zoo.data.batch_options import BatchOptions
from zoo.data.image_batches import Images, normalise
from zoo.finetune.recipe import CHOICES
from zoo.plugin import ImageInput

SIZE = 16


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(20, 230, shape, dtype=torch.uint8, generator=seeded(seed))


def smooth(channels: int, side: int = SIZE) -> torch.Tensor:
    """Return two smooth images, as photos are."""
    coarse = torch.rand(2, channels, 4, 4, generator=seeded()) * 200 + 20
    return F.interpolate(coarse, (side, side), mode="bilinear").byte()


def apply(name: str, images: torch.Tensor, level: float) -> torch.Tensor:
    return OPERATIONS[name](images, torch.full((len(images),), level))


def with_pil(images: torch.Tensor, change) -> torch.Tensor:
    """Apply a function of PIL images to each image."""
    arrays = [image.permute(1, 2, 0).squeeze(-1).numpy() for image in images]
    found = [torch.from_numpy(np.array(change(Image.fromarray(array)))) for array in arrays]
    return torch.stack([f.view(*images.shape[2:], -1).permute(2, 0, 1) for f in found])


def gap(a: torch.Tensor, b: torch.Tensor) -> int:
    return int((a.int() - b.int()).abs().max())


def enhanced(kind):
    return lambda image: kind(image).enhance(1 + 0.6)


PIL = {
    "autocontrast": (0.6, ImageOps.autocontrast, 1),
    "equalize": (0.6, ImageOps.equalize, 0),
    "solarize": (0.5, lambda image: ImageOps.solarize(image, 128), 0),
    "posterize": (0.75, lambda image: ImageOps.posterize(image, 5), 0),
    "contrast": (0.6, enhanced(ImageEnhance.Contrast), 1),
    "brightness": (0.6, enhanced(ImageEnhance.Brightness), 1),
    "sharpness": (0.6, enhanced(ImageEnhance.Sharpness), 1),
    "colour": (0.6, enhanced(ImageEnhance.Color), 1),
}
"""Level, the PIL equivalent, and the maximum difference per pixel: PIL truncates where zoo rounds."""


@pytest.mark.parametrize("name", PIL)
@pytest.mark.parametrize("channels", [1, 3])
def test_colour_operations_equal_pil(name, channels):
    if name == "colour" and channels == 1:
        return
    level, change, most = PIL[name]
    for images in (noise(2, channels, 48, 48), smooth(channels, 48)):
        found = apply(name, images, level)
        assert gap(found, with_pil(images, change)) <= most
        assert gap(found, images) > most


AFFINE = {
    "rotate": (1.0, lambda image: image.rotate(30, Image.Resampling.BILINEAR)),
    "shear-x": (0.5, lambda image: _affine(image, (1, 0.15, -0.15 * SIZE / 2, 0, 1, 0))),
    "shear-y": (0.5, lambda image: _affine(image, (1, 0, 0, 0.15, 1, -0.15 * SIZE / 2))),
    "translate-x": (0.5, lambda image: _affine(image, (1, 0, SIZE * 75 / 331, 0, 1, 0))),
    "translate-y": (0.5, lambda image: _affine(image, (1, 0, 0, 0, 1, SIZE * 75 / 331))),
}
"""Level, and the PIL equivalent, with PIL's sign of angles and directions."""


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("channels", [1, 3])
def test_affine_operations_equal_pil_where_pil_has_pixels(name, channels):
    level, change = AFFINE[name]
    images = smooth(channels)
    inside = with_pil(torch.full_like(images, 255), change) == 255  # pixels that PIL's transform covers
    found, expected = apply(name, images, level), with_pil(images, change)
    assert gap(found[inside], expected[inside]) <= 4  # PIL's sampling coordinates are coarse
    assert gap(found, images) > 20


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_keep_shape_and_dtype_and_do_not_modify_their_input(name):
    for channels in (1, 3, 4):
        images = noise(4, channels, SIZE, SIZE)
        before = images.clone()
        if channels == 3 or name != "colour":
            found = OPERATIONS[name](images, torch.tensor([-0.9, 0.0, 0.1, 0.9]))
            assert (found.shape, found.dtype) == (images.shape, torch.uint8)
        assert torch.equal(images, before)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"autocontrast", "equalize"}))
def test_level_0_is_the_identity(name):
    images = noise(3, 3, SIZE, SIZE)
    assert torch.equal(apply(name, images, 0.0), images)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"solarize", "posterize", "brightness"}))
def test_a_constant_image_is_unchanged(name):
    images = torch.tensor([0, 77, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, SIZE, SIZE)
    assert torch.equal(apply(name, images, 0.8), images)


def test_solarize_inverts_pixels_at_or_above_the_threshold():
    images = torch.tensor([[0, 127, 128, 255]], dtype=torch.uint8).view(1, 1, 2, 2)
    assert apply("solarize", images, -0.5).flatten().tolist() == [0, 127, 127, 0]


@pytest.mark.parametrize(("level", "kept"), [(0.25, 0b11111110), (0.5, 0b11111100), (1.0, 0b11110000)])
def test_posterize_keeps_the_high_bits(level, kept):
    images = torch.tensor([[255, 0b10101011]], dtype=torch.uint8).view(1, 1, 1, 2)
    assert apply("posterize", images, level).flatten().tolist() == [kept, 0b10101011 & kept]


def test_levels_apply_per_image():
    images = noise(1, 3, SIZE, SIZE).expand(3, -1, -1, -1)
    for name, operation in OPERATIONS.items():
        found = operation(images, torch.tensor([-0.5, 0.0, 0.5]))
        for i, level in enumerate((-0.5, 0.0, 0.5)):
            assert torch.equal(found[i], apply(name, images[i : i + 1], level)[0]), name


def test_translation_pads_with_the_border():
    images = noise(1, 1, 331, 331)
    found = apply("translate-x", images, 0.02)  # by 3 pixels
    assert torch.equal(found[..., :-3], images[..., 3:])
    assert torch.equal(found[..., -3:], images[..., -1:].expand(1, 1, 331, 3))


def views(pixels: torch.Tensor | list[torch.Tensor]) -> Images:
    channels = len(pixels[0])
    return Images(pixels, ImageInput(SIZE, (0.4,) * channels, (0.2,) * channels), torch.arange(len(pixels)))


PIXELS = {
    "one tensor": noise(12, 3, SIZE + 2, SIZE + 5),
    "grey": noise(12, 1, SIZE, SIZE),
    "a list": [noise(3, SIZE + i % 3, SIZE + i % 5, seed=i) for i in range(12)],
}


@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("name", augmentation.STEPS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 11), min_size=1, max_size=40), st.slices(40), st.integers(0, 1000))
def test_a_slice_of_an_augmented_batch_equals_the_whole_batch(name, pixels, indices, part, seed):
    if part.step is not None and part.step < 0:
        part = slice(part.start, part.stop)
    images, rows = views(PIXELS[pixels]), torch.tensor(indices)
    whole = images.batch(rows, BatchOptions(name, seeded(seed)))
    chance = seeded(seed)
    assert torch.equal(images.batch(rows, BatchOptions(name, chance, part)), whole[part])
    after = seeded(seed)
    images.batch(rows, BatchOptions(name, after))
    assert torch.equal(chance.get_state(), after.get_state())  # later draws are the same as well


@pytest.mark.parametrize("pixels", PIXELS)
def test_a_slice_of_a_batch_without_augmentation_equals_the_whole_batch(pixels):
    images, rows = views(PIXELS[pixels]), torch.tensor([3, 1, 4, 1, 5])
    for part in (slice(0, 0), slice(1, 3), slice(4, 9)):
        assert torch.equal(images.batch(rows, BatchOptions(shard=part)), images.batch(rows)[part])


@pytest.mark.parametrize("name", augmentation.STEPS)
def test_augmentation_depends_only_on_its_generator(name):
    images, rows = views(PIXELS["a list"]), torch.arange(12)
    torch.manual_seed(1)
    first = images.batch(rows, BatchOptions(name, seeded(5)))
    torch.manual_seed(2)
    assert torch.equal(images.batch(rows, BatchOptions(name, seeded(5))), first)
    assert torch.equal(images.batch(rows, BatchOptions(name, seeded(6))), first) == (name == "none")
    assert (first.shape, first.dtype) == ((12, 3, SIZE, SIZE), torch.uint8)


def test_augmentation_does_not_modify_the_decoded_pixels():
    pixels = noise(12, 3, SIZE, SIZE)
    images, before = views(pixels), pixels.clone()
    for name in augmentation.STEPS:
        images.batch(torch.arange(12), BatchOptions(name, seeded()))
    assert torch.equal(pixels, before)


def test_flip_mirrors_about_half_of_the_images():
    images = noise(200, 1, SIZE, SIZE)
    found = augmentation.vary(images, "crop-flip", 200, seeded(), slice(None))
    mirrored = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(found, images, strict=True)])
    assert 70 < int(mirrored.sum()) < 130
    assert torch.equal(found[~mirrored], images[~mirrored])


def test_random_crops_are_inside_the_image_and_not_below_the_minimum_area():
    for drawn in torch.rand(300, 4, generator=seeded()).tolist():
        top, left, height, width = augmentation._box(40, 30, drawn)
        assert 0 <= top <= 40 - height
        assert 0 <= left <= 30 - width
        assert height * width >= 0.3 * 40 * 30  # 0.35, less what is clipped of a box longer than the image


def test_randaugment_changes_most_images_differently():
    images = smooth(3)[:1].expand(300, -1, -1, -1)
    still = augmentation.vary(images, "crop-flip", 300, seeded(), slice(None))
    found = augmentation.vary(images, "randaugment", 300, seeded(), slice(None))
    changed = (found != still).flatten(1).any(1)
    assert 200 < int(changed.sum()) < 300
    assert len({bytes(image.numpy().tobytes()) for image in found}) > 200


def test_grey_images_skip_the_colour_operation():
    assert (
        len(augmentation._operations(noise(1, 3, 4, 4))) == len(augmentation._operations(noise(1, 1, 4, 4))) + 1 == 14
    )


def test_recipe_choices_list_every_augmentation():
    assert set(CHOICES["augment"]) == {"auto", *augmentation.STEPS}


@pytest.mark.parametrize("how", ["mixup", "cutmix", "both"])
def test_mixing_depends_only_on_its_generator(how):
    images = torch.rand(6, 3, SIZE, SIZE, generator=seeded())
    before = images.clone()
    first, again, other = (mixup.mix(images, how, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.partner, again.partner)
    assert first.share == again.share
    assert first.share != other.share
    assert sorted(first.partner.tolist()) == list(range(6))
    assert first.partner.dtype == torch.int64
    assert torch.equal(images, before)


def test_mixup_is_a_convex_combination():
    images = torch.rand(6, 3, SIZE, SIZE, generator=seeded())
    for seed in range(20):
        mixed = mixup.mix(images, "mixup", seeded(seed))
        assert 0 <= mixed.share <= 1
        assert torch.equal(mixed.inputs, mixed.share * images + (1 - mixed.share) * images[mixed.partner])


@pytest.mark.parametrize(("height", "width"), [(SIZE, SIZE), (9, 20)])
def test_cutmix_pastes_one_box_and_its_share_is_the_remaining_area(height, width):
    images = normalise(noise(4, 3, height, width), ImageInput(SIZE, (0.5,) * 3, (0.5,) * 3))
    for seed in range(20):
        mixed = mixup.mix(images, "cutmix", seeded(seed))
        other = images[mixed.partner]
        if torch.equal(other, images):
            continue  # every image is its own partner
        foreign = (mixed.inputs == other).all(0).all(0)
        assert int(foreign.sum()) == int(foreign.any(1).sum()) * int(foreign.any(0).sum())
        assert mixed.share == 1 - int(foreign.sum()) / (height * width)
        assert torch.equal(mixed.inputs, torch.where(foreign, other, images))


def test_both_alternates_between_mixup_and_cutmix():
    images = torch.rand(4, 1, SIZE, SIZE, generator=seeded())
    kinds = []
    for seed in range(60):
        mixed = mixup.mix(images, "both", seeded(seed))
        kinds.append(torch.isin(mixed.inputs, images).all().item())  # CutMix: no new values
    assert 18 < sum(kinds) < 42


def test_mixup_shares_follow_the_beta_distribution():
    images = torch.zeros(2, 1, 2, 2)
    shares = torch.tensor([mixup.mix(images, "mixup", seeded(seed)).share for seed in range(400)])
    assert abs(float(shares.mean()) - 0.5) < 0.06
    assert abs(float(shares.var()) - 1 / (4 * (2 * mixup.MIXUP + 1))) < 0.02  # the variance of Beta(a, a)


def test_mixed_loss_equals_cross_entropy_with_soft_targets():
    outputs, targets = torch.randn(6, 4, generator=seeded()), torch.tensor([0, 1, 2, 3, 0, 1])
    mixed = mixup.mix(torch.zeros(6, 1, 4, 4), "mixup", seeded())
    own, other = F.cross_entropy(outputs, targets), F.cross_entropy(outputs, targets[mixed.partner])
    one_hot = F.one_hot(targets, 4).float()
    soft = mixed.share * one_hot + (1 - mixed.share) * one_hot[mixed.partner]
    torch.testing.assert_close(mixed.share * own + (1 - mixed.share) * other, F.cross_entropy(outputs, soft))


def test_an_unknown_mix_raises_key_error():
    with pytest.raises(KeyError):
        mixup.mix(torch.zeros(2, 1, 4, 4), "none", seeded())
