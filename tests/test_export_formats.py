"""The table family x format of docs/export.md: each cell is exported and verified, or refused for the stated reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pictures
import pytest
import tiny
import torch
import words
from fresh_processes import Fresh

import zoo
from zoo.errors import ExportError
from zoo.export.export import export
from zoo.export.source import Source
from zoo.model import exporting

pytestmark = pytest.mark.real
PAGE = (Path(__file__).parents[1] / "docs" / "export.md").read_text()
CLS = {"1_Pooling/config.json": b'{"pooling_mode_cls_token": true}'}
REVIEWS = words.reviews(12)
TAGS = [(text.split(), ["A" if word in words.GOOD else "O" for word in text.split()]) for text, _ in REVIEWS]
SETS = [(text, ["x", "y"][: i % 3]) for i, (text, _) in enumerate(REVIEWS)]
NUMBERS = [(text, float(i % 5)) for i, (text, _) in enumerate(REVIEWS)]
HUB: dict[str, tuple[str, list, dict]] = {
    "BERT, class token": ("bert", REVIEWS, CLS),
    "BERT, mean (MiniLM)": ("bert", REVIEWS, {}),
    "BERT, label sets": ("bert", SETS, CLS),
    "BERT, numbers": ("bert", NUMBERS, CLS),
    "BERT, tags": ("bert", TAGS, {}),
    "BERT, masked language model": ("bert", [text for text, _ in REVIEWS], {}),
    "T5 encoder": ("t5", REVIEWS, {}),
    "GPT-2": ("gpt2", REVIEWS, {}),
    "GPT-2, causal language model": ("gpt2", [text for text, _ in REVIEWS], {}),
    "Llama": ("llama", REVIEWS, {}),
    "ViT": ("vit", pictures.pairs(3), {}),
}
TASKS = {"BERT, masked language model": "masked-lm", "GPT-2, causal language model": "causal-lm"}
ROWS = {"timm's ViT": ("timm", "test_vit", 160), "zoo's ResNet-18": ("native", "resnet18", 32)}
_sources: dict[str, Source] = {}


def cells() -> list:
    """Return (family, format, cell) of the table."""
    lines = PAGE.partition("<!-- formats -->")[2].partition("<!-- end -->")[0].strip().splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    (_, *forms), _, *rows = table
    return [(row[0], form.strip("`"), cell) for row in rows for form, cell in zip(forms, row[1:], strict=True)]


def reason(letter: str) -> str:
    """Return the words of the message that a letter of the table stands for."""
    return re.search(rf"^- \({letter}\).*?`([^`]+)`", PAGE, flags=re.MULTILINE)[1]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    with Fresh(str(tmp_path_factory.mktemp("fresh"))) as processes:
        yield processes


@pytest.fixture
def source(serve, isolated, pretrained) -> Callable[[str], Source]:
    """Return a function that makes the tiny model of a family, once."""

    def make(family: str) -> Source:
        fields = {"valid": 0, "steps": 1, "quiet": True, "head_stages": 0, "strategy": "probe"}
        if family in HUB:
            kind, data, more = HUB[family]
            serve(net={**tiny.repository(kind), **more})
            if task := TASKS.get(family):
                fields |= {"task": task, "strategy": "full"}
            return exporting.source(zoo.load("hf/tiny/net", "cpu").finetune(data, **fields))
        if family not in ROWS:
            return exporting.source(zoo.load(pretrained, "cpu"))
        plugin, arch, size = ROWS[family]
        scale = "mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5]"
        row = f'["tiny/net"]\nplugin = "{plugin}"\nmodality = "image"\noptions = {{ arch = "{arch}" }}\n'
        (isolated / "zoo.toml").write_text(f"{row}input = {{ size = {size}, {scale} }}\n")
        data = pictures.pairs(2)
        return exporting.source(zoo.load("tiny/net", "cpu").finetune(data, **fields | {"strategy": "scratch"}))

    def once(family: str) -> Source:
        if family not in _sources:
            made = _sources[family] = make(family)
            if made.task.labelled:  # a head after one step is nearly zero
                head = made.network.head.weight
                head.normal_(std=head.shape[1] ** -0.5, generator=torch.Generator().manual_seed(0))
        return _sources[family]

    return once


@pytest.mark.parametrize(("family", "form", "cell"), cells())
def test_a_cell_of_the_table(source, fresh, monkeypatch, family, form, cell):
    monkeypatch.setattr("zoo.export.verify.subprocess", fresh)
    made = source(family)
    inputs = None
    if made.task.labelled and not made.takes_words and made.backbone.tokenizer is not None:
        inputs = ["a great film", "the plot was dull and the cast poor", "lovely"]
    if cell == "yes":
        verified = export(made, form, Path("out"), inputs)
        assert verified.items == verified.top1_equal > 0
    else:
        with pytest.raises(ExportError, match=re.escape(reason(cell.strip("()")))):
            export(made, form, Path("out"), inputs)
        assert not Path("out").exists()
