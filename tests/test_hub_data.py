"""Hub datasets, loaded from a loopback Hub with the real `datasets` library in a subprocess."""

from __future__ import annotations

import os
import subprocess
import sys

import datasets
import pytest
from hub_datasets import DatasetHub

FEATURES = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])})
CONFIGURATIONS = b"""---
configs:
- config_name: en
  data_files: en.csv
- config_name: de
  data_files: de.csv
---
"""
READ = """
import sys
from zoo.data.reading import read, read_one
from zoo.errors import DataError
for name in sys.argv[1:]:
    try:
        train, valid = read(name, modality="text")
        print(train.inputs, train.labels, valid and valid.labels, read_one(name, modality="text").labels, train.origin)
    except DataError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def repos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    parts = {
        "train": (["a dull film", "a great film"], [0, 1]),
        "validation": (["the plot"], [1]),
        "test": (["?"], [-1]),
    }
    files = {}
    for part, (texts, labels) in parts.items():
        rows = datasets.Dataset.from_dict({"text": texts, "label": labels}, features=FEATURES)
        rows.to_parquet(folder / f"{part}.parquet")
        files[f"data/{part}-00000-of-00001.parquet"] = (folder / f"{part}.parquet").read_bytes()
    tables = {"README.md": CONFIGURATIONS, "en.csv": b"text,label\none,1\n", "de.csv": b"text,label\neins,1\n"}
    return {
        "tiny/films": files,
        "tiny/numbers": tables,
        "tiny/numbers@old": {**tables, "en.csv": b"text,label\nuno,1\n"},
    }


def read(hub, tmp_path, *names, **environment):
    """Read each dataset in a subprocess and return its output lines; stderr must be empty."""
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "ZOO_HOME": str(tmp_path / "zoo")}
    command = [sys.executable, "-c", READ, *names]
    known = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_PROGRESS_BARS"}
    done = subprocess.run(
        command, capture_output=True, text=True, env={**known, **variables, **environment}, check=False
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_splits_class_names_configs_and_revisions_are_read(repos, tmp_path):
    with DatasetHub(repos) as hub:
        lines = read(hub, tmp_path, "hf:tiny/films", "hf:tiny/numbers/de", "hf:tiny/numbers/en@old")
    assert lines == [
        "['a dull film', 'a great film'] ['bad', 'good'] ['good'] ['good'] hf:tiny/films[train] (text -> label)",
        "['eins'] [1] None [1] hf:tiny/numbers/de[train] (text -> label)",
        "['uno'] [1] None [1] hf:tiny/numbers/en@old[train] (text -> label)",
    ]
    assert list((tmp_path / "zoo" / "cache" / "datasets").rglob("*.arrow"))


def test_a_cached_dataset_is_read_offline_and_other_revisions_raise(repos, tmp_path):
    with DatasetHub(repos) as hub:
        before = read(hub, tmp_path, "hf:tiny/films")
        requests = len(hub.requests)
        names = ("hf:tiny/films", "hf:tiny/films@v2", "hf:tiny/numbers/en")
        after, *errors = read(hub, tmp_path, *names, ZOO_OFFLINE="1")
        assert len(hub.requests) == requests
    assert [after] == before
    assert errors[0].startswith("hf:tiny/films@v2 cannot be reached, and the cached commit ")
    assert errors[1].endswith(", or unset ZOO_OFFLINE")
    assert errors[2].startswith("hf:tiny/numbers/en cannot be read: Couldn't reach 'tiny/numbers' on the Hub")
    assert errors[3] == "fix: unset ZOO_OFFLINE"


def test_a_missing_dataset_revision_or_config_raises(repos, tmp_path):
    names = ("hf:tiny/owls", "hf:tiny/films@v2", "hf:tiny/numbers", "hf:tiny/numbers/fr", "hf:tiny/nothing")
    with DatasetHub({**repos, "tiny/nothing": {"README.md": b"nothing"}}) as hub:
        errors = read(hub, tmp_path, *names)
    assert errors[::2] == [
        "hf:tiny/owls cannot be read: Dataset 'tiny/owls' doesn't exist on the Hub or cannot be accessed.",
        "hf:tiny/films@v2 cannot be read: Revision 'v2' doesn't exist for dataset 'tiny/films' on the Hub.",
        "hf:tiny/numbers cannot be read: Config name is missing. "
        "Please pick one among the available configs: ['en', 'de']",
        "hf:tiny/numbers/fr cannot be read: BuilderConfig 'fr' not found. Available: ['en', 'de']",
        errors[8],
    ]
    assert "tiny/nothing" in errors[8]
    assert errors[5] == errors[7] == "fix: specify one: hf:tiny/numbers/CONFIGURATION"
    assert errors[1] == errors[3] == "fix: correct the name; or, if it is private or gated: hf auth login"


STREAM = """
import sys
from zoo.data.streaming import opening
from zoo.errors import DataError
for name in sys.argv[1:]:
    try:
        for part, source in opening.splits(name).items():
            tables = [table for shard in source.shards for table in shard.tables(1 if part == "train" else 0, None)]
            print(part, [(t.column("text"), t.column("label"), t.where(0)) for t in tables], source.classes("label"))
    except DataError as error:
        print(error)
"""


@pytest.mark.real
def test_a_dataset_is_streamed_and_not_kept(repos, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "READ", STREAM)
    with DatasetHub(repos) as hub:
        lines = read(hub, tmp_path, "hf:tiny/films", "hf:tiny/none")
    assert lines[:3] == [
        "train [(['a great film'], ['good'], 'hf:tiny/films[train]:2')] ['bad', 'good']",
        "validation [(['the plot'], ['good'], 'hf:tiny/films[validation]:1')] ['bad', 'good']",
        "test [(['?'], [None], 'hf:tiny/films[test]:1')] ['bad', 'good']",
    ]
    assert "hf:tiny/none cannot be read" in lines[3]
    assert not (tmp_path / "zoo" / "cache").exists()
