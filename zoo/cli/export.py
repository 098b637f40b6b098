"""The command export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypedDict, Unpack

import click

from zoo import console
from zoo.cli.startup import load
from zoo.export import formats
from zoo.store import out_folder


class Quantized(TypedDict):
    """Options of a quantised export."""

    quantize: str | None
    max_loss: float | None


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--to", "form", required=True, metavar="FORMAT", help=f"{', '.join(formats.FORMATS)}.")
@click.option("--out", type=click.Path(path_type=Path), help="New folder.  [default: MODEL-FORMAT]")
@click.option("--data", help="Check on these inputs.  [default: 64 seeded random ones]")
@click.option("--quantize", metavar="int8", help="Write int8 weights (--to onnx); --data has labels to measure on.")
@click.option("--max-loss", type=float, help="Refuse int8 if its score falls by more.  [default: 0.02]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def export(
    model: Path, form: str, out: Path | None, data: str | None, as_json: bool, **options: Unpack[Quantized]
) -> None:
    """Write a saved model to a folder that opens without zoo, in the format of another library.

    Every export answers the same items in a process without zoo before it is kept: each probability has to agree to
    1e-4, else nothing is left behind. run.py in the folder shows how to use it. gradio and litserve write a web page or
    an HTTP API in one file, app.py, beside the model in ONNX.
    """
    formats.check(form)
    kind = f"-{options['quantize']}" if options["quantize"] in formats.QUANTIZED else ""
    target = out or model.with_name(f"{model.resolve().name}-{form}{kind}")
    with console.to(sys.stderr if as_json else sys.stdout):
        out_folder.check_free(target)
        verified = load(model, "cpu").export(form, target, data, **options)
    if as_json:
        console.document({"format": form, "out": str(target), "verified": verified.to_dict()})


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("repository", metavar="ORG/NAME")
@click.option("--private", is_flag=True, help="Create a private repository.")
@click.option("--dry-run", is_flag=True, help="List the files; upload nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def push(model: Path, repository: str, private: bool, dry_run: bool, as_json: bool) -> None:
    """Upload a saved model to the Hugging Face Hub, where `zoo predict hf/ORG/NAME` finds it.

    The repository holds the saved model in zoo/, and beside it the files of transformers (or sentence-transformers),
    checked as by `zoo export`, where these can express it. All files arrive in one commit. Log in first: hf auth login.
    """
    with console.to(sys.stderr if as_json else sys.stdout):
        from zoo.model import pushed_model

        paths = pushed_model.push(model, repository, private=private, dry_run=dry_run)
    if as_json:
        console.document({"repository": repository, "files": paths, "pushed": not dry_run})
    elif dry_run:
        console.lines(map(console.printable, paths))
