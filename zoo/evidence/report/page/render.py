"""Render a report: facts, results, findings and an explanation to one HTML text that refers to nothing outside it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from zoo.console import printable
from zoo.evidence.report.explain.explanation import Explanation
from zoo.evidence.report.facts import Facts
from zoo.evidence.report.findings import Finding
from zoo.evidence.report.page import figures
from zoo.evidence.report.page.thumbnails import Shown, show
from zoo.evidence.report.page.why import why
from zoo.evidence.report.results.measure import Results
from zoo.evidence.report.results.mistakes import Word
from zoo.tasks import metrics
from zoo.tasks.task import Task

TEMPLATES = Path(__file__).parent / "templates"
PARTS = {"train": "training", "valid": "validation", "test": "test"}
UNITS = {"multilabel": "labels", "tag": "tags", "regress": "numbers"}
SHARES = ("accuracy", "macro_f1", "micro_f1", "entity_f1", "map")
"""Metrics between 0 and 1."""
LONGEST_LABEL = 100
"""Characters of a label that are shown."""
COMMAND = re.compile(r"(zoo [a-z]+ (?:[^;,]|,(?! ))*)")
"""A command in a sentence, to the next comma or semicolon."""
MAX_ITEMS = 12
"""Most examples of a finding that are shown."""


@dataclass(frozen=True, slots=True)
class MistakeItem:
    """A mistake on the page; `pair` names true class and answer, `first` marks the first mistake of a pair."""

    shown: Shown
    truth: Any
    answer: Any
    probability: float | None
    words: tuple[Word, ...]
    pair: str
    first: bool


@dataclass(frozen=True, slots=True)
class Item:
    """An example of a finding."""

    example: Shown
    note: str


def render(
    facts: Facts,
    results: Results | None,
    findings: Sequence[Finding] | None = None,
    explanation: Explanation | None = None,
) -> str:
    """Return the text of the page; every label, text and path in it is escaped.

    Without `findings` (None) or an explanation the page has no such section.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"printable": printable, "metric": figures.metric_name, "figure": figure, "label": label}
    environment.filters["commands"] = commands
    script = _asset("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    mistakes = _mistakes(facts, results)
    context = {
        "facts": facts,
        "results": results,
        "findings": findings,
        "why": None if explanation is None else why(facts, explanation),
        "title": f"{facts.entry.name} on {Path(facts.summary.origin).name or facts.summary.origin}",
        "script": script,
        "script_hash": f"sha256-{digest}",
        "style": _asset("style.css"),
        "parts": PARTS,
        "units": UNITS.get(facts.task.name, "classes"),
        "entities": facts.task.name == "tag" and metrics.marks_entities([str(tag) for tag in facts.task.labels]),
        "unit_scale": results is not None and results.metric in SHARES,
        "charts": _charts(results),
        "places": _places(facts.task),
        "mistakes": mistakes,
        "pairs": {one.pair for one in mistakes if one.pair},
        "items": lambda finding: _items(facts, finding),
        "details": list(_details(facts)),
        "recipe": [(name, value) for name, value in asdict(facts.recipe).items() if value is not None],
    }
    return environment.get_template("report.html").render(context)


def _asset(name: str) -> Markup:
    """Return a file of the templates that is trusted as it is: the style or the script."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def figure(value: float) -> str:
    """Return a metric with as many digits as mean something."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.4g}"


def commands(text: str) -> Markup:
    """Return an escaped text with its commands, such as zoo report MODEL, as code."""
    parts = COMMAND.split(printable(text))
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def label(value: Any) -> str:
    """Return a label, several or a number as text."""
    if isinstance(value, tuple | list):
        return ", ".join(label(each) for each in value) or "none"
    return printable(f"{value:.4g}" if isinstance(value, float) else str(value), LONGEST_LABEL)


def _places(task: Task) -> dict[Any, int]:
    return {name: place for place, name in enumerate(task.labels)}


def _charts(results: Results | None) -> dict[str, Any]:
    """Return the charts of the results by section, empty where there are none."""
    if results is None:
        return {}
    return {
        "learning": figures.learning_curves(results.curve) if results.curve else [],
        "reliability": figures.reliability(results.calibrated) if results.calibrated else [],
        "coverage": figures.coverage(results.coverage) if results.coverage else None,
        "label_curves": [(figures.label_curve(each), each) for each in results.label_curves],
        "numbers": [(figures.scatter(each), figures.errors(each), each) for each in results.numbers],
        "losses": figures.losses(results.surprise) if results.surprise else None,
    }


def _mistakes(facts: Facts, results: Results | None) -> list[MistakeItem]:
    """Return the mistakes with their pictures or excerpts."""
    part = facts.held_out
    if results is None or results.mistakes is None or part is None:
        return []
    places, seen, found = _places(facts.task), set(), []
    for one in results.mistakes.shown:
        mistake = one.mistake
        pair = f"{places[mistake.truth]}-{places[mistake.answer]}" if facts.task.single_label else ""
        shown = show(part.examples, part.inputs, mistake.index)
        answers = mistake.truth, mistake.answer, mistake.probability
        found.append(MistakeItem(shown, *answers, one.words, pair, pair not in seen))
        seen.add(pair)
    return found


def _items(facts: Facts, finding: Finding) -> list[Item]:
    """Return the first examples of a finding."""
    known = [(facts.parts[one.part], one) for one in finding.items[:MAX_ITEMS] if one.part in facts.parts]
    return [
        Item(show(part.whole.examples, part.whole.inputs, one.index), one.note)
        for part, one in known
        if not part.is_blocks
    ]


def _details(facts: Facts) -> Iterator[tuple[str, str]]:
    """Yield what is known about data, backbone and run."""
    entry, summary = facts.entry, facts.summary
    yield "data", summary.origin
    yield "fingerprint", f"SHA-256 {summary.fingerprint}"
    for name, count in (("validation", summary.near_duplicates), ("test", summary.test_duplicates)):
        if count is not None:
            yield f"near-duplicates in {name}", f"{count:,}"
    yield (
        "backbone",
        f"{entry.name}, pretrained on {entry.pretrained_on or '?'}, from {entry.source or 'random weights'}",
    )
    yield "licence of the backbone", entry.license or "unknown"
    if seconds := facts.training.get("seconds"):
        yield "seconds of the run", f"{seconds:g}"
