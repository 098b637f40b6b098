"""Commands that show the catalogue: list, info."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click

from zoo import console
from zoo.catalogue import recommended, registry
from zoo.catalogue.rows import row_from_entry
from zoo.catalogue.search import MODALITIES, SORTS, is_known, search
from zoo.cli import complete_name
from zoo.errors import ZooError
from zoo.plugin import Entry, ImageInput, TextInput

HEADER = ("name", "params", "MB", "GMACs", "accuracy", "input", "licence", "pulled", "pre-trained on")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
MIN_WIDTH = 8
"""Minimum width of the last table column, in characters."""
LONGEST_CELL = 255
"""Maximum width of a table column, in characters."""
SCALES = {"K": 1_000, "M": 1_000_000, "B": 1_000_000_000}


def parse_count(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Parse a count such as `30M`; raises click.BadParameter."""
    if value is None:
        return None
    text = value.upper()
    scale = SCALES.get(text[-1:], 1)
    try:
        return round(float(text[:-1] if scale > 1 else text) * scale)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{value!r} is not a number such as 500K, 30M or 1.5B", ctx, param) from error


@click.command("list")
@click.argument("pattern", required=False)
@click.option("--plugin", help="Only backbones of this plugin.")
@click.option("--modality", type=click.Choice(MODALITIES), help="Only backbones for this modality.")
@click.option("--task", help="Only backbones for this task, such as classify.")
@click.option(
    "--max-params", callback=parse_count, metavar="N", help="Maximum number of parameters, such as 500K or 30M."
)
@click.option("--license", help="Only backbones with this licence, such as apache-2.0.")
@click.option("--sort", type=click.Choice(SORTS), help="Sort by ImageNet accuracy (best first), cost, size or name.")
@click.option("--recommended", is_flag=True, help="Only the recommended backbones, with the reasons.")
@click.option("--pulled", is_flag=True, help="Only backbones with downloaded weights.")
@JSON
def list_(pattern: str | None, pulled: bool, as_json: bool, **filters: Any) -> None:
    """List backbones; PATTERN is a substring of the name, a glob, or a list such as @small-image.

    MB is the size of the parameters in float32, GMACs the billions of multiply-accumulates for one image, accuracy the
    top-1 in percent on the validation images of ImageNet-1k, "?" what is not known. Backbones without the value that
    --sort or --max-params compares are listed apart, at the end.
    """
    from zoo import store

    found = search(pattern, **filters)
    local = store.pulled(found)
    shown = [entry for entry in found if entry.name in local or not pulled]
    print_notes(registry.problems())
    if as_json:
        rows = ({**row_from_entry(e), "pulled": e.name in local, "bytes": local.get(e.name)} for e in shown)
        console.document(list(rows))
        return
    known = sum(is_known(entry, filters["max_params"], filters["sort"]) for entry in shown)  # they come first
    if shown:
        with registry.gc_disabled():
            print_table([HEADER, *(_cells(entry, local.get(entry.name)) for entry in shown)], apart=known)
        if filters["recommended"] or (pattern or "").startswith("@"):
            console.lines(["", *_reasons(shown)])
    total = f"{len(shown)} of {len(registry.rows())} backbones"
    console.line(total + (f"; {size_text(sum(local.values()))} pulled" if local else ""))


@click.command()
@click.argument("name", shell_complete=complete_name)
@JSON
def info(name: str, as_json: bool) -> None:
    """Show the details of a backbone, or of a saved model by its folder."""
    from zoo import store

    if name.startswith((".", "/", "~")) or os.path.isdir(name):
        from zoo.cli import saved_model

        if folder := saved_model.folder_of(name):
            saved_model.show(folder, as_json=as_json)
            return
    entry = registry.find(name)
    here = store.is_pulled(entry)
    if as_json:
        console.document({**row_from_entry(entry), "pulled": here, "catalogue": entry.catalogue})
        return
    for topic, text in _details(entry, here):
        console.line(f"{topic:<14} {console.printable(text)}")


def print_notes(problems: Mapping[str, ZooError]) -> None:
    """Print the problems of catalogues whose rows are left out, to stderr."""
    for problem in problems.values():
        console.line(f"note: {console.printable(problem.what)}; fix: {console.printable(problem.fix)}", error=True)


