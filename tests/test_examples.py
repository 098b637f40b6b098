"""zoo.data: reading folders and pairs, splits, the decode cache, batches and fingerprints."""

from __future__ import annotations

import os
from collections import Counter

import datasets
import numpy as np
import pandas as pd
import pictures
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zoo.data import sampler, split
from zoo.data.batch_options import BatchOptions
from zoo.data.datasets import LabelledDataset
from zoo.data.decode_cache import decode
from zoo.data.examples import Examples, Lazy
from zoo.data.fingerprint import fingerprint, identity
from zoo.data.prepare import Preprocessing, Validation, prepare, train_and_valid
from zoo.data.reading import read, read_one
from zoo.errors import DataError
from zoo.plugin import ImageInput

SPEC = ImageInput(16, (0.5,) * 3, (0.25,) * 3)


def test_labels_are_the_folder_names(tmp_path):
    train, valid = read(pictures.folder(tmp_path / "data", 2))
    assert train.labels == ["blue"] * 2 + ["green"] * 2 + ["red"] * 2
    assert valid is None


def test_train_and_valid_folders_are_splits(tmp_path):
    pictures.folder(tmp_path / "data" / "train", 3)
    pictures.folder(tmp_path / "data" / "val", 1)
    train, valid = read(tmp_path / "data")
    assert (len(train), len(valid)) == (9, 3)
    assert len(read_one(tmp_path / "data")) == 3


def test_a_folder_named_test_without_train_is_a_class(tmp_path):
    pictures.folder(tmp_path / "data", 2)
    (tmp_path / "data" / "red").rename(tmp_path / "data" / "test")
    assert set(read_one(tmp_path / "data").labels) == {"blue", "green", "test"}


def test_hidden_files_and_other_suffixes_are_ignored(tmp_path):
    root = pictures.folder(tmp_path / "data", 1)
    (root / "red" / "notes.txt").write_text("x")
    (root / "red" / ".hidden.png").write_bytes(b"x")
    (root / ".cache").mkdir()
    assert len(read(root)[0]) == 3


def test_images_in_nested_folders_belong_to_the_class(tmp_path):
    root = pictures.folder(tmp_path / "data", 1)
    pictures.folder(root / "red" / "more", 1, ("blue",))
    assert read(root)[0].labels.count("red") == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, r"data does not exist\nfix: check the path"),
        (lambda root: root.mkdir(), r"data is empty; a folder per class is expected\nfix: arrange"),
        (lambda root: root.write_text("x"), r"data is a file, not a folder, a table"),
        (lambda root: (root.mkdir(), (root / "a.png").write_text("x")), r"data holds no folders"),
        (lambda root: (root / "empty").mkdir(parents=True), r"empty holds no images\nfix: add images to it"),
    ],
)
def test_an_invalid_folder_raises_with_its_path(tmp_path, make, message):
    make(tmp_path / "data")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "data")


def test_numpy_and_torch_labels_are_converted():
    train, _ = read([("a.png", np.int64(3)), ("b.png", torch.tensor(4)), ("c.png", "x")])
    assert train.labels == [3, 4, "x"]


def test_a_torch_dataset_is_a_sequence_of_pairs():
    data = torch.utils.data.TensorDataset(torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]))
    assert read(data)[0].labels == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float32(0.5), 0.5),
        (np.str_("a"), "a"),
        (np.bool_(True), "True"),
        (torch.tensor([1, 0]), (1, 0)),
        (np.array(["a", "b"]), ("a", "b")),
        ([np.int64(1), "x"], (1, "x")),
        ({"b", "a"}, ("a", "b")),
        ((), ()),
    ],
)
def test_labels_become_plain_python_types(value, plain):
    (label,) = read([("a.png", value)])[0].labels
    assert label == plain
    assert type(label) is type(plain)


