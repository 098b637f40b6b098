"""Catalogue rows: parsing, errors with file, line and rule, and round trips."""

from __future__ import annotations

import json
import os
import tomllib

import pytest
from conftest import ROW
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.catalogue.rows import entry_from_row, read_catalogue, row_from_entry
from zoo.errors import CatalogueError
from zoo.plugin import Entry, File, ImageInput, TextInput
from zoo.store.paths import is_inside

FULL = """
# a comment

["native/net.letters"]
modality = "image"
source = "hf://org/repo@main"
files = [{ path = "model.safetensors", sha256 = "%s", bytes = 12 }]
dim = 512
params = 11176512
license = "bsd-3-clause"
pretrained_on = "letters"
tasks = ["classify"]
metrics = { top1 = 69 }
input = { size = 28, mean = [0.5], std = [0.25], interpolation = "bicubic", crop = 0.875 }
options = { arch = "resnet18", widths = [1, 2], deep = { stem = true } }
aliases = ["native/letters"]
""" % ("0a" * 32)


def write(folder, text, name="zoo.toml"):
    path = folder / name
    path.write_text(text)
    return path


def test_a_full_row_becomes_an_entry(tmp_path):
    path = write(tmp_path, FULL)
    [(name, row)] = read_catalogue(path).items()
    assert entry_from_row(name, row, catalogue=path) == Entry(
        name="native/net.letters",
        plugin="native",
        modality="image",
        input=ImageInput(28, (0.5,), (0.25,), "bicubic", 0.875),
        dim=512,
        params=11176512,
        source="hf://org/repo@main",
        files=(File("model.safetensors", "0a" * 32, 12),),
        license="bsd-3-clause",
        pretrained_on="letters",
        tasks=("classify",),
        metrics={"top1": 69.0},
        options={"arch": "resnet18", "widths": [1, 2], "deep": {"stem": True}},
        aliases=("native/letters",),
        catalogue=str(path),
    )


def test_a_text_row_becomes_an_entry():
    row = {"modality": "text", "input": {"files": ["vocab.txt"], "max_length": 512, "pairs": True}}
    assert entry_from_row("a/b", row, catalogue="x").input == TextInput(("vocab.txt",), 512, True)


def test_json_and_toml_catalogues_are_equivalent(tmp_path):
    toml = read_catalogue(write(tmp_path, FULL))
    assert read_catalogue(write(tmp_path, json.dumps(tomllib.loads(FULL)), "catalogue.json")) == toml


def test_a_hub_row_may_omit_files():
    row = {"modality": "text", "input": {"files": [], "max_length": 9}, "source": "hf://org/repo"}
    assert entry_from_row("a/b", row, catalogue="x").files == ()


