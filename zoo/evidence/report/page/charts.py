"""Charts as geometry: lines, dots, bars and ticks in pixels, which a template draws as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 440, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 22, 12, 40
"""Margins of the plot in pixels: room for the numbers and names of the axes."""
TICKS = 5
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """A line by its points "x,y x,y …", drawn in a style of the page; `name` is its legend ("" for none)."""

    points: str
    style: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Dot:
    """A dot, with the text that a pointer over it shows."""

    x: float
    y: float
    style: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle, with the text that a pointer over it shows."""

    x: float
    y: float
    width: float
    height: float
    style: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """A number on an axis, at a place in pixels."""

    at: float
    text: str


@dataclass(slots=True)
class Chart:
    """A chart with linear axes; `says` is its content in a sentence, for those who do not see it.

    x, y         (low, high) of the axes in the units of the data
    x_name, y_name  of the axes
    """

    says: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_name: str
    y_name: str
    percent: bool = False
    lines: list[Line] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def x_ticks(self) -> list[Tick]:
        """Ticks of the horizontal axis."""
        return [Tick(self.at_x(value), self._text(value, self.x)) for value in ticks(*self.x)]

    @property
    def y_ticks(self) -> list[Tick]:
        """Ticks of the vertical axis."""
        return [Tick(self.at_y(value), self._text(value, self.y)) for value in ticks(*self.y)]

    @property
    def plot(self) -> Bar:
        """The rectangle of the plot."""
        return Bar(LEFT, TOP, self.width - LEFT - RIGHT, self.height - TOP - BOTTOM, "plot")

    @property
    def legend(self) -> list[Line]:
        """The lines that have a name."""
        return [line for line in self.lines if line.name]

    def at_x(self, value: float) -> float:
        """Return the place of a value on the horizontal axis, in pixels."""
        return round(LEFT + _share(value, self.x) * (self.width - LEFT - RIGHT), 1)

    def at_y(self, value: float) -> float:
        """Return the place of a value on the vertical axis, in pixels."""
        return round(TOP + (1 - _share(value, self.y)) * (self.height - TOP - BOTTOM), 1)

    def line(self, points: Sequence[Point], style: str, name: str = "") -> None:
        """Add a line through points in the units of the data."""
        found = " ".join(f"{self.at_x(x):g},{self.at_y(y):g}" for x, y in points)
        self.lines.append(Line(found, style, name))

    def dot(self, x: float, y: float, style: str, title: str = "") -> None:
        """Add a dot."""
        self.dots.append(Dot(self.at_x(x), self.at_y(y), style, title))

    def bar(self, ends: tuple[float, float], y: float, style: str, title: str = "") -> None:
        """Add a bar from `ends[0]` to `ends[1]`, from the axis to y."""
        left, right, top = self.at_x(ends[0]), self.at_x(ends[1]), self.at_y(y)
        base = self.at_y(max(0.0, self.y[0]))
        self.bars.append(Bar(left + 0.5, top, max(0.5, round(right - left - 1, 1)), round(base - top, 1), style, title))

    def _text(self, value: float, ends: tuple[float, float]) -> str:
        if self.percent and ends == (0.0, 1.0):
            return f"{value:.0%}"
        return number(value)


def number(value: float) -> str:
    """Return a number for an axis: few digits, thousands as 12k."""
    if abs(value) >= 10_000:
        return f"{value / 1_000:,.4g}k"
    return f"{value:.4g}"


def _share(value: float, ends: tuple[float, float]) -> float:
    low, high = ends
    share = (value - low) / (high - low) if high > low else 0.5
    return min(1.02, max(-0.02, share)) if math.isfinite(share) else 0.0


def ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers from low to high."""
    if not high > low:
        return [low]
    rough = (high - low) / TICKS
    unit = 10 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def extent(values: Sequence[float], pad: float = 0.06) -> tuple[float, float]:
    """Return the ends of an axis that holds all finite values, a little apart from its edges."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    room = (high - low) * pad or abs(high) * pad or 1.0
    return low - room, high + room
