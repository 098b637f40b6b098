"""What a report costs against the run before it, in items that the network reads: no clock decides."""

from __future__ import annotations

from zoo.evidence.report.doctor.examination import MOST
from zoo.evidence.report.explain.stage_table import PROBED
from zoo.evidence.report.facts import MAX_HELD, MAX_TRAIN
from zoo.model.model import Model

SHARE = 0.1
"""A report is written by default where it costs less than this share of the run."""
EXTRA = 900
"""Items that findings and explanations run beyond these: interventions, patches, saliency."""
BACKWARD = 3
"""Cost of a training step in forward passes of its items: the backward pass takes about twice the forward pass."""


def is_cheap(model: Model) -> bool:
    """Return whether a report on a model costs less than a tenth of its last fine-tuning, by a count of items."""
    hp, data = model.recipe, model.summary
    if hp is None or data is None:
        return False
    report = min(data.train, MAX_TRAIN) + min(data.valid, MAX_HELD) + min(data.test, MAX_HELD) + EXTRA
    report += sum(min(count, MOST) for count in (data.train, data.valid, data.test))  # by the frozen backbone
    report += 2 * sum(min(count, PROBED) for count in (data.train, data.valid))  # stages, before and after
    return report < SHARE * _run(model)


def _run(model: Model) -> int:
    """Return the items that the run read, a training step counted three times."""
    hp, data = model.recipe, model.summary
    assert hp is not None
    assert data is not None
    head = hp.views * data.train + data.valid if hp.has_probe else 0
    if hp.strategy == "probe":
        return head + data.test
    steps = min(hp.steps, hp.stop_after or hp.steps)
    return head + BACKWARD * steps * hp.batch_size + hp.evals * data.valid + data.test
