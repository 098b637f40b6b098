"""The learning curve that a run recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zoo.tasks.task import LOWER_IS_BETTER

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """Losses and main metric by training step.

    train, valid  (step, loss); that of training is the mean over the steps before
    metric        name of the main metric; scores: (step, value) on the validation data
    chosen        step of the weights that were kept, None where it was not recorded
    start         whether the first point, step 0, is that of a head on the frozen backbone
    """

    train: Points
    valid: Points
    metric: str
    scores: Points
    chosen: int | None
    start: bool

    @property
    def lower_is_better(self) -> bool:
        """Whether the main metric is an error."""
        return self.metric in LOWER_IS_BETTER


def learning_curve(
    history: Sequence[Mapping[str, float]], metric: str, *, chosen: int | None, strategy: str
) -> LearningCurve | None:
    """Return the curve of a run's history; None for fewer than two evaluations, as of a probe."""
    if len(history) < 2:
        return None

    def points(name: str) -> Points:
        return tuple((row["step"], row[name]) for row in history if name in row)

    start = strategy in ("lp-ft", "gradual") and history[0]["step"] == 0
    return LearningCurve(points("loss"), points("valid_loss"), metric, points(f"valid_{metric}"), chosen, start)
