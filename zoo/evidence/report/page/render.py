"""Render a report: facts, results, findings and an explanation to one HTML text that refers to nothing outside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from zoo.console import printable
from zoo.evidence.report.facts import Facts
from zoo.evidence.report.findings import Finding
from zoo.evidence.report.results.measure import Results

TEMPLATES = Path(__file__).parent / "templates"


def render(facts: Facts, results: Results | None, findings: Sequence[Finding] = (), explanation: Any = None) -> str:
    """Return the text of the page; every label, text and path in it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    page = environment.get_template("report.html")
    return page.render(facts=facts, results=results, findings=findings, explanation=explanation)
