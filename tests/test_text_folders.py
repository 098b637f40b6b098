"""zoo.data.folders for texts: a folder per class, texts without labels, encodings and errors."""

from __future__ import annotations

import pytest

from zoo.data.reading import check_source, read, read_one
from zoo.errors import DataError


def texts(path):
    return read(path, modality="text")[0]


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def test_labels_of_texts_are_the_folder_names(tmp_path):
    files = {"spam/2.txt": "win", "ham/more/1.eml": "hello", "ham/0051": "hi", "spam/3.abc": "of another kind"}
    found = texts(write(tmp_path / "data", files))
    assert (found.inputs, found.labels) == (["hi", "hello", "win"], ["ham", "ham", "spam"])


@pytest.mark.parametrize(
    "raw", ["grüße".encode(), "\ufeffgrüße".encode(), "grüße".encode("cp1252"), "grüße".encode("utf-16")]
)
def test_texts_are_decoded_as_utf8_utf16_or_cp1252(raw, tmp_path):
    assert texts(write(tmp_path / "data", {"a.txt": raw})).inputs == ["grüße"]


def test_texts_are_read_by_split(tmp_path):
    train, valid = read(
        write(tmp_path / "data", {"train/a/1.txt": "1", "train/b/2.txt": "2", "dev/a/3.txt": "3"}), modality="text"
    )
    assert (train.labels, valid.labels) == (["a", "b"], ["a"])
    assert read_one(tmp_path / "data", modality="text").inputs == ["3"]


@pytest.mark.parametrize("folder", ["", "train/"])
def test_texts_without_classes_have_no_labels(folder, tmp_path):
    found = texts(write(tmp_path / "books", {f"{folder}a.txt": "one\ntwo", f"{folder}b.md": "three", "LICENSE": "no"}))
    assert (found.inputs, found.labels) == (["one\ntwo", "three"], [None, None])


def test_a_text_file_is_one_text(tmp_path):
    found = texts(write(tmp_path / "data", {"book.txt": "one\ntwo"}) / "book.txt")
    assert (found.inputs, found.labels) == (["one\ntwo"], [None])


def test_text_files_named_after_splits_are_splits(tmp_path):
    train, valid = read(
        write(tmp_path / "data", {"train.txt": "1", "valid.txt": "2", "test.txt": "3"}), modality="text"
    )
    assert (train.inputs, valid.inputs) == (["1"], ["2"])
    assert read_one(tmp_path / "data", modality="text").inputs == ["3"]


def test_hidden_files_and_folders_are_ignored(tmp_path):
    files = {
        "a/1.txt": "1",
        "b/2.txt": "2",
        "a/.ipynb_checkpoints/1.txt": "old",
        "b/.2.txt.swp": "x",
        ".git/c.txt": "x",
    }
    assert texts(write(tmp_path / "data", files)).inputs == ["1", "2"]


def test_a_cyclic_symlink_is_followed_once(tmp_path):
    root = write(tmp_path / "data", {"a/1.txt": "1", "b/2.txt": "2"})
    write(tmp_path / "elsewhere", {"3.txt": "3"})
    (root / "a" / "again").symlink_to(root / "a")
    (root / "b" / "more").symlink_to(tmp_path / "elsewhere")
    assert texts(root).inputs == ["1", "2", "3"]


@pytest.mark.parametrize("target", ["", "..", "b", "b/deeper", "../..", "/"])
def test_a_link_that_gives_files_two_labels_raises(tmp_path, target):
    root = write(tmp_path / "data", {"a/1.txt": "1", "b/2.txt": "2", "b/deeper/3.txt": "3", "c/4.txt": "4"})
    (root / "a" / "more").symlink_to(root / target)
    with pytest.raises(
        DataError, match=r"leads to .*its files would have several labels\nfix: remove the symbolic link"
    ):
        texts(root)


def test_two_links_to_one_folder_are_no_two_classes(tmp_path):
    root = write(tmp_path / "data", {"a/1.txt": "1"})
    (root / "b").symlink_to(root / "a")
    with pytest.raises(DataError, match=r"is read for .*/data/a as well"):
        texts(root)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a/1.txt": b"\0\1\2"}, r"1.txt is not a text file: it contains NUL bytes\nfix: remove it"),
        ({"a/1.txt": "1", "b/1.png": "x"}, r"b holds no texts\nfix: add texts to it"),
        ({"1.png": "x"}, r"data holds no folders; .*\nfix: arrange the texts as .*/<class>/<text>.txt"),
        ({"all.csv": "text,label\na,b\n"}, r"data holds no folders; .*\nfix: pass the table file: .*all.csv"),
        (
            {"train.csv": "text\na", "train.jsonl": '{"text": "a"}'},
            r"holds both train.csv and train.jsonl\nfix: pass one",
        ),
    ],
)
def test_an_invalid_folder_raises(files, message, tmp_path):
    with pytest.raises(DataError, match=message):
        texts(write(tmp_path / "data", files))


def test_a_text_file_is_rejected_for_an_image_backbone(tmp_path):
    with pytest.raises(DataError, match=r"book.txt is a text file, but the backbone takes images\nfix: pass a folder"):
        read(write(tmp_path / "data", {"book.txt": "x"}) / "book.txt")


@pytest.mark.parametrize("name", ["data", "book.txt", "table.CSV", "hf:user/films", "hf:user/films/en@v1.0"])
def test_check_source_accepts_supported_sources(name, tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path / "data", {"book.txt": "x", "table.CSV": "x", "data/x.txt": "x"}))
    check_source(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", r"nothing does not exist\nfix: check the path: ls \."),
        ("mails.mbox", "mails.mbox is a file, not a folder, a table"),
        ("LICENSE", "LICENSE is a file, not a folder, a table"),
        ("hf:films", r"'hf:films' is not a valid name of a Hub dataset\nfix: write hf:user/dataset"),
        ("hf:", "is not a valid name of a Hub dataset"),
    ],
)
def test_check_source_rejects_unsupported_sources(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path / "data", {"mails.mbox": "x", "LICENSE": "x"}))
    with pytest.raises(DataError, match=message):
        check_source(name)