@pytest.mark.parametrize(
    ("data", "inputs", "labels"),
    [
        (["a", "b"], ["a", "b"], [None, None]),
        ([("a", "x"), ("", "y")], ["a", ""], ["x", "y"]),
        ([(("a", "b"), 1)], [("a", "b")], [1]),
        ([(["a", "b"], ["X", "Y"])], [["a", "b"]], [("X", "Y")]),
        ([(("a", "b"), ["X", "Y"]), (("c",), ["Z"])], [["a", "b"], ["c"]], [("X", "Y"), ("Z",)]),
        ([(np.array(["a", "b"]), [1, 2])], [["a", "b"]], [(1, 2)]),
    ],
)
def test_texts_are_texts_pairs_or_lists_of_words(data, inputs, labels):
    found, _ = read(data, modality="text")
    assert (found.inputs, found.labels) == (inputs, labels)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([("a", 1), (None, 2)], "example 1 has no value where a text is expected"),
        ([("a", 1), (3, 2)], r"example 1 has 3 \(int\) where a text is expected"),
        ([("\ud800", 1)], r"example 0 contains a lone surrogate.*\nfix: remove it"),
        (["a", "b", 3], "example 0 is str, not a pair"),
        ([("a", 1), ("b", None)], "label of example 1 of 2 examples in memory is None"),
    ],
)
def test_invalid_texts_raise(data, message):
    with pytest.raises(DataError, match=message):
        read(data, modality="text")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "has no examples"),
        (["a.png"], r"example 0 is str, not a pair"),
        ([("a.png", float("nan"))], r"label of example 0 is nan \(float\)"),
        ([("a.png", object)], r"label of example 0 is <class 'object'> \(type\)"),
        ([("a.png", "a"), ("b.png", None)], r"label of example 1 of 2 examples in memory is None"),
        ({"a.png": 1}, "data of type dict is not supported"),
        (3, "data of type int is not supported"),
    ],
)
def test_invalid_pairs_raise(data, message):
    with pytest.raises(DataError, match=message):
        read(data)


def test_one_class_raises():
    with pytest.raises(DataError, match="one class only, 'a'"):
        split.check_classes(Examples(["x", "y"], ["a", "a"], "data"), None)


def test_validation_labels_must_be_known():
    with pytest.raises(DataError, match=r"valid has labels that train does not have: b\nfix: use the same class names"):
        split.check_classes(Examples(["x", "y"], ["a", "c"], "train"), Examples(["x"], ["b"], "valid"))


def test_a_class_with_one_example_stays_in_training():
    kept, held = split.held_out(Examples("xyz", ["a", "a", "b"], "data"), 0.2, stratify=True, seed=0)
    assert 2 in kept
    assert len(held) == 1
    with pytest.raises(DataError, match=r"each class of data has one example only.*\n?fix: add examples"):
        split.held_out(Examples("xy", ["a", "b"], "data"), 0.2, stratify=True, seed=0)


def test_groups_that_cannot_be_divided_raise():
    with pytest.raises(DataError, match=r"in one group, 'p': none can be held out\nfix: add examples"):
        split.held_out(Examples("wx", ["a", "b"], "data", ["p", "p"]), 0.5, stratify=True, seed=0)
    with pytest.raises(DataError, match="each group of data has a label that no other one has"):
        split.held_out(Examples("wx", ["a", "b"], "data", ["p", "q"]), 0.5, stratify=True, seed=0)


@given(st.lists(st.integers(0, 5), min_size=12, max_size=40), st.integers(0, 9))
def test_groups_are_not_divided(groups, seed):
    groups, labels = [*groups, 6, 6, 7, 7], [index % 2 for index in range(len(groups) + 4)]
    kept, held = split.held_out(Examples(groups, labels, "data", groups), 0.3, stratify=True, seed=seed)
    assert sorted(kept + held) == list(range(len(groups)))
    assert {groups[i] for i in kept}.isdisjoint(groups[i] for i in held)
    assert {labels[i] for i in kept} == {0, 1}


@pytest.mark.parametrize("share", [-0.1, 1.0, 2])
def test_a_validation_share_outside_0_to_1_raises(share):
    with pytest.raises(DataError, match="not a share between 0 and 1"):
        split.held_out(Examples("wxyz", ["a", "a", "b", "b"], "data"), share, stratify=True, seed=0)


@given(st.lists(st.integers(2, 40), min_size=2, max_size=6), st.floats(0.01, 0.99), st.integers(0, 99))
def test_stratified_split_keeps_class_proportions(sizes, share, seed):
    labels = [k for k, size in enumerate(sizes) for _ in range(size)]
    kept, held = split.held_out(Examples(labels, labels, "data"), share, stratify=True, seed=seed)
    assert sorted(kept + held) == list(range(len(labels)))
    for k, size in enumerate(sizes):
        count = Counter(labels[i] for i in held)[k]
        assert 1 <= count <= size - 1
        assert abs(count - share * size) <= 1


