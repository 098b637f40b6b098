"""Limits: faults that these data could not have shown, so that their absence among the findings means nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from zoo.evidence.report.doctor import drift, outliers
from zoo.evidence.report.doctor.examination import Examination
from zoo.evidence.report.doctor.model_doctor import NAMES
from zoo.evidence.report.findings import Finding

WEAK_AUC, WEAK_SHARE = 0.65, 0.5
"""Drift that small enough a part would not show, and the least share of a class left out that has to be found."""


def examine(found: Examination) -> Iterator[Finding]:
    """Yield one finding that lists what could not be told, if there is something."""
    if not found.has_rows or not found.facts.task.single_label:
        return
    limits = [*_of_drift(found), *_of_outliers(found)]
    if limits:
        what = f"Not found, but these data could hardly have shown it: {' and '.join(name for name, _ in limits)}"
        evidence = "; ".join(sentence for _, sentence in limits)
        fix = "look at some inputs of each part yourself; more examples, of the test data above all, show more"
        yield Finding("undetectable", what, evidence, "possible", fix)


def _of_drift(found: Examination) -> Iterator[tuple[str, str]]:
    for part, moved in found.drifts.items():
        if not moved.is_drift and moved.detectable > WEAK_AUC:
            yield (
                f"drift of the {NAMES[part]} data",
                f"on {len(found.rows[part]):,} {NAMES[part]} examples a classifier has to tell them from training data "
                f"with an area under the ROC curve of {moved.detectable:.2f} to be noticed ({drift.POWER:.0%} power, "
                f"p = {drift.MAX_P:g}), and reaches {moved.auc:.2f}",
            )


def _of_outliers(found: Examination) -> Iterator[tuple[str, str]]:
    features = np.concatenate([part.double().numpy() for part in found.pooled.values()])
    if len(outliers.find(features)[0]):
        return
    share = outliers.share_told(features, np.concatenate(list(found.labels.values())))
    if share < WEAK_SHARE:
        kind = "pictures" if found.facts.entry.modality == "image" else "texts"
        yield (
            f"{kind} that belong to no class",
            f"with each class left out in turn, {share:.0%} of its examples are far enough from the others to count as "
            "outliers",
        )