BROKEN_FILES = {
    "unclosed table": ('["a/b"\nmodality = 1', "zoo.toml", r"zoo\.toml:1: "),
    "no value": ('["a/b"]\nmodality =\n', "zoo.toml", r"zoo\.toml:2: "),
    "cut off": ('["a/b"]\nmodality = "image', "zoo.toml", r"zoo\.toml:2: "),
    "row given twice": ('["a/b"]\n["a/b"]', "zoo.toml", r"zoo\.toml:2: .*twice"),
    "JSON cut off": ('{"a/b": {\n"dim": 3', "zoo.json", r"zoo\.json:2: "),
    "JSON of a list": ("[]", "zoo.json", r"zoo\.json:1: must be an object of rows by name"),
    "no row": ('\nformat = "x"', "zoo.toml", r"""zoo\.toml:2: \["format"\] format = 'x' is not a row"""),
    "no slash": (f"\n[net]{ROW}", "zoo.toml", r'zoo\.toml:2: \["net"\] is not of the form plugin/name'),
    "dots up": (f'["a/../b"]{ROW}', "zoo.toml", r"is not of the form plugin/name"),
    "a Cyrillic letter": (
        f'["n\u0430tive/b"]{ROW}',
        "zoo.toml",
        r"is not of the form plugin/name: it has the letter U\+0430 \(cyrillic small letter a\)",
    ),
    "a long name": (f'["a/{"b" * 254}"]{ROW}', "zoo.toml", r"is longer than 255 characters"),
    "half a pair": (r'{"a/b": {"license": "\ud800"}}', "zoo.json", r"zoo\.json:1: .*surrogates not allowed"),
    "half a pair as name": (r'{"a/\udfff": {}}', "zoo.json", r"zoo\.json:1: .*surrogates not allowed"),
    "nested JSON": ('{"a/b": ' + "[" * 100_000, "zoo.json", r"zoo\.json:1: maximum recursion depth"),
    "nested TOML": ("a = " + "[" * 100_000, "zoo.toml", r"zoo\.toml:1: "),
    "a nested row": ('{"a/b": ' + "[" * 900 + "]" * 900 + "}", "zoo.json", r'"a/b"\] a/b = .* is not a row'),
    "dots": ("a" + ".a" * 20_000 + " = 1", "zoo.toml", r"zoo\.toml:1: too many dots in a line"),
    "large TOML": ("#" * (3 << 20), "zoo.toml", r"zoo\.toml: cannot be read: larger than 2,097,152 bytes"),
    "a revision": (f'["a/b@main"]{ROW}', "zoo.toml", r"is not of the form plugin/name"),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_a_malformed_catalogue_raises_with_its_line(tmp_path, case):
    text, name, message = BROKEN_FILES[case]
    path = write(tmp_path, text, name)
    with pytest.raises(CatalogueError, match=message) as caught:
        read_catalogue(path)
    assert str(path) in caught.value.fix


def test_a_catalogue_that_is_not_utf8_raises(tmp_path):
    (tmp_path / "zoo.toml").write_bytes(b'["a/b"]\n\xff')
    with pytest.raises(CatalogueError, match=r"zoo\.toml:2: .*utf-8"):
        read_catalogue(tmp_path / "zoo.toml")


def test_an_unreadable_catalogue_raises(tmp_path):
    with pytest.raises(CatalogueError, match=r"zoo\.toml: cannot be read"):
        read_catalogue(tmp_path / "zoo.toml")


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "zero.toml").symlink_to("/dev/zero")
    for name in ("pipe.toml", "folder.json", "zero.toml"):
        with pytest.raises(CatalogueError, match=r"not a regular file|Is a directory") as caught:
            read_catalogue(tmp_path / name)
        assert caught.value.fix == f"replace {tmp_path / name} by a small text file"


def test_a_deep_value_is_shown_in_part(tmp_path):
    path = write(tmp_path, '{"a/b": {"dim": ' + "[" * 900 + "]" * 900 + "}}", "zoo.json")
    with pytest.raises(CatalogueError, match=r"dim = \[\[\[\[\[\[\[\.\.\.\]+: must be a positive integer"):
        entry_from_row("a/b", {**read_catalogue(path)["a/b"], "modality": "image", "input": {}}, catalogue=path)


BROKEN_ROWS = {
    "unknown key": ('licence = "mit"', "licence = 'mit': unknown key; nearest: license"),
    "unlike any key": ("qqq = 1", "unknown key; nearest: name, plugin, modality"),
    "modality": ('modality = "sound"', "modality = 'sound': must be 'image' or 'text'"),
    "dim": ("dim = 0", "dim = 0: must be a positive integer"),
    "params": ("params = true", "params = True: must be a positive integer"),
    "license": ("license = 3", "license = 3: must be a non-empty string"),
    "another name": ('name = "c/d"', "name = 'c/d': must equal the name in the header"),
    "source": ('source = "http://x"', "must start with one of hf://, https://, file://, package://"),
    "source alone": ('source = "file:///x"', "requires files: files = "),
    "files alone": ('files = [{ path = "x" }]', "files require a source"),
    "files not a list": ('files = "x"', "must be a list"),
    "file not a table": ('files = ["x"]', "must be a table"),
    "file key": ('files = [{ path = "x", size = 3 }]', "allowed keys of a file: path, sha256, bytes"),
    "file outside": ('files = [{ path = "../x" }]', "path '../x' must be relative and inside the source"),
    "file hash": ('files = [{ path = "x", sha256 = "ABC" }]', "sha256 of x must be 64 lower-case hexadecimal digits"),
    "file size": ('files = [{ path = "x", bytes = -1 }]', "bytes of x must be a non-negative integer"),
    "tasks": ('tasks = "classify"', "must be a list of non-empty strings"),
    "metrics": ('metrics = { a = "b" }', "must be a table of numbers"),
    "metric nan": ("metrics = { a = nan }", "must be a table of numbers"),
    "options": ("options = { when = 2020-01-01 }", "may contain only strings, numbers, booleans, lists and tables"),
    "aliases": ("aliases = [1]", "must be a list of non-empty strings"),
    "input": ("input = 224", "input = 224: must be a table"),
    "input keys": ("input = { size = 3 }", "requires the keys size, mean and std"),
    "input unknown": (
        "input = { size = 3, mean = [0.5], std = [1], side = 3 }",
        "requires the keys size, mean and std",
    ),
    "input size": ("input = { size = 0.5, mean = [0.5], std = [1] }", "must be a positive integer"),
    "input mean": ("input = { size = 3, mean = 0.5, std = [1] }", "lists of one number per channel"),
    "input std": ("input = { size = 3, mean = [0.5], std = [0] }", "the same length, and std must be positive"),
    "input way": ('input = { size = 3, mean = [1], std = [1], interpolation = "x" }', "must be one of nearest, bi"),
    "input crop": ("input = { size = 3, mean = [1], std = [1], crop = 1.5 }", "crop must be a number in (0, 1]"),
    "input scale": ("input = { size = 300, mean = [1], std = [1], crop = 0.05 }", "must be at most 2048"),
    "text input": ('modality = "text"', "requires the keys files and max_length"),
}