def test_the_split_depends_only_on_the_seed():
    data = Examples(range(40), [i % 2 for i in range(40)], "data")
    first, again, other = (split.held_out(data, 0.3, stratify=True, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_files_are_decoded_once(tmp_path):
    data, _ = read(pictures.folder(tmp_path / "data", 2))
    seen: list[int] = []
    first = decode(data, SPEC, tmp_path / "cache", skip_bad=False, advance=seen.append)
    again = decode(data, SPEC, tmp_path / "cache", skip_bad=False, advance=seen.append)
    assert seen == [6]
    assert torch.equal(first.flat, again.flat)


def decoded(data):
    return decode(data, SPEC, None, skip_bad=False, advance=lambda done: None).flat


def test_images_of_a_dataset_are_read_lazily():
    labels = [label for _, label in pictures.pairs(2)]
    rows = {"image": [pictures.array(label, i) for i, label in enumerate(labels)], "label": labels}
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    data, _ = read(datasets.Dataset.from_dict(rows, features=kinds))
    assert isinstance(data.at([4, 0]).inputs, Lazy)
    assert data.at([4, 0]).labels == [labels[4], labels[0]]
    assert torch.equal(decoded(data.at([4, 0])), decoded(read([(rows["image"][i], "x") for i in (4, 0)])[0]))
    assert fingerprint(data.at([4, 0])) == fingerprint(data.at([4, 0])) != fingerprint(data.at([0, 4]))


def test_images_may_be_encoded_bytes(tmp_path):
    folder = pictures.folder(tmp_path / "data", 1)
    files = sorted(folder.rglob("*.png"))
    rows = [{"image": {"bytes": path.read_bytes(), "path": path.name}, "label": path.parent.name} for path in files]
    pd.DataFrame(rows).to_parquet(tmp_path / "data.parquet")
    for data in (rows, [(row["image"]["bytes"], row["label"]) for row in rows], tmp_path / "data.parquet"):
        assert torch.equal(decoded(read(data)[0]), decoded(read(folder)[0]))


def test_a_changed_file_is_decoded_again(tmp_path):
    root = pictures.folder(tmp_path / "data", 2)
    data, _ = read(root)
    first = decode(data, SPEC, tmp_path / "cache", skip_bad=False, advance=lambda done: None)
    Image.new("RGB", (20, 20)).save(root / "blue" / "000.png")
    again = decode(data, SPEC, tmp_path / "cache", skip_bad=False, advance=lambda done: None)
    assert not torch.equal(first.flat, again.flat)


def test_an_unreadable_image_raises_without_a_cache_or_is_skipped(tmp_path):
    root = pictures.folder(tmp_path / "data", 2)
    (root / "red" / "004.png").write_bytes(b"broken")
    data, _ = read(root)
    with pytest.raises(DataError, match=r"004\.png is not a readable image"):
        prepare(data, Preprocessing(SPEC))
    assert not [p for p in (tmp_path / "store").rglob("*") if p.is_file()]
    prepared = prepare(data, Preprocessing(SPEC, skip_bad=True))
    assert [name.rsplit("/", 1)[1] for name in prepared.skipped] == ["004.png"]
    assert prepared.examples.labels == ["blue"] * 2 + ["green"] * 2 + ["red"]
    assert len(prepared.inputs) == 5


def test_batches_centre_crop_images_of_different_shapes(tmp_path):
    wide = Image.new("RGB", (64, 16), (255, 0, 0))
    wide.paste((0, 255, 0), (24, 0, 40, 16))
    data = Examples([wide, Image.new("RGB", (16, 16), (0, 255, 0))], [0, 1], "data")
    batch = prepare(data, Preprocessing(SPEC)).inputs.batch(torch.tensor([0, 1]))
    assert batch.shape == (2, 3, 16, 16)
    assert torch.equal(batch[0], batch[1])


def test_batches_are_normalised():
    data = Examples([np.full((16, 16, 3), 255, np.uint8)], [0], "data")
    served = LabelledDataset(prepare(data, Preprocessing(SPEC)).inputs).batch(torch.tensor([0]))
    assert served.inputs.dtype == torch.uint8
    batch = served.to(torch.device("cpu"))
    assert batch.inputs.dtype == torch.float32
    torch.testing.assert_close(batch.inputs, torch.full((1, 3, 16, 16), 2.0))
    assert batch.to(torch.device("cpu")) is batch  # once


@pytest.mark.parametrize("augment", ["shift", "shift-flip", "crop-flip"])
def test_augmentation_depends_only_on_its_generator(augment):
    images = prepare(Examples([p for p, _ in pictures.pairs(2)], list("abcdef"), "data"), Preprocessing(SPEC)).inputs

    def draw(seed: int) -> torch.Tensor:
        return images.batch(torch.arange(6), BatchOptions(augment, torch.Generator().manual_seed(seed)))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert not torch.equal(draw(1), images.batch(torch.arange(6)))


def test_shift_moves_the_image_and_replicates_the_border():
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:, 8:] = 255
    images = prepare(
        Examples([picture] * 50, [0] * 50, "data"), Preprocessing(ImageInput(16, (0.0,) * 3, (1.0,) * 3))
    ).inputs
    found = images.batch(torch.arange(50), BatchOptions("shift", torch.Generator().manual_seed(0)))
    edges = (found[:, 0, 0] > 127).sum(1)  # white columns: 8 plus the shift
    assert edges.unique().tolist() == [6, 7, 8, 9, 10]


def test_an_epoch_has_every_example_once():
    seen = torch.cat([indices for _, indices in sampler.training_order(12, 4, steps=6, seed=3)])
    assert sorted(seen[:12].tolist()) == list(range(12))
    assert sorted(seen[12:].tolist()) == list(range(12))
    assert seen[:12].tolist() != seen[12:].tolist()


def test_a_batch_is_never_larger_than_the_data():
    assert [len(indices) for _, indices in sampler.training_order(3, 32, steps=2, seed=0)] == [3, 3]


def test_the_fingerprint_depends_on_inputs_and_labels(tmp_path):
    data, _ = read(pictures.folder(tmp_path / "data", 2))
    other = Examples(data.inputs, data.labels[::-1], data.origin)
    assert fingerprint(data) == fingerprint(data)
    assert fingerprint(data) != fingerprint(other)
    memory = read(pictures.pairs(2))[0]
    assert fingerprint(memory) != fingerprint(read(pictures.pairs(2, seed=5))[0])


def test_the_identity_of_an_input_depends_on_its_content(tmp_path, monkeypatch):
    array = np.arange(8, dtype=np.uint8)
    items = [b"ab", "ab", ("a", "b"), ["a", "b"], array, array.reshape(2, 4), Image.new("L", (2, 4)), tmp_path / "ab"]
    items += [
        Image.new("L", (4, 2)),
        torch.ones(2),
        torch.ones(2, requires_grad=True) * 2,
        {"path": str(tmp_path / "c")},
    ]
    assert len({identity(item) for item in items}) == len(items)
    assert identity({"bytes": b"ab", "path": "x.png"}) == identity(b"ab")
    monkeypatch.chdir(tmp_path)
    before = identity("ab")
    (tmp_path / "ab").write_text("a file whose name equals a text")
    assert identity("ab") == before
    assert identity(tmp_path / "ab") != identity(tmp_path / "ab", str(tmp_path))


def test_a_validation_folder_overrides_the_validation_share(tmp_path):
    pictures.folder(tmp_path / "data" / "train", 3)
    pictures.folder(tmp_path / "data" / "valid", 2, seed=1)
    train, valid = read(tmp_path / "data")
    found = train_and_valid(train, Validation(valid, 0.2), Preprocessing(SPEC), classes=True, seed=0)
    assert (len(found.train.examples), len(found.valid.examples)) == (9, 6)


def test_one_example_per_class_is_enough_without_validation():
    train, _ = read(pictures.pairs(1))
    found = train_and_valid(train, Validation(), Preprocessing(SPEC), classes=True, seed=0)
    assert found.valid is None
    assert len(found.train.examples) == 3


def unreadable(path):
    """Take away all permissions; skips the test where they do not bind the user."""
    path.chmod(0)
    if os.access(path, os.R_OK):
        path.chmod(0o700)
        pytest.skip("this user may read everything")
    return path


@pytest.mark.parametrize("kind", ["image", "folder"])
def test_missing_permission_is_named(tmp_path, kind):
    data = pictures.folder(tmp_path / "pictures", 2)
    path = unreadable(data / "blue" / "000.png" if kind == "image" else data / "blue")
    with pytest.raises(DataError, match=r"blue.* cannot be read: permission denied\nfix: chmod u\+rX .*blue"):
        decoded(read(data)[0])
    path.chmod(0o700)
    decoded(read(data)[0])
