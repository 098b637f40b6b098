"""zoo.data.duplicates: modified copies of images and texts are found, different examples are not."""

from __future__ import annotations

import io
import random
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from zoo.data import duplicates
from zoo.data.duplicates import Duplicates, near
from zoo.data.image_batches import Images
from zoo.data.texts import Texts
from zoo.plugin import ImageInput

quick = settings(max_examples=25, deadline=None)
NONE = Duplicates((), (), 0)
VOCABULARY = 5_000


def photo(seed: int, width: int = 120, height: int = 90) -> Image.Image:
    """Return a picture of blurred blobs, like a photo out of focus."""
    chance = np.random.default_rng(seed)
    blots = Image.fromarray(chance.integers(0, 220, (6, 8, 3), dtype=np.uint8))
    return blots.resize((width, height), Image.Resampling.BICUBIC)


def images(pictures: list, channels: int = 3) -> Images:
    arrays = [np.asarray(picture.convert("RGB" if channels == 3 else "L")) for picture in pictures]
    tensors = [torch.from_numpy(a.transpose(2, 0, 1).copy() if a.ndim == 3 else a[None].copy()) for a in arrays]
    spec = ImageInput(64, (0.5,) * channels, (0.5,) * channels)
    return Images(tensors, spec, torch.arange(len(tensors)))


def jpeg(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=50)
    return Image.open(file)


