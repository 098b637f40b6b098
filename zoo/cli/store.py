"""The commands about what is on this machine: pull, verify, rm, gc, convert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from zoo.catalogue import registry
from zoo.cli import complete_name
from zoo.cli.catalogue import JSON, size_text
from zoo.errors import StoreError
from zoo.plugin import Entry


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_name)
@click.option("--dry-run", is_flag=True, help="Only say what would be fetched.")
@click.option("--update", is_flag=True, help="Take what the sources have now in place of what was pulled before.")
@click.option("--lock", type=click.Path(dir_okay=False, path_type=Path), help="Use this lock, not ./zoo.lock.")
@JSON
def pull(names: tuple[str, ...], dry_run: bool, update: bool, lock: Path | None, as_json: bool) -> None:
    """Fetch and verify the weights of backbones.

    What was fetched is noted in a lock: from then on, a name means the same bytes. A zoo.lock in the working folder
    (make one with --lock zoo.lock) is for all who work there.
    """
    import sys

    from zoo import console, store

    document: dict[str, Any]
    with store.using(lock, update=update), console.to(sys.stderr):
        entries = [registry.complete(registry.find(name)) for name in dict.fromkeys(names)]
        if dry_run:
            document = _planned(entries)
        else:
            found = store.pull_all(entries)
            document = {name: {path: str(local) for path, local in files.items()} for name, files in found.items()}
    if as_json:
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
        return
    for entry in entries:
        files: Any = document[entry.name]
        head = f"{entry.name}  {entry.source or 'nothing to pull: an architecture with random weights'}"
        click.echo("\n  ".join((head, *(map(_line, files) if dry_run else files.values()))))
    if dry_run:
        click.echo(_summary([file for files in document.values() for file in files]))


def _planned(entries: list[Entry]) -> dict[str, list[dict[str, Any]]]:
    """Return, by name, what a pull would do with each file; the sources are asked, and nothing is fetched."""
    from zoo.store import plan, transfer

    plans = [transfer.survey(plan(entry)) for entry in entries]
    return {
        each.entry.name: [
            {"path": file.path, "bytes": file.bytes, "sha256": file.sha256, "pulled": file not in each.missing}
            for file in each.files
        ]
        for each in plans
    }


def _line(file: dict[str, Any]) -> str:
    size = "size not known" if file["bytes"] is None else size_text(file["bytes"])
    sha256 = f"  sha256 {file['sha256']}" if file["sha256"] else ""
    return f"{file['path']}  {size}{sha256}{'  (already here)' if file['pulled'] else ''}"


def _summary(files: list[dict[str, Any]]) -> str:
    missing = [file for file in files if not file["pulled"]]
    return f"to fetch: {len(missing)} of {len(files)} files, {size_text(sum(file['bytes'] or 0 for file in missing))}"


@click.command()
@click.argument("names", metavar="[NAME...]", nargs=-1, shell_complete=complete_name)
@JSON
def verify(names: tuple[str, ...], as_json: bool) -> None:
    """Hash what was pulled again, without network: all of it, or some names."""
    from zoo.store import maintenance

    seen = maintenance.verify(_pulled_names(names))
    bad = [each for each in seen if each.state != "ok"]
    if as_json:
        rows = [{"name": s.name, "path": s.file.path, "sha256": s.file.sha256, "state": s.state} for s in seen]
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        click.get_current_context().exit(1 if bad else 0)
    for each in bad:
        click.echo(f"{each.state:<9} {each.name}  {each.file.path}  {each.file.sha256}")
    if bad:
        again = " ".join(dict.fromkeys(each.name for each in bad))
        raise StoreError(f"{len(bad)} of {len(seen)} files are not what they were", fix=f"zoo pull {again}")
    total = sum({each.file.sha256: each.file.bytes or 0 for each in seen}.values())
    click.echo(f"{len(seen)} files of {len({s.name for s in seen})} backbones are as pulled, {size_text(total)}")


def _pulled_names(names: tuple[str, ...]) -> list[str]:
    """Return the full names of what was pulled; it may be in no catalogue any more."""
    from zoo.store import receipts

    pulled = receipts.read()
    return [name if name in pulled else registry.find(name).name for name in names]


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_name)
def rm(names: tuple[str, ...]) -> None:
    """Remove the weights of backbones from this machine, but for files that others share."""
    from zoo.store import maintenance

    click.echo(f"freed {size_text(maintenance.remove(_pulled_names(names)))}")


@click.command()
def gc() -> None:
    """Remove files that no lock names, and downloads that were given up a day ago."""
    from zoo.store import maintenance

    click.echo(f"freed {size_text(maintenance.collect())}")


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
def convert(source: Path, target: Path) -> None:
    """Write the tensors of a PyTorch file SOURCE (.bin, .pth) as a safetensors file TARGET; code in it never runs."""
    from zoo.store import convert as converter
    from zoo.weights.safetensors_file import read_state

    left_out = converter.convert(source, target)
    count = len(read_state(target)[0])
    rest = f"; left out: {', '.join(left_out)}" if left_out else ""
    click.echo(f"{target}: {count} tensor{'s' if count != 1 else ''} from {source}{rest}")
