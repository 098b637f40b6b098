"""Commands for downloaded weights: pull, verify, rm, gc, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from zoo import console
from zoo.catalogue import registry
from zoo.cli import complete_name
from zoo.cli.catalogue import JSON, size_text
from zoo.errors import StoreError
from zoo.plugin import Entry


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_name)
@click.option("--dry-run", is_flag=True, help="Show what would be downloaded.")
@click.option("--update", is_flag=True, help="Replace pinned files by the latest versions from the sources.")
@click.option("--lock", type=click.Path(dir_okay=False, path_type=Path), help="Lock file to use instead of ./zoo.lock.")
@JSON
def pull(names: tuple[str, ...], dry_run: bool, update: bool, lock: Path | None, as_json: bool) -> None:
    """Download and verify the weights of backbones.

    A lock file pins each name to the hashes of its files. A zoo.lock in the working directory (create it with --lock
    zoo.lock) is shared by everyone who works there.
    """
    import sys

    from zoo import store

    document: dict[str, Any]
    with store.using(lock, update=update), console.to(sys.stderr):
        entries = [registry.complete(registry.find(name)) for name in dict.fromkeys(names)]
        if dry_run:
            document = _pull_document(entries)
        else:
            found = store.pull_all(entries)
            document = {name: {path: str(local) for path, local in files.items()} for name, files in found.items()}
    if as_json:
        console.document(document)
        return
    for entry in entries:
        files: Any = document[entry.name]
        console.line(f"{entry.name}  {entry.source or 'nothing to pull: randomly initialised'}")
        for text in map(_file_line, files) if dry_run else files.values():
            console.line(f"  {text}")
    if dry_run:
        console.line(_summary([file for files in document.values() for file in files]))


def _pull_document(entries: list[Entry]) -> dict[str, list[dict[str, Any]]]:
    """Return the files of each entry and whether they are pulled; queries the sources, but downloads nothing."""
    from zoo.store import plan, transfer

    plans = [transfer.survey(plan(entry)) for entry in entries]
    return {
        each.entry.name: [
            {"path": file.path, "bytes": file.bytes, "sha256": file.sha256, "pulled": file not in each.missing}
            for file in each.files
        ]
        for each in plans
    }


def _file_line(file: dict[str, Any]) -> str:
    size = "unknown size" if file["bytes"] is None else size_text(file["bytes"])
    sha256 = f"  sha256 {file['sha256']}" if file["sha256"] else ""
    return f"{file['path']}  {size}{sha256}{'  (already pulled)' if file['pulled'] else ''}"


def _summary(files: list[dict[str, Any]]) -> str:
    missing = [file for file in files if not file["pulled"]]
    return (
        f"to download: {len(missing)} of {len(files)} files, {size_text(sum(file['bytes'] or 0 for file in missing))}"
    )


SHOWN = {"size": "wrong size"}


@click.command()
@click.argument("names", metavar="[NAME...]", nargs=-1, shell_complete=complete_name)
@JSON
def verify(names: tuple[str, ...], as_json: bool) -> None:
    """Verify the hashes of pulled files, offline; all backbones if no NAME is given."""
    from zoo.store import maintenance

    checked = maintenance.verify(_full_names(names))
    bad = [each for each in checked if each.state != "ok"]
    if as_json:
        rows = [{"name": s.name, "path": s.file.path, "sha256": s.file.sha256, "state": s.state} for s in checked]
        console.document(rows)
        click.get_current_context().exit(1 if bad else 0)
    for each in bad:
        console.line(f"{SHOWN.get(each.state, each.state):<10} {each.name}  {each.file.path}  {each.file.sha256}")
    lost = [each for each in bad if each.state != "size"]
    if bad:
        again = " ".join(dict.fromkeys(each.name for each in lost or bad))
        problem = "are missing or damaged" if lost else "have another size than their lock records"
        fix = f"zoo pull {again}{'' if lost else ' --update'}"
        raise StoreError(f"{len(lost or bad)} of {len(checked)} pulled files {problem}", fix=fix)
    total = sum({each.file.sha256: each.file.bytes or 0 for each in checked}.values())
    backbones = console.counted(len({each.name for each in checked}), "backbone")
    console.line(f"{console.counted(len(checked), 'file')} of {backbones} verified, {size_text(total)}")


def _full_names(names: tuple[str, ...]) -> list[str]:
    """Resolve to full names; pulled backbones may no longer be in any catalogue."""
    from zoo.store import receipts

    pulled = receipts.read()
    return [name if name in pulled else registry.find(name).name for name in names]


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_name)
def rm(names: tuple[str, ...]) -> None:
    """Remove the weights of backbones, except files shared with other backbones."""
    from zoo.store import maintenance

    console.line(f"freed {size_text(maintenance.remove(_full_names(names)))}")


@click.command()
@click.option("--caches", is_flag=True, help="Also empty the caches: decoded images, features, Hub datasets.")
def gc(caches: bool) -> None:
    """Remove files not listed in any lock, and what killed processes left: partial downloads after a day.

    Cached data that a process is using is kept.
    """
    from zoo.store import caches as cached
    from zoo.store import maintenance

    freed = maintenance.collect()
    if caches:
        freed += cached.clear()
    console.line(f"freed {size_text(freed)}")
    if caches and (kept := cached.entries()):
        console.line(f"kept {size_text(sum(each.bytes for each in kept))} of cached data that is in use or read-only")


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
def convert(source: Path, target: Path) -> None:
    """Convert a PyTorch checkpoint SOURCE (.bin, .pth) to a safetensors file TARGET without running its code."""
    from zoo.store import convert as converter
    from zoo.weights.safetensors_file import read_state

    left_out = converter.convert(source, target)
    tensors = console.counted(len(read_state(target)[0]), "tensor")
    rest = f"; skipped: {', '.join(left_out)}" if left_out else ""
    console.line(f"{target}: {tensors} from {source}{rest}")
