"""Comparison: what `zoo.compare` measured, as rows, pairs and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from zoo.evidence import statistics
from zoo.tasks.task import LOWER_IS_BETTER


@dataclass(frozen=True, slots=True)
class Row:
    """The score of a backbone and strategy at one number of training examples.

    mean, low, high  mean score of the draws on the test items, with its 95 % interval for other items and draws
    test_error       half of the width that the choice of test items alone has, the models given (1.96 standard errors)
    draws_std        standard deviation over the draws, on the same test items; None for one draw
    train, gap       mean score on the training examples; how much better that is than `mean`: overfitting
    chosen           what strategy "auto" resolved to, with the number of draws
    """

    backbone: str
    strategy: str
    size: int
    draws: int
    mean: float
    low: float
    high: float
    test_error: float
    draws_std: float | None
    train: float
    gap: float
    chosen: dict[str, int]
    seconds: float


@dataclass(frozen=True, slots=True)
class Pair:
    """The difference of two models at one number of training examples, a minus b, on the same draws and items.

    p           of the permutation test (exact for right and wrong answers; McNemar's for one draw), and Holm-`adjusted`
                for all pairs
    detectable  the smallest true difference that would be found with 80 % probability
    """

    a: str
    b: str
    size: int
    difference: float
    low: float
    high: float
    p: float
    adjusted: float
    detectable: float

    def reversed(self) -> Pair:
        """Return the same difference, b minus a."""
        return replace(self, a=self.b, b=self.a, difference=-self.difference, low=-self.high, high=-self.low)

    @property
    def is_shown(self) -> bool:
        """Whether the difference is beyond chance, for other test items (p) and for other draws too (interval)."""
        return self.adjusted < statistics.ALPHA and not self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `zoo.compare` measured: a row for each model and size, a pair for each two models, sentences in English.

    pool, test  numbers of examples to draw from, and of test items
    leaked      test items with a near-duplicate in the pool
    """

    task: str
    metric: str
    data: str
    pool: int
    test: int
    leaked: int
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    sentences: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of training examples, smallest first."""
        return tuple(sorted({row.size for row in self.rows}))

    def rows_at(self, size: int) -> list[Row]:
        """Return the rows of one size."""
        return [row for row in self.rows if row.size == size]

    def row(self, backbone: str, strategy: str, size: int) -> Row:
        """Return one row."""
        wanted = (backbone, strategy, size)
        return next(row for row in self.rows if (row.backbone, row.strategy, row.size) == wanted)

    def best(self, rows: Sequence[Row]) -> Row:
        """Return the row with the best mean score."""
        return (min if self.metric in LOWER_IS_BETTER else max)(rows, key=lambda row: row.mean)

    def name(self, backbone: str, strategy: str) -> str:
        """Return the name of a model in pairs and sentences: the strategy, after the backbone if there are several."""
        return f"{backbone} {strategy}" if len({row.backbone for row in self.rows}) > 1 else strategy

    def pair(self, a: str, b: str, size: int) -> Pair:
        """Return the difference of two models, a minus b, in either order of the names."""
        for pair in self.pairs:
            if pair.size == size and {pair.a, pair.b} == {a, b}:
                return pair if pair.a == a else pair.reversed()
        raise KeyError((a, b, size))

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return asdict(self)
