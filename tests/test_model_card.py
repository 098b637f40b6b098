"""The model card: labels, names and licences of any content add no markup, and no characters that a terminal obeys."""

from __future__ import annotations

import pytest

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


def card(text: str) -> str:
    manifest = {
        "entry": {"name": text, "license": text, "pretrained_on": text, "source": text},
        "task": {"name": "classify", "labels": [text, "other"]},
        "metrics": {"accuracy": 0.5},
        "tested": {},
        "data": {
            **{"origin": text, "train": 8, "valid": 2, "test": 0, "fingerprint": "0"},
            **{"near_duplicates": None, "test_duplicates": None},
        },
        "recipe": {"strategy": "full", "seed": 0},
    }
    return model_card.write(manifest, text)


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
