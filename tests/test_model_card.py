"""The model card: labels, names and licences of any content add no markup, and no characters that a terminal obeys."""

from __future__ import annotations

import pytest
from huggingface_hub import ModelCard

from zoo import console
from zoo.console import UNPRINTABLE
from zoo.model import model_card

HOSTILE = {
    "escape": "\x1b[31mred",
    "newline": "a\n# heading",
    "bidirectional": "\u202egnp.exe",
    "surrogate": "\udcff",
    "backtick": "a` <img src=x> `b",
    "html": "<script>alert(1)</script>",
    "link": "[click](https://example.org)",
    "front matter": "x\n---\nlicense: other",
    "long": "y" * 100_000,
    "shell": "a; rm -rf x",
}


MANIFEST = {
    "entry": {"name": "net", "license": "mit", "pretrained_on": "x", "source": "file:///x"},
    "task": {"name": "classify", "labels": ["a", "b"]},
    "metrics": {"accuracy": 0.5},
    "tested": {},
    "data": {
        **{"origin": "data", "train": 8, "valid": 2, "test": 0, "fingerprint": "0"},
        **{"near_duplicates": None, "test_duplicates": None},
    },
    "recipe": {"strategy": "full", "seed": 0},
}


def card(text: str) -> str:
    entry = {"name": text, "license": text, "pretrained_on": text, "source": text}
    task, data = {"name": "classify", "labels": [text, "other"]}, MANIFEST["data"] | {"origin": text}
    return model_card.write(MANIFEST | {"entry": entry, "task": task, "data": data}, text)


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_text_adds_no_line_and_no_markup(case):
    found, plain = card(HOSTILE[case]), card("plain")
    assert not UNPRINTABLE.search(found.replace("\n", ""))
    assert found.encode()
    assert len(found) < 10_000
    assert found.count("\n") == plain.count("\n")
    assert [line for line in found.splitlines() if line == "---"] == ["---"] * 2


def test_markup_is_escaped_outside_code():
    found = card("a`b <i>[x](y)")
    assert "# a\\`b \\<i\\>\\[x\\](y)" in found
    assert "labels: `` a`b <i>[x](y) ``, `other`" in found


def test_the_command_of_a_name_is_quoted():
    assert "zoo predict 'a; rm -rf x' INPUT" in card("a; rm -rf x")
    assert "zoo predict plain INPUT" in card("plain")


def test_metadata_are_those_of_the_hub():
    found = ModelCard(card("plain"))
    (result,) = found.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("accuracy", 0.5, "validation")
    assert (found.data.base_model, found.data.library_name) == ("plain", "zoo")


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_text_stays_in_its_metadata_field(case):
    found = ModelCard(card(HOSTILE[case]))
    assert found.data.license == console.printable(HOSTILE[case], model_card.LONGEST_NAME)


def test_limits_are_those_of_the_run():
    manifest = MANIFEST | {"training": {"calibration": {"after": 0.0123}}, "history": [{}, {}]}
    manifest["data"] = MANIFEST["data"] | {"near_duplicates": 2}
    limits = model_card.write(manifest, "m").partition("## Limits")[2].partition("## Training")[0]
    assert "2 examples to measure on are few" in limits
    assert "best of several evaluations" in limits
    assert "2 validation examples have a near-duplicate in the training data." in limits
    assert "expected calibration error 0.012" in limits
