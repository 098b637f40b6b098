"""Notebook use: every inference call takes the data at hand, in the forms of fine-tuning, numpy and torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pictures
import pytest
import torch
import words
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import zoo
from zoo.data.items import Reading
from zoo.errors import DataError
from zoo.model import inputs

DATA = pictures.pairs(2)
PIXELS = [pixels for pixels, _ in DATA]
LABELS = [label for _, label in DATA]
NHWC = np.stack(PIXELS)
NCHW = NHWC.transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def colours(request):
    return zoo.load(request.getfixturevalue("pretrained"), "cpu")


@pytest.fixture
def reviews(distribution, tmp_path):
    model = zoo.load(words.pretrained(distribution, tmp_path / "weights"), "cpu")
    return model.finetune(words.reviews(24), strategy="probe", valid=0)


@pytest.mark.parametrize(
    "many",
    [
        DATA,
        NHWC,
        NCHW,
        torch.tensor(NHWC),
        torch.tensor(NCHW),
        torch.tensor(NCHW) / 255,
        NHWC.astype(np.float32) / 255,
        (pair for pair in DATA),
        zip(PIXELS, LABELS, strict=True),
        pd.Series(PIXELS),
        pd.DataFrame({"image": PIXELS, "label": LABELS, "price": 3}),
        [{"image": pixels, "label": label} for pixels, label in DATA],
        TensorDataset(torch.tensor(NCHW), torch.arange(6)),
        DataLoader(TensorDataset(torch.tensor(NCHW), torch.arange(6)), batch_size=4),
    ],
    ids=[
        *("pairs", "nhwc", "nchw", "tensor-nhwc", "tensor-nchw", "float-tensor", "float-array", "generator", "zip"),
        *("series", "frame", "rows", "torch", "loader"),
    ],
)
def test_images_in_every_container(colours, many):
    assert [answer.label for answer in colours.predict(many)] == LABELS


def test_images_of_a_dataset_whole_streamed_or_of_the_hub(colours, monkeypatch):
    data = datasets.Dataset.from_dict({"image": [Image.fromarray(pixels) for pixels in PIXELS], "label": LABELS})
    splits = datasets.DatasetDict({"train": data.select([0]), "test": data})
    monkeypatch.setattr("zoo.store.hub_datasets.load", {"hf:user/colours": splits}.__getitem__)
    for form in (data, data.to_iterable_dataset(), splits, "hf:user/colours"):
        assert [answer.label for answer in colours.predict(form)] == LABELS


def test_a_folder_and_a_table_are_read_as_by_finetune(colours, isolated):
    pictures.folder(isolated / "photos", 2)
    paths = sorted(str(path.relative_to(isolated)) for path in Path("photos").resolve().rglob("*.png"))
    pd.DataFrame({"image": paths, "label": LABELS, "price": 3}).to_csv("photos.csv", index=False)
    for data in ("photos", Path("photos"), "photos.csv", paths, pd.Series(paths)):
        assert [answer.label for answer in colours.predict(data)] == LABELS
        assert colours.predict_proba(data).shape == colours.logits(data).shape == (6, 3)
    assert colours.predict(paths[0]).label == "blue"
    assert colours.evaluate("photos.csv")["accuracy"] == 1


def test_grey_images_in_either_layout(colours):
    grey = NHWC[..., :1]
    for form in (grey, grey.transpose(0, 3, 1, 2), torch.tensor(grey), grey[0], torch.tensor(grey[0])):
        assert torch.isfinite(colours.embed(form)).all()
    torch.testing.assert_close(colours.embed(grey[0]), colours.embed(grey[0, :, :, 0]))


def test_embeddings_can_have_length_one(colours):
    torch.testing.assert_close(colours.embed(NHWC, normalize=True).norm(dim=1), torch.ones(6))


def test_memory_does_not_grow_with_the_number_of_inputs(colours, monkeypatch):
    monkeypatch.setattr(inputs, "CHUNK", 4)
    whole = colours.logits(PIXELS * 3)
    alive, most = set(), 0

    def images():
        nonlocal most
        for index in range(18):
            alive.add(index)
            most = max(most, len(alive))
            yield PIXELS[index % 6]
            alive.discard(index - 4)

    torch.testing.assert_close(colours.logits(images()), whole)
    assert most <= 5


def test_an_error_names_an_input_by_its_number_among_all(colours):
    with pytest.raises(DataError, match=r"^image 300 is a float"):
        colours.predict([*PIXELS * 50, torch.full((3, 8, 8), torch.nan)])
    with pytest.raises(DataError, match=r"^image 1 is NoneType"):
        colours.predict([PIXELS[0], None])
    with pytest.raises(DataError, match=r"^image 0 is NoneType"):
        colours.predict(iter([None, PIXELS[0]]))


def test_unreadable_images_raise_even_of_a_model_that_skipped_them(pretrained, isolated):
    (isolated / "broken.png").write_bytes(b"no image")
    model = zoo.load(pretrained, "cpu")
    model.recipe = replace(model.recipe, skip_bad=True)
    with pytest.raises(DataError, match=r"broken\.png is not a readable image"):
        model.predict([PIXELS[0], "broken.png"])


def test_texts_in_every_container(reviews, isolated):
    texts = ["a great film", "a dull film"]
    pd.DataFrame({"text": texts, "label": ["good", "bad"]}).to_csv("mails.csv", index=False)
    Path("mails").mkdir()
    for name, text in zip("ab", texts, strict=True):
        Path("mails", f"{name}.txt").write_text(text)
    expected = [answer.label for answer in reviews.predict(texts)]
    frame = pd.DataFrame({"text": texts, "label": ["good", "bad"]})
    pairs = [("a great film", "good"), ("a dull film", "bad")]
    for many in ("mails.csv", "mails", Path("mails"), frame, frame["text"], pairs, iter(pairs), np.array(texts)):
        assert [answer.label for answer in reviews.predict(many)] == expected
    assert reviews.predict(Path("mails/a.txt")).label == expected[0]
    torch.testing.assert_close(reviews.embed("mails.csv"), reviews.embed(texts))


def test_a_mistyped_name_is_not_a_text(isolated):
    how = Reading("text")
    for name in ("mials.csv", "./mails", "mail.txt", Path("mails")):
        with pytest.raises(DataError, match=r"does not exist\nfix: check the path: ls \."):
            inputs.as_batch(name, how)
    (isolated / "great").mkdir()
    with pytest.raises(DataError, match="great holds no texts"):
        inputs.as_batch("great", how)
    for text in ("mails", "a great film.txt", "and/or", "x" * 5000, "NUL \0", ""):
        assert inputs.as_batch(text, how) == ([text], True)
    assert list(inputs.as_batch(["mials.csv"], how)[0]) == ["mials.csv"]
