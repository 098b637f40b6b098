"""tools/letters.py, on the fonts bundled with matplotlib."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
SANS, SERIF = FONTS / "DejaVuSans.ttf", FONTS / "DejaVuSerif.ttf"


@pytest.fixture
def letters(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import letters

    return letters


def test_read_face_returns_the_family_and_all_52_letters(letters):
    face = letters.read_face(SANS)
    assert face.family == "DejaVu Sans"
    assert face.has.all()
    assert face.distances.shape == (52, letters.CANVAS, letters.CANVAS)


def test_read_face_returns_none_for_a_file_that_is_not_a_font(letters, tmp_path):
    (tmp_path / "notes.ttf").write_text("not a font")
    assert letters.read_face(tmp_path / "notes.ttf") is None


def test_legible_excludes_symbol_fonts(letters):
    paths = [
        *sorted(FONTS.glob("DejaVuSans*.ttf")),
        SERIF,
        FONTS / "cmex10.ttf",
    ]  # cmex10: only brackets and large operators
    faces = [face for face in map(letters.read_face, paths) if face is not None]
    assert {face.family for face in faces} - {face.family for face in letters.legible(faces)} == {"cmex10"}


def test_distance_is_signed_and_measured_in_pixels_to_the_outline(letters):
    distances = letters.distance(np.full((30, 30), 255, np.uint8))  # a square, scaled to BOX px
    middle, edge = letters.CANVAS // 2, (letters.CANVAS - letters.BOX) // 2
    assert distances[middle, edge] == letters.STEP // 2
    assert distances[middle, edge - 1] == -letters.STEP // 2
    assert distances[middle, edge + 9] == 9 * letters.STEP + letters.STEP // 2


def test_draw_returns_non_empty_images_with_balanced_classes(letters):
    images, labels = letters.draw([letters.read_face(SANS)], 104, 0, letters.Hand())
    assert images.shape == (104, 28, 28)
    assert images.dtype == np.uint8
    assert np.bincount(labels).tolist() == [2] * 52
    assert images.max((1, 2)).min() > 100


def test_draw_is_deterministic_given_the_seed(letters):
    faces = [letters.read_face(SANS)]
    first, again, other = (letters.draw(faces, 52, seed, letters.Hand())[0] for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_draw_without_distortion_renders_the_font(letters):
    still = letters.Hand(
        fill=(1, 1), squeeze=0, rotation=0, slant=0, shift=0, wave=0, pen=(0, 0), scanned=0, ink=(1, 1), noise=0
    )
    images, labels = letters.draw([letters.read_face(SANS)], 52, 0, still)
    capital_i = images[labels == letters.LETTERS.index("I")][0]
    assert capital_i[:, 12:16].mean() > 100  # a vertical bar on an empty background
    assert capital_i[:, :8].max() == capital_i[:, 20:].max() == 0


def test_split_separates_font_families(letters):
    names = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "STIXGeneral", "STIXGeneralBol", "cmr10", "cmtt10")
    faces = [letters.read_face(FONTS / f"{name}.ttf") for name in names]
    train, held = letters.split(faces, 0.3, np.random.default_rng(0))
    assert train
    assert held
    assert len(train) + len(held) == len(faces)
    assert not {face.family.split()[0] for face in train} & {face.family.split()[0] for face in held}
