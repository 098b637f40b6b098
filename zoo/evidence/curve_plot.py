"""The picture of a comparison: learning curves, and the gap between training and test score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.evidence.comparison import Comparison, Row

INSTALL = "pip install 'backbone-zoo[plot]'"
COLOURS = ("#9aa0a6", "#4285b4", "#d1495b", "#2a9d5c", "#8e5ea2", "#e09f3e", "#3c3c3c", "#00838f")


def check_installed() -> None:
    """Raise ZooError without matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ZooError("the picture needs matplotlib, which is not installed", fix=INSTALL) from error


def plot(found: Comparison, path: Path) -> Path:
    """Draw score and gap against the number of training examples to an image file; returns its path.

    Bars are 95 % intervals for other items and draws; only what was measured is drawn. Raises ZooError without
    matplotlib.
    """
    check_installed()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    score, gap = figure.subplots(1, 2)
    models = list(dict.fromkeys((row.backbone, row.strategy) for row in found.rows))
    for number, (backbone, strategy) in enumerate(models):
        rows = [found.row(backbone, strategy, size) for size in found.sizes]
        style = {"color": COLOURS[number % len(COLOURS)], "marker": "o", "label": _label(found, rows[0])}
        sizes = [row.size * 1.02 ** (number - (len(models) - 1) / 2) for row in rows]  # bars side by side
        ends = [[row.mean - row.low for row in rows], [row.high - row.mean for row in rows]]
        score.errorbar(sizes, [row.mean for row in rows], yerr=ends, capsize=3, **style)
        gap.plot(sizes, [row.gap for row in rows], **style)
    metric = found.metric.replace("_", " ")
    _axes(score, found, f"test {metric}")
    score.set_title(f"{found.test:,} test items, 95 % intervals", loc="left", fontsize="medium")
    _axes(gap, found, f"{metric}: training better than test by")
    gap.set_ylim(bottom=min(0, *(row.gap for row in found.rows)) * 1.05)
    gap.set_title("Overfitting", loc="left", fontsize="medium")
    score.legend(frameon=False)
    figure.savefig(path, dpi=150)
    return path


def _label(found: Comparison, row: Row) -> str:
    return found.name(row.backbone, row.strategy).replace("scratch", "from scratch").replace("$", r"\$")


def _axes(axes: Any, found: Comparison, label: str) -> None:
    axes.set(xscale="log", xlabel="training examples", ylabel=label)
    axes.set_xticks(found.sizes, [f"{size:,}" for size in found.sizes])
    axes.minorticks_off()
    if len(found.sizes) == 1:
        axes.set_xlim(found.sizes[0] / 2, found.sizes[0] * 2)  # else the few percent between the bars fill the picture
    axes.grid(alpha=0.3)