@pytest.mark.parametrize("case", BROKEN_ROWS)
def test_an_invalid_row_raises_with_file_line_key_and_rule(tmp_path, case):
    line, message = BROKEN_ROWS[case]
    key = line.partition(" ")[0]
    rest = [given for given in ROW.splitlines() if not given.startswith(f"{key} ")]
    path = write(tmp_path, "\n".join(["# header", '["a/b"]', *rest, line]))
    with pytest.raises(CatalogueError) as caught:
        entry_from_row("a/b", read_catalogue(path)["a/b"], catalogue=path)
    assert caught.value.what.startswith(f'{path}:2: ["a/b"] ')
    assert message in caught.value.what
    assert caught.value.fix == f"edit {'input' if case == 'text input' else key} in {path}:2"


@pytest.mark.parametrize("key", ["modality", "input"])
def test_a_missing_key_raises_with_the_line_of_the_header(tmp_path, key):
    path = write(tmp_path, '\n\n["a/b"]' + "\n".join(line for line in ROW.splitlines() if not line.startswith(key)))
    with pytest.raises(CatalogueError, match=rf'zoo\.toml:3: \["a/b"\] the key {key} is missing'):
        entry_from_row("a/b", read_catalogue(path)["a/b"], catalogue=path)


@pytest.mark.parametrize("path", ["", ".", "/etc/passwd", "../x", "a/../../x", "a\\b", "C:x", "a\0b"])
def test_is_inside_rejects_paths_outside_the_folder(path):
    assert not is_inside(path)


names = st.from_regex(r"[a-z][a-z0-9_.]{0,8}", fullmatch=True)
texts = st.text(min_size=1).filter(str.strip)
numbers = st.floats(-1e6, 1e6)
values = st.recursive(
    st.booleans() | st.integers() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
images = st.integers(1, 4).flatmap(
    lambda channels: st.builds(
        ImageInput,
        st.integers(1, 500),  # at most 2,048 before the crop
        st.tuples(*[numbers] * channels),
        st.tuples(*[st.floats(1e-3, 9)] * channels),
        st.sampled_from(["bilinear", "bicubic"]),
        st.floats(0.25, 1),
    )
)
files = st.builds(File, names, st.none() | st.just("0f" * 32), st.none() | st.integers(0, 10**12))
sources = st.just((None, ())) | st.tuples(
    st.sampled_from(["hf://a/b@c", "package://a/b"]), st.lists(files, min_size=1, max_size=2).map(tuple)
)


@st.composite
def entries(draw):
    modality, prepared = draw(
        st.tuples(st.just("image"), images)
        | st.tuples(st.just("text"), st.builds(TextInput, st.just(("v",)), st.integers(1, 9), st.booleans()))
    )
    source, listed = draw(sources)
    return Entry(
        f"{draw(names)}/{draw(names)}",
        draw(names),
        modality,
        prepared,
        draw(st.none() | st.integers(1, 9999)),
        draw(st.none() | st.integers(1, 10**12)),
        source,
        listed,
        draw(st.none() | texts),
        draw(st.none() | texts),
        tuple(draw(st.lists(names, max_size=2))),
        draw(st.dictionaries(names, numbers, max_size=2)),
        draw(st.dictionaries(names, values, max_size=2)),
        tuple(draw(st.lists(names, max_size=2))),
    )


@settings(max_examples=60, deadline=None)
@given(entries())
def test_an_entry_round_trips_through_a_json_row(entry):
    row = json.loads(json.dumps(row_from_entry(entry)))
    assert row["name"] == entry.name
    assert row["plugin"] == entry.plugin
    assert entry_from_row(entry.name, row, catalogue="zoo.json") == entry
