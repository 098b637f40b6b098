"""`zoo demo`: compare transfer learning with training from scratch."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from zoo import console
from zoo.errors import ArtefactError


@click.command()
@click.option(
    "--seeds", default=3, type=click.IntRange(1, 100), help="Number of random draws to average over.", show_default=True
)
@click.option(
    "--out",
    default="zoo-demo.png",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Plot of the learning curves.",
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def demo(seeds: int, out: Path, as_json: bool) -> None:
    """Demonstrate transfer learning on handwritten digits.

    Compares training from scratch with fine-tuning a backbone pre-trained on letters, on 1 to 20 examples per class.
    Takes about a minute.
    """
    if not out.absolute().parent.is_dir():
        fix = f"mkdir -p {shlex.quote(str(out.parent))}, or --out zoo-demo.png"
        raise ArtefactError(f"{out.parent} does not exist", fix=fix)
    with console.to(sys.stderr if as_json else sys.stdout):
        from zoo.model import demo as experiment

        result = experiment.run(seeds)
        experiment.table(result)
        console.say("picture", str(experiment.plot(result, out)))
    if as_json:
        console.document(result)
