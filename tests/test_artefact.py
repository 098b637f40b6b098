"""zoo.model.artefact: saving is atomic, and damaged folders raise ArtefactError."""

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
from zoo.store import out_folder

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
    "test_duplicates": None,
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


def test_write_and_read_round_trip(saved):
    manifest = artefact.read(saved)
    assert manifest["entry"] == {"name": "a/b"}
    assert artefact.weights(saved, manifest) == saved / "zoo.safetensors"
    assert artefact.files(saved, manifest)["sub/config.json"].read_text() == "{}"
    assert sorted(p.name for p in saved.parent.iterdir() if p.name.startswith(".")) == []


def test_write_to_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    assert artefact.is_saved(artefact.write(tmp_path / "empty", STATE, MANIFEST, "", {}))


def test_write_to_a_non_empty_folder_raises(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ArtefactError, match=r"full is not empty.*\nfix: --out .*full-2"):
        artefact.write(tmp_path / "full", STATE, MANIFEST, "", {})
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_check_free_of_a_file_path_raises(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtefactError, match="file is a file"):
        out_folder.check_free(tmp_path / "file")
    with pytest.raises(ArtefactError, match=r"cannot be created: .*file is not writable"):
        out_folder.check_free(tmp_path / "file" / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_check_free_in_an_unwritable_folder_raises(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ArtefactError, match="is not writable"):
        out_folder.check_free(tmp_path / "model")


def test_write_to_a_folder_that_cannot_be_created_raises():
    with pytest.raises(ArtefactError, match=r"cannot be created.*\nfix: --out"):
        artefact.write(Path("/proc/nowhere/model"), STATE, MANIFEST, "", {})


def test_failed_write_leaves_no_files(tmp_path):
    with pytest.raises(ArtefactError, match="cannot be written"):
        artefact.write(tmp_path / "model", STATE, MANIFEST, "", {"config.json": tmp_path / "missing"})
    assert list(tmp_path.iterdir()) == [tmp_path / "work"]


def test_newer_format_raises_with_an_upgrade_command(saved):
    path = saved / "zoo.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 4}))
    with pytest.raises(
        ArtefactError, match=r"has format 4, but this version reads formats up to 3\nfix: pip install --upgrade"
    ):
        artefact.read(saved)


def test_damaged_weights_raise_with_both_hashes(saved):
    weights = saved / "zoo.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtefactError, match=r"zoo\.safetensors is damaged: SHA-256 \w{64}.*expected \w{64}"):
        artefact.weights(saved, artefact.read(saved))


def test_missing_weights_raise(saved):
    (saved / "zoo.safetensors").unlink()
    with pytest.raises(ArtefactError, match=r"zoo\.safetensors is missing"):
        artefact.weights(saved, artefact.read(saved))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("files", {"zoo.safetensors": {"sha256": 1, "bytes": 1}}),
        ("metrics", {"accuracy": "high"}),
        ("history", {}),
        ("data", DATA | {"near_duplicates": "none"}),
        ("data", {key: value for key, value in DATA.items() if key != "near_duplicates"}),
    ],
)
def test_invalid_manifest_section_raises(saved, key, value):
    path = saved / "zoo.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ArtefactError, match=rf"is damaged: invalid {key}\nfix: save the model again"):
        artefact.read(saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 1, "format": 2}', "duplicate key 'format'"),
        ('{"format": 1%s}' % ("0" * 5000), "has more than 300 digits"),
        ('{"format": 1, "entry": %s}' % ("[" * 5000 + "]" * 5000), "recursion"),
    ],
)
def test_manifest_that_cannot_be_serialised_again_raises(saved, text, message):
    (saved / "zoo.json").write_text(text)
    with pytest.raises(ArtefactError, match=f"cannot be read: .*{message}"):
        artefact.read(saved)


def test_named_pipes_and_symlink_loops_raise(saved):
    weights = saved / "zoo.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(ArtefactError, match="not a regular file"):
        artefact.weights(saved, artefact.read(saved))
    weights.unlink()
    weights.symlink_to(weights)
    with pytest.raises(ArtefactError, match="is missing or cannot be read"):
        artefact.weights(saved, artefact.read(saved))


def test_file_name_outside_the_folder_raises(saved):
    manifest = artefact.read(saved)
    manifest["files"]["../../etc/passwd"] = {}
    with pytest.raises(ArtefactError, match="is outside the folder"):
        artefact.files(saved, manifest)


@pytest.mark.parametrize("label", [10**20, 10**299, "\udcff", "\x1b[2J\n", True])
def test_any_label_is_read_as_it_was_saved(tmp_path, label):
    manifest = MANIFEST | {"task": {"labels": [label]}}
    assert artefact.as_read(manifest) == manifest
    saved = artefact.write(tmp_path / "model", STATE, manifest, "", {})
    assert artefact.read(saved)["task"] == {"labels": [label]}


def test_a_label_that_cannot_be_read_raises():
    with pytest.raises(ValueError, match="has more than 300 digits"):
        artefact.as_read({"labels": [10**300]})


@pytest.mark.parametrize("number", [True, 0, -1, 1.0])
def test_a_format_that_never_was_raises(saved, number):
    path = saved / "zoo.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": number}))
    with pytest.raises(ArtefactError, match="it has no valid format number"):
        artefact.read(saved)


@settings(max_examples=80, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps)))
def test_arbitrary_manifest_raises_artefact_error(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("any")
    raw = content if isinstance(content, bytes) else content.encode(errors="surrogatepass")
    (folder / "zoo.json").write_bytes(raw)
    with pytest.raises(ArtefactError, match="fix: "):
        artefact.read(folder)
