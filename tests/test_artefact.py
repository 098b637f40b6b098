"""zoo.model.artefact: the saved folder is whole or absent, and what is wrong with one is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import ArtefactError
from zoo.model import artefact

DATA = {
    "origin": "a folder",
    "columns": {"input": [], "label": None},
    "train": 3,
    "valid": 1,
    "test": 0,
    "pairs": False,
    "skipped": 0,
    "fingerprint": "",
    "near_duplicates": None,
}
MANIFEST = {
    "entry": {"name": "a/b"},
    "task": {},
    "recipe": {},
    "metrics": {"accuracy": 1.0},
    "tested": {},
    "history": [],
    "data": DATA,
    "training": {"seconds": 1.0, "calibration": None, "request": {}},
    "provenance": {},
}
STATE = {"backbone.weight": torch.ones(2), "head.bias": torch.zeros(3)}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    extra = tmp_path / "config.json"
    extra.write_text("{}")
    return artefact.write(tmp_path / "model", STATE, MANIFEST, "# card", {"sub/config.json": extra})


def test_what_is_written_is_read_back(saved):
    manifest = artefact.read(saved)
    assert manifest["entry"] == {"name": "a/b"}
    assert artefact.weights(saved, manifest) == saved / "model.safetensors"
    assert artefact.files(saved, manifest)["sub/config.json"].read_text() == "{}"
    assert sorted(p.name for p in saved.parent.iterdir() if p.name.startswith(".")) == []


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    assert artefact.is_saved(artefact.write(tmp_path / "empty", STATE, MANIFEST, "", {}))


def test_a_non_empty_folder_is_left_alone(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ArtefactError, match=r"full is not empty.*\nfix: --out .*full-2"):
        artefact.write(tmp_path / "full", STATE, MANIFEST, "", {})
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtefactError, match="file is a file"):
        artefact.check_free(tmp_path / "file")
    with pytest.raises(ArtefactError, match=r"cannot be created: .*file is not writable"):
        artefact.check_free(tmp_path / "file" / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_told_before_training(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ArtefactError, match="is not writable"):
        artefact.check_free(tmp_path / "model")


def test_a_folder_that_cannot_be_made_is_told():
    with pytest.raises(ArtefactError, match=r"cannot be created.*\nfix: --out"):
        artefact.write(Path("/proc/nowhere/model"), STATE, MANIFEST, "", {})


def test_a_failure_half_way_leaves_nothing(tmp_path):
    with pytest.raises(ArtefactError, match="cannot be written"):
        artefact.write(tmp_path / "model", STATE, MANIFEST, "", {"config.json": tmp_path / "missing"})
    assert list(tmp_path.iterdir()) == [tmp_path / "work"]


def test_a_newer_format_says_to_upgrade(saved):
    path = saved / "zoo.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(ArtefactError, match=r"has format 2, but this version reads formats up to 1\nfix: pip install --upgrade"):
        artefact.read(saved)


def test_a_damaged_weight_file_is_named_with_both_hashes(saved):
    weights = saved / "model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtefactError, match=r"model\.safetensors is damaged: SHA-256 \w{64}.*expected \w{64}"):
        artefact.weights(saved, artefact.read(saved))


def test_a_missing_weight_file_is_named(saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(ArtefactError, match=r"model\.safetensors is missing"):
        artefact.weights(saved, artefact.read(saved))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("files", {"model.safetensors": {"sha256": 1, "bytes": 1}}),
        ("metrics", {"accuracy": "high"}),
        ("history", {}),
        ("data", DATA | {"near_duplicates": "none"}),
        ("data", {key: value for key, value in DATA.items() if key != "near_duplicates"}),
    ],
)
def test_a_section_that_is_not_as_it_was_written_is_named(saved, key, value):
    path = saved / "zoo.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ArtefactError, match=rf"is damaged: invalid {key}\nfix: save the model again"):
        artefact.read(saved)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format": 1, "format": 2}', "duplicate key 'format'"),
        ('{"format": 1%s}' % ("0" * 5000), "is too large"),
        ('{"format": 1, "entry": "\\ud800"}', "surrogates not allowed"),
        ('{"format": 1, "entry": %s}' % ("[" * 5000 + "]" * 5000), "recursion"),
    ],
)
def test_a_manifest_that_could_not_be_written_as_it_was_read_is_refused(saved, text, said):
    (saved / "zoo.json").write_text(text)
    with pytest.raises(ArtefactError, match=f"cannot be read: .*{said}"):
        artefact.read(saved)


def test_what_is_no_ordinary_file_is_not_waited_for(saved):
    weights = saved / "model.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(ArtefactError, match="not a regular file"):
        artefact.weights(saved, artefact.read(saved))
    weights.unlink()
    weights.symlink_to(weights)
    with pytest.raises(ArtefactError, match="is missing or cannot be read"):
        artefact.weights(saved, artefact.read(saved))


def test_a_file_name_cannot_leave_the_folder(saved):
    manifest = artefact.read(saved)
    manifest["files"]["../../etc/passwd"] = {}
    with pytest.raises(ArtefactError, match="is outside the folder"):
        artefact.files(saved, manifest)


@settings(max_examples=80, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps)))
def test_any_manifest_is_read_or_told(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("any")
    raw = content if isinstance(content, bytes) else content.encode(errors="surrogatepass")
    (folder / "zoo.json").write_bytes(raw)
    with pytest.raises(ArtefactError, match="fix: "):
        artefact.read(folder)
