"""The command report: the evidence report of a saved model as one HTML file."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from zoo import console
from zoo.cli import columns
from zoo.cli.startup import load, without_gc


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", required=False)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("report.html"), help="File to write.", show_default=True
)
@click.option(
    "--fixes",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the examples in doubt to a .csv, .jsonl or .parquet file, to be edited for zoo finetune --fixes.",
)
@click.option(
    "--compare",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PATH",
    help="Set it beside the .json file of a zoo compare, or a saved model that held out the same examples.",
)
@columns
@click.option("--device", default="auto", help="auto, cpu, cuda, mps, …", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def report(
    model: Path,
    data: str | None,
    out: Path,
    fixes: Path | None,
    compare: tuple[Path, ...],
    device: str,
    as_json: bool,
    **names: str | None,
) -> None:
    """Write a page on a saved model: its results, its mistakes, and what they rest on.

    Without DATA the page is on the validation (and test) part of the data that the model was fine-tuned on. DATA is
    other labelled data to test on, in any of the forms of `zoo finetune`. The page is one HTML file that needs nothing
    else: it can be sent to a colleague.
    """
    with console.to(sys.stderr if as_json else sys.stdout):
        if data is not None:
            from zoo.data.reading import check_source

            check_source(data)
        loaded = load(model, device)
        with without_gc():
            from zoo.evidence.report import report as reports
        found = reports.report(loaded, data, out, fixes, compare=compare, input=names["column"], label=names["label"])
    if as_json:
        console.document(found.to_dict())
        return
    console.line(f"open {shlex.quote(str(found.out))} in a browser")
