"""Property-based fuzzing of parsers: invalid input raises only ZooError with a fix, and paths stay inside folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_artefact import MANIFEST

import zoo
from zoo import tasks
from zoo.catalogue import rows
from zoo.errors import ZooError
from zoo.model import artefact
from zoo.store import lock
from zoo.weights import safetensors_header
from zoo.weights.safetensors_file import read_state

fuzz = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
FOLDER = Path("fuzzed")

# Mutated JSON documents: valid keys with invalid values, and invalid keys.
NUMBERS = st.integers(-2, 100) | st.sampled_from([2**31, 2**63, 2**64, 10**30, -1]) | st.floats(allow_nan=True)
PATHS = st.sampled_from(
    ["a", "../a", "/etc/passwd", "a/../../b", "", ".", "a\0b", "c:\\x", "a\\..\\b", "x" * 5000, "\u202ea", "\ud800"]
)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=20) | PATHS
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner))
TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from([*safetensors_header.BITS, "F4", "Q8", ""]) | LEAVES,
        "shape": st.lists(NUMBERS, max_size=4) | LEAVES,
        "data_offsets": st.lists(NUMBERS, min_size=1, max_size=3) | LEAVES,
    },
)


def call_safely(call, *arguments):
    """Call a function; returns None if it raises a ZooError with a fix."""
    try:
        return call(*arguments)
    except ZooError as error:
        parts = (error.what, error.fix)
    assert all(parts)
    return None


def write(name: str, content: bytes) -> Path:
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / name
    path.write_bytes(content)
    return path


def to_json(value: object) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


@fuzz
@given(st.binary(max_size=300))
@example(b"")
@example(b"\xff" * 8 + b"{}")
@example((2).to_bytes(8, "little") + b"{}")
@example((10**5).to_bytes(8, "little") + b"[" * 10**5)
def test_arbitrary_bytes_as_weight_file(content):
    call_safely(read_state, write("any.safetensors", content))


@fuzz
@given(st.dictionaries(st.text(max_size=8) | st.just("__metadata__"), TENSOR | VALUES, max_size=4), st.integers(0, 64))
def test_mutated_safetensors_header(facts, count):
    text = to_json(facts)
    found = call_safely(read_state, write("mutated.safetensors", len(text).to_bytes(8, "little") + text + bytes(count)))
    if found is not None:
        assert sum(tensor.numel() * tensor.element_size() for tensor in found[0].values()) == count


@fuzz
@given(st.data())
def test_weight_file_with_corrupted_bytes(data):
    import torch
    from safetensors.torch import save

    content = bytearray(save({"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.int64)}, {"zoo": "1"}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    call_safely(read_state, write("changed.safetensors", bytes(content)))


HEADER = b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[%d],"data_offsets":[%d,%d]}}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER % (4, 0, 4), "starts at byte 0, but the previous one ends at 4"),
        (HEADER % (4, 5, 9), "starts at byte 5, but the previous one ends at 4"),
        (HEADER % (5, 4, 8), "does not match its 4 bytes"),
        (HEADER % (8, 4, 12), "its header describes"),
        (HEADER.replace(b'"b"', b'"a"') % (4, 4, 8), "duplicate key 'a'"),
        (b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}', "has the invalid shape"),
        (b'{"a":{"dtype":"F32","shape":[9223372036854775808,0],"data_offsets":[0,0]}}', "has the invalid shape"),
        (b'{"a":{"dtype":"Q8","shape":[8],"data_offsets":[0,8]}}', "has the unknown dtype 'Q8'"),
        (b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,8]}}', "NaN is not a valid number"),
        (b'{"__metadata__":{"a":1}}', "metadata values must be strings"),
    ],
)
def test_inconsistent_header_raises(text, message):
    with pytest.raises(ZooError) as caught:
        read_state(write("inconsistent.safetensors", len(text).to_bytes(8, "little") + text + bytes(8)))
    assert message in caught.value.what


@fuzz
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b'["a"]\nsource = 1')
@example(b"a = " + b"[" * 5000)
def test_arbitrary_bytes_as_lock_and_catalogue(content):
    call_safely(lock.read, write("lock.toml", content).absolute())
    call_safely(rows.read_catalogue, write("zoo.toml", content))
    call_safely(rows.read_catalogue, write("zoo.json", content))


FILE = st.fixed_dictionaries({}, optional={"path": PATHS | LEAVES, "sha256": LEAVES, "bytes": LEAVES})
ROW = st.fixed_dictionaries(
    {"modality": st.sampled_from(["image", "text"]) | LEAVES},
    optional={
        "plugin": LEAVES,
        "source": st.sampled_from(["hf://a/b", "file:///x", "file://../x", "https://h", "package://p/q"]) | LEAVES,
        "files": st.lists(FILE | VALUES, max_size=2) | LEAVES,
        "input": st.fixed_dictionaries({}, optional={"size": LEAVES, "mean": VALUES, "std": VALUES, "files": VALUES})
        | VALUES,
        "dim": LEAVES,
        "params": LEAVES,
        "options": VALUES,
        "metrics": VALUES,
        "aliases": VALUES,
        "tasks": VALUES,
    },
)


@fuzz
@given(st.text(max_size=12), ROW)
def test_mutated_catalogue_row(name, row):
    entry = call_safely(lambda: rows.entry_from_row(name, row, catalogue="zoo.toml"))
    assert entry is None or all(rows.is_inside(file.path) for file in entry.files)


@fuzz
@given(st.dictionaries(st.text(max_size=8), ROW | VALUES, max_size=3))
def test_mutated_json_catalogue(table):
    call_safely(rows.read_catalogue, write("catalogue.json", to_json(table)))


@fuzz
@given(st.text(max_size=30))
def test_arbitrary_backbone_names(name):
    call_safely(zoo.info, name)


SAVED_FILE = st.fixed_dictionaries({"sha256": st.text(max_size=64), "bytes": st.integers()})
MUTATED_MANIFEST = st.fixed_dictionaries(
    {key: st.just(value) | VALUES for key, value in MANIFEST.items()}
    | {
        "format": st.just(3) | LEAVES,
        "entry": ROW | VALUES,
        "task": st.fixed_dictionaries({"name": st.sampled_from([*tasks.NAMES]) | LEAVES, "labels": VALUES}) | VALUES,
        "files": st.dictionaries(PATHS | st.text(max_size=5), SAVED_FILE | LEAVES, max_size=3) | VALUES,
    },
)


@settings(fuzz, max_examples=50)
@given(MUTATED_MANIFEST)
def test_saved_model_with_mutated_manifest(manifest):
    folder = write("zoo.json", to_json(manifest)).parent
    found = call_safely(artefact.read, folder)
    if found is not None:
        for path in (call_safely(artefact.files, folder, found) or {}).values():
            assert folder.resolve() in path.resolve().parents
    call_safely(zoo.load, folder.absolute(), "cpu")


@pytest.mark.parametrize("name", ["zoo.safetensors", "config.json"])
def test_symlink_out_of_a_saved_folder_raises(tmp_path, name):
    import torch

    (tmp_path / "secret").write_text("{}")
    extra = tmp_path / "config.json"
    extra.write_text("{}")
    saved = artefact.write(tmp_path / "model", {"backbone.a": torch.ones(2)}, MANIFEST, "", {"config.json": extra})
    (saved / name).unlink()
    os.symlink(tmp_path / "secret", saved / name)
    found = artefact.read(saved)
    with pytest.raises(ZooError, match="is a symlink out of the folder"):
        (artefact.weights if name == artefact.WEIGHTS else artefact.files)(saved, found)
