"""The section "why it works" of a page: charts of the stages, pictures of filters and patches, answers and words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from zoo.evidence.report.explain.explanation import Explanation, Item, Neighbours, Picture, Saliency, Stage
from zoo.evidence.report.facts import Facts
from zoo.evidence.report.page.charts import Chart
from zoo.evidence.report.page.figures import metric_name
from zoo.evidence.report.page.thumbnails import Shown, data_uri, show
from zoo.tasks.task import LOWER_IS_BETTER

PATCH, TILE, SHEET = 44, 24, 16
"""Pixels of a patch's side; of a filter's; filters in a row."""
WORDS = 90
"""Words of a text that are shown: those around the ones with the largest shares."""
SMALL: dict[str, Any] = {"width": 350, "height": 230}
"""Size of a chart: three of them in a row."""
MISSING = {
    "stages": "stages",
    "similarity": "similarity and distance",
    "probe": "probes",
    "filters": "filters",
    "channels": "patches",
    "saliency": "what answers rest on",
    "neighbours": "nearest training examples",
}


@dataclass(frozen=True, slots=True)
class Word:
    """A word with the sign of its share, and its size from 0 to 1 relative to the largest."""

    text: str
    towards: bool
    size: float
    share: float


@dataclass(frozen=True, slots=True)
class Mark:
    """The share of a cell of a picture: its middle and a radius, in percent of the picture, and the sign."""

    x: float
    y: float
    radius: float
    towards: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with what it rests on, and of a wrong one the nearest training examples with their cosines."""

    shown: Shown
    truth: str
    answer: str
    saliency: Saliency | None
    marks: tuple[Mark, ...] = ()
    words: tuple[Word, ...] = ()
    cut: tuple[bool, bool] = (False, False)
    nearest: tuple[tuple[Shown, str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel of a stage with its patches, data URI and label, and their commonest label ("" where all differ)."""

    number: int
    field: float
    patches: tuple[tuple[str, str], ...]
    commonest: str


@dataclass(frozen=True, slots=True)
class Why:
    """What the template of the section shows."""

    found: Explanation
    depth: Chart | None
    moved: tuple[Chart, ...]
    filters: str
    channels: tuple[tuple[Stage, tuple[Channel, ...]], ...]
    wrong: tuple[Answer, ...]
    right: tuple[Answer, ...]
    missing: tuple[tuple[str, str], ...]


def why(facts: Facts, found: Explanation) -> Why:
    """Return the section of an explanation."""
    near = {each.item: each for each in found.neighbours}
    wrong = [_answer(facts, each.item, each, near.pop(each.item, None)) for each in found.saliency if each.wrong]
    wrong += [_answer(facts, item, None, each) for item, each in near.items()]
    return Why(
        found,
        _depth(found),
        tuple(_moved(found)),
        "" if found.filters is None else data_uri(_sheet(found.filters.pictures), SHEET * (TILE + 1), lossless=True),
        tuple(_channels(found)),
        tuple(wrong),
        tuple(_answer(facts, each.item, each, None) for each in found.saliency if not each.wrong),
        tuple((MISSING[name], reason) for name, reason in found.missing.items()),
    )


def _depth(found: Explanation) -> Chart | None:
    """Return the score of a probe by depth, with the pretrained weights and with the fine-tuned ones."""
    places = [(place, stage) for place, stage in enumerate(found.stages, 1) if stage.probe is not None]
    if not places:
        return None
    named = metric_name(found.metric)
    values = [y for _, stage in places for probe in (stage.probe, stage.before) if probe for y in (probe.score,)]
    values += [y for _, stage in places if stage.probe for y in (stage.probe.low, stage.probe.high) if y is not None]
    first, last = places[0][1].probe, places[-1][1].probe
    assert first is not None
    assert last is not None
    says = f"{named} of a linear probe by depth: {first.score:.3f} at the first stage, {last.score:.3f} at the features"
    ends = (math.floor(min(values) * 10) / 10, math.ceil(max(values) * 10) / 10)
    if found.metric in LOWER_IS_BETTER:
        ends = (0.0, 1.05 * max(values))
    chart = Chart(
        says, (0.5, len(found.stages) + 0.5), ends, "stage (last: pooled features)", f"probe {named}", **SMALL
    )
    for place, stage in places:
        probe = stage.probe
        assert probe is not None
        if probe.low is not None and probe.high is not None:
            chart.line([(place, probe.low), (place, probe.high)], "whisker")
        chart.dot(place, probe.score, "b", f"{stage.name}: {named} {probe.score:.3f}")
    if not found.is_frozen:
        before = [(place, stage.before.score) for place, stage in places if stage.before is not None]
        if before:
            chart.line(before, "a dashed", "pretrained")
    chart.line(
        [(place, stage.probe.score) for place, stage in places if stage.probe],
        "b",
        "pretrained" if found.is_frozen else "fine-tuned",
    )
    return chart


def _moved(found: Explanation) -> list[Chart]:
    """Return the distance of the weights by stage, and the similarity of the outputs by stage."""
    charts = []
    count = len(found.stages)
    moved = [(place, stage.moved) for place, stage in enumerate(found.stages, 1) if stage.moved is not None]
    if moved and not found.is_frozen:
        most = max(100 * value for _, value in moved)
        says = f"Weights moved by up to {most:.2g} % of their norm"
        chart = Chart(says, (0.5, count + 0.5), (0.0, most * 1.08 or 1.0), "stage", "weights moved, % of norm", **SMALL)
        for place, value in moved:
            title = f"{found.stages[place - 1].name}: {100 * value:.2g} %"
            chart.bar((place - 0.35, place + 0.35), 100 * value, "a", title)
        charts.append(chart)
    similar = [(place, stage.similarity) for place, stage in enumerate(found.stages, 1) if stage.similarity]
    if similar and not found.is_frozen:
        least = min(similarity.cka for _, similarity in similar)
        says = f"Debiased CKA of the outputs before and after fine-tuning: at least {least:.2f}"
        ends = (min(0.0, math.floor(least * 10) / 10), 1.05)
        chart = Chart(
            says, (0.5, count + 0.5), ends, "stage (last: pooled features)", "CKA with pretrained outputs", **SMALL
        )
        chart.line([(place, similarity.cka) for place, similarity in similar], "b", "before against after")
        for place, similarity in similar:
            chart.dot(place, similarity.cka, "b", f"{found.stages[place - 1].name}: {similarity.cka:.3f}")
        chart.line([(place, similarity.floor) for place, similarity in similar], "rule", "unrelated")
        charts.append(chart)
    return charts


def _sheet(pictures: Picture) -> torch.Tensor:
    """Return filters (K, h, w, C) as one picture (C, H, W), each enlarged by a whole factor, 16 in a row."""
    count, height, width, channels = pictures.shape
    factor = max(1, TILE // max(height, width))
    tiles = torch.from_numpy(pictures).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    height, width, columns = height * factor + 1, width * factor + 1, min(SHEET, count)
    sheet = torch.full((math.ceil(count / columns) * height, columns * width, channels), 255, dtype=torch.uint8)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet[row * height :, column * width :][: tile.shape[0], : tile.shape[1]] = tile
    return sheet.permute(2, 0, 1)


def _channels(found: Explanation) -> list[tuple[Stage, tuple[Channel, ...]]]:
    """Return the channels by stage."""
    by_number = {stage.number: stage for stage in found.stages}
    return [
        (
            by_number[number],
            tuple(
                Channel(
                    each.channel,
                    each.field,
                    tuple((data_uri(_pixels(patch.picture), PATCH), patch.item.truth) for patch in each.patches),
                    _commonest([patch.item.truth for patch in each.patches]),
                )
                for each in channels
            ),
        )
        for number, channels in groupby(found.channels, lambda each: each.stage)
    ]


def _commonest(labels: Sequence[str]) -> str:
    label, count = Counter(labels).most_common(1)[0]
    return f"{label} {count} of {len(labels)}" if count > 1 else ""


def _pixels(picture: Picture) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)


def _answer(facts: Facts, item: Item, saliency: Saliency | None, near: Neighbours | None) -> Answer:
    marks: tuple[Mark, ...] = ()
    words: tuple[Word, ...] = ()
    cut = (False, False)
    is_tag = facts.task.reads == "tokens"  # a text has many labels: that of one word is explained
    if saliency is not None and saliency.heat is not None:
        marks = tuple(_marks(saliency.heat))
    if saliency is not None and saliency.words:
        words, cut = _words(saliency.words)
    near_ones = () if near is None else near.nearest
    nearest = tuple((_shown(facts, one), "" if is_tag else one.truth, cosine) for one, cosine in near_ones)
    truth = saliency.against if is_tag and saliency is not None and saliency.wrong else item.truth
    return Answer(_shown(facts, item), truth, item.answer, saliency, marks, words, cut, nearest)


def _shown(facts: Facts, item: Item) -> Shown:
    whole = facts.parts[item.part].whole
    return show(whole.examples, whole.inputs, item.index)


def _marks(heat: Any) -> list[Mark]:
    """Return a mark for each cell of a heat map (G, G), its area as the share; none for less than a tenth."""
    most, count = float(abs(heat).max()) or 1.0, len(heat)
    return [
        Mark(
            round(100 * (x + 0.5) / count, 1),
            round(100 * (y + 0.5) / count, 1),
            round(50 / count * math.sqrt(abs(heat[y, x]) / most), 1),
            bool(heat[y, x] > 0),
        )
        for y in range(count)
        for x in range(count)
        if abs(heat[y, x]) >= most / 10
    ]


def _words(words: Sequence[tuple[str, float]]) -> tuple[tuple[Word, ...], tuple[bool, bool]]:
    """Return the run of words with the largest shares in all, and whether words before and behind it are left out."""
    sizes = [abs(share) for _, share in words]
    starts = range(max(1, len(words) - WORDS + 1))
    start = max(starts, key=lambda place: (sum(sizes[place : place + WORDS]), -place))
    most = max(sizes) or 1.0
    kept = words[start : start + WORDS]
    shown = tuple(Word(text, share > 0, abs(share) / most, share) for text, share in kept)
    return shown, (start > 0, start + WORDS < len(words))