CHANGES = {
    "resized": lambda picture: picture.resize((60, 45)),
    "jpeg": jpeg,
    "cropped": lambda picture: picture.crop((0, 4, 114, 90)),
    "brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.1),
    "mirrored": ImageOps.mirror,
    "mirrored and cropped": lambda picture: ImageOps.mirror(picture).crop((3, 0, 117, 86)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_modified_images_are_found_with_their_originals(change):
    train = images([photo(seed) for seed in range(30)])
    valid = images([photo(100), *(CHANGES[change](photo(seed)) for seed in (7, 3, 29)), photo(101)])
    assert near(train, valid) == Duplicates((1, 2, 3), (7, 3, 29), 0)


def test_an_image_is_found_if_training_has_a_crop_of_it():
    train = images([CHANGES["cropped"](photo(seed)) for seed in range(12)])
    assert near(train, images([photo(5)])) == Duplicates((0,), (5,), 0)


def test_different_images_are_not_near():
    assert near(images([photo(i) for i in range(100)]), images([photo(i) for i in range(100, 200)])) == NONE


def disc(colour: tuple[int, int, int], seed: int) -> Image.Image:
    """Return a disc with a noisy surface on white, like clip art of fruit."""
    y, x = np.mgrid[:80, :80] - 40
    roughness = np.random.default_rng(seed).normal(0, 35, (10, 10)).repeat(8, 0).repeat(8, 1)
    inside = (x**2 + y**2 < 33**2)[:, :, None]
    pixels = np.where(inside, np.array(colour) + roughness[:, :, None], 255)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def test_different_objects_of_one_shape_on_white_are_not_near():
    colours = [(220, 60, 40), (60, 160, 60), (230, 200, 40), (120, 80, 50)]
    train = images([disc(colours[i % 4], i) for i in range(40)])
    valid = images([disc(colours[i % 4], i + 100) for i in range(40)])
    assert near(train, valid) == NONE


def test_among_similar_images_only_a_copy_is_near(monkeypatch):
    def alike(seed: int) -> Image.Image:
        return Image.blend(disc((220, 60, 40), seed), disc((220, 60, 40), 99), 0.65)

    train = images([alike(seed) for seed in range(30)])
    valid = images([*(alike(200 + seed) for seed in range(5)), ImageEnhance.Brightness(alike(4)).enhance(0.9)])
    assert near(train, valid) == Duplicates((5,), (4,), 0)
    monkeypatch.setattr(duplicates, "MAX_RATIO", 1e9)
    assert near(train, valid).held == (0, 1, 2, 3, 4, 5)


def test_a_small_copy_of_a_small_image_is_near_and_a_like_one_is_not():
    chance = np.random.default_rng(0)
    strokes = [(chance.random((7, 7)) < 0.4).repeat(4, 0).repeat(4, 1) * 255.0 for _ in range(30)]
    drawn = [Image.fromarray(each.astype(np.uint8)).convert("RGB") for each in strokes]
    small = [each.resize((14, 14)) for each in drawn[:5]]
    moved = [Image.fromarray(np.roll(np.asarray(each), 2, axis=1)) for each in drawn[5:10]]
    assert near(images(drawn), images(small + moved)).held == (0, 1, 2, 3, 4)


def test_whole_texts_are_compared_where_the_tokens_read_are_others():
    text, note = " ".join(f"word{i}" for i in range(300)), " ".join(f"word{i}" for i in range(400, 411))
    known, held = [text, note], [text.partition("word30 ")[2], f"{note} sent from my phone"]
    read = [
        texts([[zlib.crc32(word.encode()) % 997 for word in item.split()[:20]] for item in items])
        for items in (known, held)
    ]
    parts = list(zip(read, (known, held), strict=True))
    assert near(*(inputs for inputs, _ in parts)).held == (1,)
    found = near(*duplicates.comparable(parts))
    assert (found.held, found.train, found.exact) == ((0, 1), (0, 1), 0)


def test_blank_images_are_near_only_to_exact_copies():
    def plain(value: int, seed: int = 0) -> Image.Image:
        noise = np.random.default_rng(seed).integers(0, 2, (80, 80, 3))
        return Image.fromarray((value - noise).astype(np.uint8))

    train = images([plain(255, 1), plain(200, 2), plain(255, 3)])
    assert near(train, images([plain(255, 4), plain(255, 3), plain(90, 5)])) == Duplicates((1,), (2,), 1)


def test_grey_images_of_different_sizes():
    sizes = [(64, 64), (64, 100), (150, 64), (64, 80)]
    train = images([photo(i, *sizes[i % 4]) for i in range(12)], channels=1)
    valid = images([jpeg(photo(6, *sizes[2])), photo(5, *sizes[1]), photo(50, 64, 64)], channels=1)
    assert near(train, valid) == Duplicates((0, 1), (6, 5), 1)


def test_subsets_of_images_in_one_tensor():
    pixels = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    both = Images(pixels, ImageInput(32, (0.5,) * 3, (0.5,) * 3), torch.arange(40))
    assert near(both.at([3, 1, 2, 1]), both.at([9, 1, 3])) == Duplicates((1, 2), (1, 0), 2)


def texts(rows: list[list[int]]) -> Texts:
    ids = torch.tensor([token for row in rows for token in row], dtype=torch.int32)
    begins = torch.tensor([0] + [len(row) for row in rows]).cumsum(0)
    return Texts(ids, torch.zeros_like(ids), torch.full_like(ids, -1), begins, torch.arange(len(rows)), pad=0)


def words(seed: int, count: int = 80) -> list[int]:
    return random.Random(seed).choices(range(1, VOCABULARY), k=count)


def test_modified_texts_are_found_with_their_originals():
    train = texts([words(seed, 40 + seed) for seed in range(40)])
    greeting, swapped = [7, 8, 9, *words(30, 70)], words(35, 75)
    swapped[40] = 1
    valid = texts([words(100), greeting, swapped, words(20, 60)[:57], words(3, 43)])
    assert near(train, valid) == Duplicates((1, 2, 3, 4), (30, 35, 20, 3), 1)


def test_texts_with_half_in_common_are_not_near():
    train = texts([words(seed) for seed in range(40)])
    valid = texts([words(seed)[:60] + words(seed + 100)[:20] for seed in range(40)])
    assert near(train, valid) == NONE


def test_short_texts_are_near_only_if_identical():
    assert near(texts([[], [1], [1, 2, 3, 4]]), texts([[1, 2, 3, 5], [1, 2, 3, 4], [2], []])) == Duplicates(
        (1, 3), (2, 0), 2
    )


def test_code_products_estimate_the_jaccard_similarity():
    rows = [words(0)[: 80 - 2 * k] + words(k + 1, 2 * k) for k in range(40)]
    every = texts(rows)
    codes = duplicates._codes_of_texts(every)
    exact = torch.tensor([duplicates._overlap(every, 0, every, k)[0] for k in range(40)])
    error = codes @ codes[0] - exact
    assert error[0] == pytest.approx(0, abs=1e-5)
    assert error.abs().max() < 0.2  # three standard deviations
    assert abs(error.mean()) < 0.03


@pytest.mark.parametrize("make", [lambda count: images([photo(i) for i in range(count)]), lambda n: texts([[1]] * n)])
def test_empty_data_has_no_duplicates(make):
    assert near(make(0), make(2)) == near(make(2), make(0)) == near(make(0), make(0)) == NONE


@quick
@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50), st.integers(0, 3)), min_size=1, max_size=8),
    st.sampled_from([1, 3]),
    st.randoms(use_true_random=False),
)
def test_an_identical_image_is_always_found(shapes, channels, chance):
    made = [
        Image.fromarray(np.random.default_rng(seed).integers(250, 256, (h, w, 3), dtype=np.uint8))
        for h, w, seed in shapes
    ]
    train = images(made, channels)
    picked = [chance.randrange(len(made)) for _ in range(3)]
    found = near(train, images([made[i] for i in picked], channels))
    assert found.held == (0, 1, 2)
    assert found.exact == 3
    for i, j in zip(picked, found.train, strict=True):
        assert torch.equal(train.pixels[i], train.pixels[j])


