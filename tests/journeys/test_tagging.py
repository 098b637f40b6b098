"""Journey: names in texts, from CoNLL files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import words
from commands import run

import zoo


def conll(count: int, seed: int) -> str:
    """Return sentences in CoNLL-2003's columns, with good and bad words as two kinds of entities."""
    kinds = dict.fromkeys(words.GOOD, "B-GOOD") | dict.fromkeys(words.BAD, "B-BAD")
    sentences = [text.split() for text, _ in words.reviews(count, seed)]
    lines = ["\n".join(f"{word} NN O {kinds.get(word, 'O')}" for word in sentence) for sentence in sentences]
    return "-DOCSTART- -X- -X- O\n\n" + "\n\n".join(lines) + "\n"


@pytest.fixture
def data() -> Path:
    folder = Path("names")
    folder.mkdir()
    for name, seed in (("train", 0), ("valid", 1), ("test", 2)):
        (folder / f"{name}.txt").write_text(conll(40, seed))
    return folder


def test_tagging(data, distribution, tmp_path):
    net = words.pretrained(distribution, tmp_path / "weights")
    out = run("finetune", net, data, "--strategy", "probe", "--set", "l2=0.001", "--out", "tagger", "--device", "cpu")
    assert "40 texts, 3 tags -> tag; validation on names/valid.txt" in out
    known = zoo.load("tagger", "cpu").training["intervals"]["valid"]
    assert known["entity_f1"][0] <= zoo.load("tagger", "cpu").metrics["entity_f1"] <= known["entity_f1"][1]
    assert re.search(r"result    accuracy 0\.\d+ \[|result    accuracy 1\.000 \[", out)
    found = json.loads(run("evaluate", "tagger", data, "--json"))["metrics"]
    assert found["entity_f1"] > 0.9

    (prediction,) = zoo.load("tagger").predict([["a", "great", "film"]])
    assert prediction.label == ("O", "B-GOOD", "O")

    (data / "train.txt").rename(data / "train.conll")
    text = (data / "train.conll").read_text().replace("NN O B-BAD", "NN B-BAD", 1)
    (data / "train.conll").write_text(text)
    assert "columns, and 4 are expected: a word, then its tags" in run("finetune", net, data, "--out", "x", code=1)
