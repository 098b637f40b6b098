"""The command compare: learning curves of strategies and backbones as a table, sentences, a picture and JSON."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo import console
from zoo.cli import columns, complete_name
from zoo.cli.catalogue import print_table
from zoo.cli.startup import without_gc
from zoo.cli.train import fields_of, share_or_data
from zoo.errors import ArtefactError, RecipeError

if TYPE_CHECKING:
    from zoo.evidence.comparison import Comparison, Row


@click.command()
@click.argument("name", shell_complete=complete_name)
@click.argument("data")
@click.option("--with", "others", multiple=True, metavar="NAME", help="Another backbone; may be given several times.")
@click.option("--strategies", default="scratch,probe,auto", help="Strategies of `zoo finetune`.", show_default=True)
@click.option(
    "--sizes",
    default="1/8,1/4,1/2,1",
    show_default=True,
    help="Numbers of training examples, or shares of those beside the test items.",
)
@click.option("--draws", default=5, help="Random choices of training examples.", show_default=True)
@click.option("--test", help="Share kept apart to test on, or test data.  [default: half, at most 1,000 items]")
@click.option("--task", help="classify, multilabel, regress or tag.  [default: as labelled]")
@columns
@click.option("--groups", help="Column of what a split must not divide, such as the patient.")
@click.option("--out", type=click.Path(path_type=Path), help="Write OUT.png and OUT.json.  [default: compare-DATA]")
@click.option("--workers", help='Local processes, or "ray".  [default: as many as processors and memory allow]')
@click.option("--device", default="auto", help="auto, cpu, cuda, mps, …", show_default=True)
@click.option("--seed", default=0, help="Same seed, same machine: same numbers.", show_default=True)
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Any field of the recipe, for all strategies.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def compare(
    name: str,
    data: str,
    others: tuple[str, ...],
    strategies: str,
    sizes: str,
    out: Path | None,
    workers: str | None,
    pairs: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Show by how much transfer pays on your data, from few to all examples, or that it does not.

    Trains from scratch, a frozen probe and the default strategy on the same random draws of training examples, and
    measures all on the same test items. Prints scores with 95 % intervals, overfitting, paired differences with their
    p, and sentences that say what is shown. Interrupted and started again, it goes on.
    """
    stem = out or Path("compare-" + (Path(data.rpartition(":")[2]).stem or "data"))
    if not stem.absolute().parent.is_dir():
        fix = f"mkdir -p {shlex.quote(str(stem.parent))}, or another --out"
        raise ArtefactError(f"{stem.parent} does not exist", fix=fix)
    chosen = {key: value for key, value in options.items() if key not in ("test", "column")}
    chosen |= {"test": options["test"] and share_or_data(options["test"]), "input": options["column"]}
    count: Any = int(workers) if workers and workers.isdecimal() else workers
    with console.to(sys.stderr if as_json else sys.stdout):
        from zoo.data.reading import check_source

        check_source(data)
        with without_gc():
            from zoo.evidence import curve_plot
            from zoo.evidence.compare import compare as measure

        curve_plot.check_installed()
        given = {"strategies": strategies.split(","), "sizes": parse_sizes(sizes), "workers": count}
        found = measure([name, *others], data, **given, **chosen, **fields_of(pairs))
        picture, document = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.json")
        with _replacing(picture) as part:
            curve_plot.plot(found, part)
        with _replacing(document) as part:
            part.write_text(json.dumps(found.to_dict(), indent=1))
    if as_json:
        console.document(found.to_dict() | {"out": str(picture)})
        return
    show(found)
    console.line()
    console.line(console.printable(f"{picture}, {document}"))


def parse_sizes(text: str) -> list[float | int]:
    """Parse numbers of examples and shares: 1/8, 0.5, 1 (all), 200. Raises RecipeError."""
    found: list[float | int] = []
    for word in text.split(","):
        try:
            value = Fraction(word.strip())
        except (ValueError, ZeroDivisionError) as error:
            what = f"--sizes: {word.strip()!r} is neither a share nor a number of examples"
            raise RecipeError(what, fix="--sizes 1/8,1/4,1/2,1, or --sizes 50,100,200") from error
        found.append(int(value) if value.denominator == 1 else float(value))
    return found


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a new path to write to, which then takes the place of `path`. Raises ArtefactError."""
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ArtefactError(f"{path} cannot be written: {error}", fix="another place: --out ~/comparison") from error


def show(found: Comparison) -> None:
    """Print a table for each backbone, then the sentences."""
    backbones = list(dict.fromkeys(row.backbone for row in found.rows))
    for backbone in backbones:
        console.line()
        if len(backbones) > 1:
            console.line(console.printable(backbone))
        header = ("examples", "strategy", found.metric.replace("_", " "), "95 % interval", "training", "gap", "draws")
        rows = [row for row in found.rows if row.backbone == backbone]
        print_table([header, *(_cells(row) for row in sorted(rows, key=lambda row: row.size))])
    chosen = "; auto: what it chose in how many draws" if any(row.strategy == "auto" for row in found.rows) else ""
    console.sentence(f"(gap: training minus test score; draws: standard deviation over them{chosen})")
    for sentence in found.sentences:
        console.line()
        console.sentence(sentence)


def _cells(row: Row) -> tuple[str, ...]:
    names = [f"{name} {count}" for name, count in row.chosen.items()]
    strategy = f"auto ({', '.join(names)})" if row.strategy == "auto" else row.strategy
    spread = "" if row.draws_std is None else f"± {row.draws_std:.3f}"
    interval = f"[{row.low:.3f}, {row.high:.3f}]"
    return f"{row.size:>8,}", strategy, f"{row.mean:.3f}", interval, f"{row.train:.3f}", f"{row.gap:+.3f}", spread