@quick
@given(st.lists(st.lists(st.integers(1, 4), max_size=12), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_an_identical_text_is_always_found(rows, chance):
    picked = [chance.randrange(len(rows)) for _ in range(3)]
    found = near(texts(rows), texts([rows[i] for i in picked]))
    assert found == Duplicates((0, 1, 2), tuple(rows.index(rows[i]) for i in picked), 3)


def test_results_are_deterministic():
    train, valid = images([photo(i) for i in range(20)]), images([jpeg(photo(i)) for i in range(10, 30)])
    assert near(train, valid) == near(train, valid) == Duplicates(tuple(range(10)), tuple(range(10, 20)), 0)
    train, valid = texts([words(i) for i in range(20)]), texts([words(i)[3:] for i in range(10, 30)])
    assert near(train, valid) == near(train, valid) == Duplicates(tuple(range(10)), tuple(range(10, 20)), 0)


def test_copies_inside_one_set_are_pairs_with_the_earlier_one():
    pictures = [photo(seed) for seed in range(20)]
    pictures += [photo(3), CHANGES["jpeg"](photo(7)), photo(3), ImageOps.mirror(photo(11))]
    assert duplicates.within(images(pictures)) == [(20, 3), (21, 7), (22, 3), (23, 11)]
    assert duplicates.within(images(pictures[:1])) == []


def test_blank_images_are_found():
    pictures = [photo(0), Image.new("RGB", (50, 40), "white"), photo(1)]
    assert duplicates.blank(images(pictures)) == [1]


def test_parts_of_the_training_data_give_the_same_pairs(monkeypatch):
    pictures = [photo(number) for number in range(40)]
    train, valid = images(pictures), images([jpeg(pictures[number]) for number in (3, 20, 39)] + [photo(99)])
    whole = near(train, valid)
    assert whole.held == (0, 1, 2)
    monkeypatch.setattr(duplicates, "KNOWN", 7)
    assert near(train, valid) == whole


def test_many_held_out_examples_are_searched_evenly(monkeypatch):
    monkeypatch.setattr(duplicates, "MOST_HELD", 2)
    pictures = [photo(number) for number in range(8)]
    found = near(images(pictures), images([photo(number) for number in range(50, 55)] + [pictures[1]]))
    assert (found.held, found.train, found.exact, found.searched) == ((5,), (1,), 1, 2)
