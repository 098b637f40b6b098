"""The command rank."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from zoo import console
from zoo.cli import columns, complete_name
from zoo.cli.catalogue import JSON, parse_count, print_table

if TYPE_CHECKING:
    from zoo.evidence.verdict import Ranking, Row

UNITS = {"s": 1, "m": 60, "h": 3600}
BYTES = {"KB": 1e3, "MB": 1e6, "GB": 1e9}


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Parse a duration such as 90s, 10m or 2h; raises click.BadParameter."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", value.strip().lower()) if value else None
    if value and not found:
        raise click.BadParameter(f"{value!r} is not a duration such as 90s, 10m or 2h", ctx, param)
    return float(found[1]) * UNITS[found[2] or "s"] if found else None


def _bytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Parse a size such as 100MB; raises click.BadParameter."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(KB|MB|GB)?", value.strip().upper()) if value else None
    if value and not found:
        raise click.BadParameter(f"{value!r} is not a size such as 500KB, 100MB or 2GB", ctx, param)
    return round(float(found[1]) * BYTES.get(found[2], 1)) if found else None


def _workers(ctx: click.Context, param: click.Parameter, value: str | None) -> int | str | None:
    """Parse a number of processes, or "ray"; raises click.BadParameter."""
    if value is None or value == "ray":
        return value
    if not value.isdecimal() or not int(value):
        raise click.BadParameter(f"{value!r} is not a whole number above 0, or ray", ctx, param)
    return int(value)


@click.command()
@click.argument("data")
@click.argument("names", nargs=-1, shell_complete=complete_name)
@click.option("--recommended", is_flag=True, help="The recommended backbones, beside those named.")
@click.option("--task", help="classify, multilabel, regress or tag.  [default: as labelled]")
@columns
@click.option("--groups", help="Column of what a fold must not divide, such as the patient.")
@click.option("--max-params", callback=parse_count, metavar="N", help="Maximum number of parameters, such as 30M.")
@click.option("--license", help="Only backbones with this licence, such as apache-2.0.")
@click.option("--max-bytes", callback=_bytes, metavar="SIZE", help="Maximum size of the files, such as 100MB.")
@click.option("--max-ms", type=float, metavar="MS", help="Maximum milliseconds for an item on this machine.")
@click.option(
    "--finals", type=click.IntRange(0), default=0, metavar="N", help="Fine-tune the best N too, by cross-validation."
)
@click.option("--budget", callback=_seconds, metavar="TIME", help="Start nothing new after this time, such as 10m.")
@click.option("--workers", callback=_workers, metavar="N", help="Processes, or ray.  [default: as many as fit]")
@click.option("--device", default="auto", help="auto, cpu, cuda, mps, …", show_default=True)
@click.option("--seed", default=0, help="Same seed, same machine: same scores.", show_default=True)
@JSON
def rank(data: str, names: tuple[str, ...], recommended: bool, as_json: bool, **options: Any) -> None:
    """Rank backbones by how well they fit your data, without training them (but for --finals).

    NAMES are names, globs such as 'timm/resnet*', or lists such as @small-image; without any, the recommended
    backbones for the kind of data. The score is that of a linear probe on frozen features, cross-validated. Backbones
    in one group are not shown to differ on these data. Recommended is the one that accuracy on ImageNet, or size,
    puts first, if it is within one standard error of the best, else the best. Stopped and started again, the command
    goes on.
    """
    with console.to(sys.stderr if as_json else sys.stdout):
        from zoo.data.reading import check_source
        from zoo.evidence.ranking import rank as rank_backbones

        check_source(data)
        named = [*names, *(["@recommended"] if recommended and names else [])]
        options["input"] = options.pop("column")
        found = rank_backbones(data, named, **options)
    if as_json:
        console.document(found.to_dict())
        return
    console.line()
    print_table([("backbone", "group", found.metric, "95 %", "MB", "ms", "GMACs", "seconds"), *_rows(found)])
    if found.finals:
        console.line()
        print_table([("finals", "strategy", found.metric, "95 %", "seconds"), *_finals(found)])
    console.lines(console.printable(f"not finished: {each.name}: {each.error}") for each in found.finals if each.error)
    console.lines(console.printable(f"not ranked: {row.name}: {row.error}") for row in found.rows if row.error)
    console.line()
    for sentence in _conclusions(found):
        console.sentence(sentence)
    how = f" --strategy {found.strategy}" if found.strategy else ""
    console.line(console.printable(f"zoo finetune {found.recommended} {data}{how}"))


def _rows(found: Ranking) -> Iterator[tuple[str, ...]]:
    """Yield the cells of what was measured; in brackets the examples, where a backbone was dropped before the end."""
    for row in found.rows:
        if not row.error:
            between = "" if row.low is None or row.high is None else f"{row.low:.3f}-{row.high:.3f}"
            score = f"{row.score:.3f}{'' if row.examples == found.examples else f' ({row.examples:,})'}"
            costs = (_megabytes(row), f"{row.ms:.1f}", f"{row.gmacs:.3g}", f"{row.seconds:.1f}")
            yield row.name, str(row.group), score, between, *costs


def _finals(found: Ranking) -> Iterator[tuple[str, ...]]:
    for each in found.finals:
        if not each.error:
            spent = f"{each.seconds:.1f}" if each.seconds else ""
            yield each.name, each.strategy, f"{each.score:.3f}", f"{each.low:.3f}-{each.high:.3f}", spent


def _costs(row: Row) -> str:
    return f"{_megabytes(row)} MB, {row.gmacs:.3g} GMACs"


def _megabytes(row: Row) -> str:
    return "?" if row.bytes is None else f"{row.bytes / 1e6:.1f}"


def _conclusions(found: Ranking) -> Iterator[str]:
    """Yield what the table means, in sentences."""
    best, count = found.rows[0], sum(row.group == 1 for row in found.rows)
    by_name = {row.name: row for row in found.rows}
    chosen, static = by_name[found.recommended], by_name[found.static_choice]
    is_best, of = chosen == best, best.name
    if found.strategy:
        first = found.finals[0]
        of = f"{first.name} ({first.strategy}), of the finals"
        is_best = (first.name, first.strategy) == (chosen.name, found.strategy)
    if found.expected is not None and (len(found.rows) > 1 or found.strategy):
        yield (
            f"The best score is that of {of}; corrected for having been chosen, "
            f"{found.expected:.3f} is expected on new data."
        )
    if count > 1:
        missed = ""
        if found.detectable is not None and found.detectable < 1:
            size = f"{100 * found.detectable:.1f} points"
            missed = f"; a true difference of {size} from the best would be found in 80 % of such rankings"
        yield f"On {found.examples:,} examples, the {count} backbones of group 1 are not shown to differ{missed}."
    which = "the best" if is_best else "within one standard error of the best"
    if chosen == static:
        which += ", and first by ImageNet accuracy or size"
    how = f" with strategy {found.strategy}" if found.strategy else ""
    yield f"Recommended: {chosen.name}{how}, {which} ({_costs(chosen)})."
    if chosen.bytes == 0:
        yield "Its weights are random: on these data no pre-training is shown to help."
    if static.name != chosen.name:
        score = f"{static.score:.3f} here" if static.score is not None else f"not measured: {static.error}"
        yield f"By ImageNet accuracy or size alone it would be {static.name}: {score}."
    if found.cheapest != chosen.name:
        cheapest = by_name[found.cheapest]
        yield f"The cheapest of group 1 is {cheapest.name}: {cheapest.score:.3f} here ({_costs(cheapest)})."