def print_table(table: list[tuple[str, ...]], apart: int | None = None) -> None:
    """Print a header and rows in aligned columns, those from row `apart` on after an empty line and a header.

    On a terminal, the last column is truncated to its width, but never the names.
    """
    table = [_printable(row) for row in table]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    if sys.stdout.isatty():
        excess = sum(widths) + 2 * (len(widths) - 1) - os.get_terminal_size(sys.stdout.fileno()).columns
        widths[-1] = max(min(widths[-1], MIN_WIDTH), widths[-1] - max(0, excess))
    form = "  ".join(f"{{:<{width}}}" for width in widths[:-1]) + "  {}"
    lines = [form.format(*row[:-1], _truncate(row[-1], widths[-1])).rstrip() for row in table]
    if apart is not None and apart < len(table) - 1:
        lines[1 + apart : 1 + apart] = ["", "not known, listed apart:"] if apart else ["not known, listed apart:"]
    console.lines(lines)


def _printable(row: tuple[str, ...]) -> tuple[str, ...]:
    whole = "".join(row)
    if console.printable(whole, LONGEST_CELL) is whole:  # fast: nearly all
        return row
    return tuple(console.printable(cell, LONGEST_CELL) for cell in row)


def _truncate(cell: str, width: int) -> str:
    return cell if len(cell) <= width else cell[: width - 1] + "…"


def _cells(entry: Entry, size: int | None) -> tuple[str, ...]:
    params, gmacs, accuracy = entry.params, entry.metrics.get("gmacs"), entry.metrics.get("imagenet_top1")
    return (
        entry.name,
        _count_text(params),
        "?" if params is None else f"{params * 4e-6:.3g}" if params < 25e7 else f"{params * 4e-6:.0f}",
        "?" if gmacs is None else f"{gmacs:g}",
        "?" if accuracy is None else f"{accuracy:.1f}",
        _input_text(entry.input),
        entry.license or "?",
        "" if size is None else size_text(size),
        entry.pretrained_on or ("?" if entry.source else "(random weights)"),
    )


def _count_text(count: int | None) -> str:
    """Format a parameter count with three significant digits: 172K, 11.2M, 1.5B."""
    if count is None:
        return "?"
    for suffix, scale in reversed(SCALES.items()):
        if count >= scale:
            return f"{count / scale:.3g}{suffix}"
    return str(count)


def _input_text(spec: ImageInput | TextInput) -> str:
    if isinstance(spec, ImageInput):
        return f"{spec.channels} x {spec.size} px"
    return f"{spec.max_length} tokens"


def _reasons(entries: list[Entry]) -> Iterator[str]:
    """Yield why each entry is recommended, and where that can be checked."""
    for entry in entries:
        if found := recommended.reason(entry.name):
            yield console.printable(f"{found.list:<13} {entry.name}")
            yield console.printable(f"{'':<13} {found.reason} [{found.source}]")


def _details(entry: Entry, here: bool) -> Iterator[tuple[str, str]]:
    """Yield the lines of `zoo info` as (topic, text) pairs."""
    details = {
        "name": entry.name,
        "plugin": entry.plugin,
        "aliases": ", ".join(entry.aliases),
        "modality": entry.modality,
        "input": _input_text(entry.input),
        "dim": entry.dim and f"{entry.dim}",
        "parameters": entry.params and f"{entry.params:,}",
        "licence": entry.license or (entry.source and "not known: read the model card where the weights come from"),
        "pre-trained on": entry.pretrained_on,
        "tasks": ", ".join(entry.tasks),
        "metrics": ", ".join(f"{key} {value:g}" for key, value in entry.metrics.items()),
        "options": ", ".join(f"{key}={value}" for key, value in entry.options.items()),
        "source": entry.source or "none: randomly initialised",
    }
    if why := recommended.reason(entry.name):
        details["recommended"] = f"{why.list}: {why.reason} [{why.source}]"
    yield from ((topic, text) for topic, text in details.items() if text)
    for index, file in enumerate(entry.files):
        size = "unknown size" if file.bytes is None else size_text(file.bytes)
        yield ("" if index else "files", f"{file.path}  {size}" + (f"  sha256 {file.sha256}" if file.sha256 else ""))
    if entry.source:
        yield "pulled", "yes" if here else f"no: zoo pull {entry.name}"
    if entry.catalogue:
        yield "catalogue", entry.catalogue


def size_text(count: int) -> str:
    """Format a size in bytes: 512 bytes, 12.3 kB, 97.8 MB."""
    if count < 1e3:
        return f"{count} bytes"
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
