"""Each part of a saved manifest removed or replaced: an error with a fix, or a model that predicts and saves."""

from __future__ import annotations

import json
import shutil

import pictures
import pytest
from mutations import single

import zoo
from zoo.errors import ZooError
from zoo.model import artefact

pytestmark = pytest.mark.real
SECTIONS = ("format", "entry", "task", "stages", "recipe", "metrics", "tested", "history", "data", "training")
SECTIONS += ("provenance", "files")


@pytest.fixture
def saved(isolated):
    """A saved model with metrics and intervals of validation and test examples."""
    model = zoo.load(pictures.catalogue(isolated), "cpu")
    return model.finetune(pictures.pairs(8), strategy="scratch", steps=1, test=0.25).save("model")


def test_the_sections_are_all(saved):
    assert set(json.loads((saved / artefact.MANIFEST).read_text())) == set(SECTIONS)


@pytest.mark.parametrize("section", SECTIONS)
def test_a_changed_manifest_raises_or_works(saved, tmp_path, section):
    folder, again, failed = tmp_path / "near", tmp_path / "again", []
    shutil.copytree(saved, folder)
    for change, manifest in single(json.loads((saved / artefact.MANIFEST).read_text()), section):
        (folder / artefact.MANIFEST).write_bytes(json.dumps(manifest).encode("utf-8", "surrogatepass"))
        try:
            model = zoo.load(folder, "cpu")
            model.predict([pictures.array("blue", 1)])
            model.save(again)
        except ZooError as error:
            failed += [] if error.what and error.fix else [f"{change}: an error without a fix"]
        except Exception as error:  # noqa: BLE001
            failed.append(f"{change}: {error!r}")
        shutil.rmtree(again, ignore_errors=True)
    assert not failed, "\n".join(failed)
