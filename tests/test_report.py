"""The evidence report: facts, results, page and command, on tiny nets."""

from __future__ import annotations

import pictures
import pytest

import zoo
from zoo.errors import ArtefactError, DataError
from zoo.evidence.report import facts
from zoo.model.model import Model


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder of photos and a model fine-tuned on it, with a test share."""
    root = tmp_path_factory.mktemp("report")
    pictures.folder(root / "photos", 12)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("ZOO_HOME", str(root / "store"))
        patch.setenv("ZOO_CONFIG_HOME", str(root / "config"))
        model = zoo.load(pictures.catalogue(root), "cpu")
        model.finetune(root / "photos", strategy="scratch", steps=30, test=0.2, quiet=True)
        model.save(root / "model")
    return root


@pytest.fixture
def model(home, monkeypatch) -> Model:
    monkeypatch.setenv("ZOO_HOME", str(home / "store"))
    return zoo.load(home / "model", "cpu")


def test_facts_make_the_split_of_the_run_again(model):
    found = facts.collect(model)
    counts = {name: len(part) for name, part in found.parts.items()}
    assert counts == {"train": model.summary.train, "valid": model.summary.valid, "test": model.summary.test}
    valid = found.parts["valid"]
    assert model.task.measure(valid.values, valid.targets) == pytest.approx(model.metrics, abs=1e-5)
    assert valid.features.shape == (len(valid), model.backbone.dim)


def test_data_in_memory_has_to_be_given_again(home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setenv("ZOO_HOME", str(home / "store"))
    data = pictures.pairs(8)
    model = zoo.load("tiny/net", "cpu").finetune(data, strategy="scratch", steps=2, quiet=True)
    with pytest.raises(DataError, match="was in memory"):
        facts.collect(model)
    assert set(facts.collect(model, data).parts) == {"train", "valid"}


def test_changed_data_is_refused_and_other_data_is_the_test_part(model, home, tmp_path):
    other = pictures.folder(tmp_path / "other", 4, seed=5)
    found = facts.collect(model, other)
    assert list(found.parts) == ["train", "valid", "test"]
    assert len(found.parts["test"]) == 12
    model.training["split"]["data"] = str(other)
    with pytest.raises(DataError, match="is not, or no longer, the data"):
        facts.collect(model)


def test_a_folder_cannot_be_written_to(model, tmp_path):
    with pytest.raises(ArtefactError, match="is a folder"):
        zoo.report(model, out=tmp_path)
    with pytest.raises(ArtefactError, match="does not exist"):
        zoo.report(model, out=tmp_path / "no" / "report.html")
