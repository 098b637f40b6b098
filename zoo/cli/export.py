"""The command export."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from zoo import console
from zoo.cli.startup import load
from zoo.export import formats
from zoo.store import out_folder


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--to", "form", required=True, metavar="FORMAT", help=f"{', '.join(formats.FORMATS)}.")
@click.option("--out", type=click.Path(path_type=Path), help="New folder.  [default: MODEL-FORMAT]")
@click.option("--data", help="Check on these inputs.  [default: 64 seeded random ones]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def export(model: Path, form: str, out: Path | None, data: str | None, as_json: bool) -> None:
    """Write a saved model to a folder that opens without zoo, in the format of another library.

    Every export answers the same items in a process without zoo before it is kept: each probability has to agree to
    1e-4, else nothing is left behind. run.py in the folder shows how to use it.
    """
    formats.check(form)
    target = out or model.with_name(f"{model.resolve().name}-{form}")
    with console.to(sys.stderr if as_json else sys.stdout):
        out_folder.check_free(target)
        verified = load(model, "cpu").export(form, target, data)
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
