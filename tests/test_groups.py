"""Derived groups: file names without running numbers, cameras, threads of mails."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from zoo.data import groups
from zoo.data.examples import Columns, Examples
from zoo.data.reading import read
from zoo.errors import DataError


def named(*names: str) -> Examples:
    return Examples([Path(name) for name in names], ["a"] * len(names), "files")


def test_files_share_a_group_but_for_their_running_number():
    found = groups.by_file_name(
        named("a/clip1_001.png", "b/clip1_02.png", "a/clip2-7.png", "a/rose (3).jpg", "a/tree.png")
    )
    assert found == ["/clip1", "/clip1", "/clip2", "/rose", ""]


def test_equal_names_in_several_folders_are_not_of_one_group():
    assert groups.by_file_name(named("a/1.png", "a/2.png", "b/1.png")) == ["a/", "a/", "b/"]


def test_mails_of_one_subject_are_a_thread():
    mails = [
        "Subject: Re: [list] Lunch on friday\n\nyes",
        "subject: lunch on  Friday\n\nno",
        "Re: hi\nyes",
        "only one line",
    ]
    assert groups.by_thread(Examples(mails, [0] * 4, "mails")) == ["lunch on friday", "lunch on friday", "", ""]


def test_pictures_of_one_camera(tmp_path):
    exif = Image.Exif()
    exif[groups.MAKE], exif[groups.MODEL] = "Acme", "One"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGB", (8, 8)).save(tmp_path / "b.jpg")
    (tmp_path / "c.jpg").write_bytes(b"no image")
    paths = [tmp_path / name for name in ("a.jpg", "b.jpg", "c.jpg")]
    assert groups.by_camera(Examples(paths, [0] * 3, "photos")) == ["Acme One", "", ""]


def test_reading_derives_groups_and_examples_without_one_stand_alone(tmp_path):
    for label, name in (("a", "x_1"), ("a", "x_2"), ("b", "y_1"), ("b", "z")):
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "data" / label / f"{name}.png")
    train, _ = read(tmp_path / "data", columns=Columns(groups="@file-name"))
    assert train.groups[0] == train.groups[1]
    assert len(set(train.groups)) == 3


@pytest.mark.parametrize(("name", "said"), [("@frames", "is none of @file-name"), ("@camera", "no two examples")])
def test_groups_that_are_not_there_are_refused(name, said):
    with pytest.raises(DataError, match=said):
        groups.derive(name, named("a/clip_1.png", "a/clip_2.png"))
