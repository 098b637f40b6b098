"""What a report costs against the run before it, in items that the network reads: no clock decides."""

from __future__ import annotations

from zoo.evidence.report.facts import MAX_HELD, MAX_TRAIN
from zoo.evidence.report.features import EXAMINED
from zoo.model.model import Model

SHARE = 0.1
"""A report is written by default where it costs less than this share of the run."""
EXTRA = 700
"""Items that findings and explanations run beyond these: interventions, patches, saliency."""
BACKWARD = 3
"""Cost of a training step in forward passes of its items: the backward pass takes about twice the forward pass."""


def is_cheap(model: Model) -> bool:
    """Return whether a report on a model costs less than a tenth of its last fine-tuning, by a count of items."""
    hp, data = model.recipe, model.summary
    if hp is None or data is None:
        return False
    report = min(data.train, MAX_TRAIN) + min(data.valid, MAX_HELD) + min(data.test, MAX_HELD) + EXTRA
    if hp.strategy != "probe":  # and once more by the pretrained weights
        report += sum(min(count, EXAMINED) for count in (data.train, data.valid, data.test))
    return report < SHARE * _run(model)


def _run(model: Model) -> int:
    """Return the items that the run read, a training step counted three times."""
    hp, data = model.recipe, model.summary
    assert hp is not None
    assert data is not None
    assert model.task is not None
    head = hp.most_views * data.train + data.valid if hp.has_probe and model.task.labelled else 0
    if hp.strategy == "probe":
        return head + data.test
    steps = max((int(row["step"]) for row in model.history), default=hp.steps)  # fewer where it stopped early
    return head + BACKWARD * steps * hp.batch_size + len(model.history) * data.valid + data.test
