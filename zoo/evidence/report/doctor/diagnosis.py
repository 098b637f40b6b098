"""Diagnose: run all doctors on the facts of a model and rank what they find."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from zoo.evidence.report.doctor import data_doctor, limits, model_doctor, split_doctor
from zoo.evidence.report.doctor.examination import Examination
from zoo.evidence.report.facts import Facts
from zoo.evidence.report.findings import Finding

CONFIDENCE = ("certain", "likely", "possible")
KINDS = (
    *("leakage", "grouped-leakage", "shortcut", "conflicting-labels", "label-issues", "drift", "class-shares"),
    *("unreadable", "blank", "small-class", "overfitting", "few-validation-examples", "outliers"),
    "undetectable",
)
"""Kinds of findings, the most consequential first: what makes the score wrong, then the labels, then the rest."""
DOCTORS: tuple[Callable[[Examination], Iterator[Finding]], ...] = (
    split_doctor.examine,
    data_doctor.examine,
    model_doctor.examine,
    limits.examine,
)


def diagnose(facts: Facts) -> list[Finding]:
    """Return what is wrong with a model and its data, the surest and most consequential first.

    Language models have no labels: of them only unreadable inputs are reported.
    """
    found = Examination(facts)
    if not facts.task.labelled:
        return list(data_doctor.unreadable(found))
    findings = [finding for doctor in DOCTORS for finding in doctor(found)]
    return sorted(findings, key=lambda one: (CONFIDENCE.index(one.confidence), KINDS.index(one.kind)))
