"""The charts of a report, from its results."""

from __future__ import annotations

from zoo.evidence.report.page.charts import Chart, extent, number
from zoo.evidence.report.results.classes import LabelCurve
from zoo.evidence.report.results.confidence import REFERRED, Calibrated, Coverage, Reliability
from zoo.evidence.report.results.learning_curve import LearningCurve
from zoo.evidence.report.results.numbers import NumberAnswers
from zoo.evidence.report.results.tokens import Surprise

UNIT = (0.0, 1.0)


def learning_curves(curve: LearningCurve) -> list[Chart]:
    """Return losses by step, and the main metric by step, each with the step that was kept."""
    steps = [x for x, _ in (*curve.train, *curve.valid)]
    ends = (min(steps), max(max(steps), min(steps) + 1))
    losses = extent([y for _, y in (*curve.train, *curve.valid)])
    named = metric_name(curve.metric)
    says = f"Loss of training and validation by step, from {number(ends[0])} to {number(ends[1])}"
    first = Chart(says, ends, losses, "training step", "loss")
    first.line(curve.train, "a", "training")
    first.line(curve.valid, "b dashed", "validation")
    charts = [first]
    if curve.scores:
        values = [y for _, y in curve.scores]
        says = f"Validation {named} by step: from {values[0]:.3f} to {values[-1]:.3f}"
        second = Chart(says, ends, extent(values), "training step", f"validation {named}")
        second.line(curve.scores, "b dashed", named)
        for x, y in curve.scores:
            second.dot(x, y, "b", f"step {x:g}: {named} {y:.4f}")
        if curve.start:
            second.line([(ends[0], values[0]), (ends[1], values[0])], "rule", "frozen probe")
        charts.append(second)
    if curve.chosen is not None:
        for chart in charts:
            chart.line([(curve.chosen, chart.y[0]), (curve.chosen, chart.y[1])], "chosen", f"kept: step {curve.chosen}")
    return charts


def metric_name(metric: str) -> str:
    """Return a metric as it is written in sentences: macro-F1, entity F1, mean average precision."""
    named = {
        "map": "mean average precision",
        "r2": "R²",
        "mae": "mean absolute error",
        "rmse": "root mean square error",
    }
    return named.get(metric, metric.replace("_f1", "-F1").replace("_", " "))


def reliability(found: Calibrated) -> list[Chart]:
    """Return the reliability diagram, that before temperature scaling first if there was any."""
    if found.before is None:
        return [_reliability(found.after, "")]
    return [_reliability(found.before, "before temperature scaling"), _reliability(found.after, "after it")]


def _reliability(found: Reliability, when: str) -> Chart:
    says = f"Share of right answers by probability {when}; expected calibration error {found.error:.3f}"
    name = f"probability, {when}" if when else "probability"
    chart = Chart(says, UNIT, UNIT, name, "right answers", percent=True)
    chart.line([(0, 0), (1, 1)], "rule", "calibrated")
    most = max((each.count for each in found.bins), default=1)
    for each in found.bins:
        chart.line([(each.probability, each.interval[0]), (each.probability, each.interval[1])], "whisker")
    for each in found.bins:
        title = f"{each.count:,} answers, mean probability {each.probability:.1%}: {each.accuracy:.1%} right"
        chart.dot(each.probability, each.accuracy, "b small" if each.count < most / 10 else "b", title)
    chart.line([(each.probability, each.accuracy) for each in found.bins], "b", "this model")
    return chart


def coverage(found: Coverage) -> Chart:
    """Return accuracy by the share of answers that are taken."""
    lowest = min(y for _, y in found.points)
    ends = (max(0.0, min(0.9, lowest - 0.02)), 1.0)
    left = 1 - REFERRED
    says = f"Accuracy of the surest answers by their share: {found.accuracy:.1%} at {left:.0%}"
    chart = Chart(says, UNIT, ends, "share of answers taken, surest first", "accuracy", percent=True)
    chart.line(found.points, "a", "accuracy of the answers taken")
    chart.line([(left, ends[0]), (left, ends[1])], "chosen", f"the least sure {REFERRED:.0%} go to a person")
    return chart


def label_curve(found: LabelCurve) -> Chart:
    """Return precision by recall of one label."""
    says = f"Precision by recall of {found.label}: average precision {found.average_precision:.3f}"
    chart = Chart(says, UNIT, UNIT, "recall", "precision", percent=True, width=300, height=200)
    chart.line([(0, found.share), (1, found.share)], "rule", f"chance {found.share:.0%}")
    chart.line(found.points, "a", f"average precision {found.average_precision:.3f}")
    return chart


def scatter(found: NumberAnswers) -> Chart:
    """Return answers by true value."""
    ends = extent([value for point in found.points for value in point], 0.04)
    says = f"Answers by true value of {found.name}: R² {found.r2:.3f}, mean absolute error {found.mae:.4g}"
    chart = Chart(says, ends, ends, f"true {found.name}", "answer", width=360, height=340)
    chart.line([(ends[0], ends[0]), (ends[1], ends[1])], "rule", "answer = truth")
    for truth, answer in found.points:
        chart.dot(truth, answer, "a faint", f"true {truth:.4g}, answer {answer:.4g}")
    return chart


def errors(found: NumberAnswers) -> Chart:
    """Return the histogram of the errors."""
    most = max(count for _, _, count in found.bins)
    says = f"Errors of {found.name}: mean {found.bias:.4g}, 90 % below {found.within:.4g}"
    chart = Chart(says, (found.bins[0][0], found.bins[-1][1]), (0.0, most * 1.06), "answer minus truth", "examples")
    for low, high, count in found.bins:
        chart.bar((low, high), count, "a", f"{count:,} from {low:.4g} to {high:.4g}")
    chart.line([(0, 0), (0, most * 1.06)], "rule")
    return chart


def losses(found: Surprise) -> Chart:
    """Return the histogram of the losses of tokens."""
    most = max(count for _, _, count in found.bins)
    says = f"Losses of {found.tokens:,} tokens in nats"
    chart = Chart(says, (0.0, found.bins[-1][1]), (0.0, most * 1.06), "loss of a token in nats", "tokens")
    for low, high, count in found.bins:
        chart.bar((low, high), count, "a", f"{count:,} tokens from {low:.2f} to {high:.2f} nats")
    return chart
