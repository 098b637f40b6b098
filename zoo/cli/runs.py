"""The command runs: saved models, their scores and differences; the details of one for `zoo info`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from zoo import console
from zoo.cli.catalogue import JSON, print_notes, print_table
from zoo.cli.saved_model import Manifest, facts, saved_at, score
from zoo.cli.startup import without_gc
from zoo.errors import ArtefactError, ZooError
from zoo.model import artefact
from zoo.store import out_folder

DEFAULT = Path("runs")
DEPTH = 3
"""Levels of folders that are searched for saved models."""


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
@click.option("--on", "data", metavar="DATA", help="Test the differences of the models on the same labelled data.")
@JSON
def runs(folders: tuple[Path, ...], data: str | None, as_json: bool) -> None:
    """List saved models with their scores, newest first.

    FOLDERS are saved models, or folders that hold some (by default runs). Of several saved models, what differs between
    their recipes and data is shown as well. With --on they are measured on DATA, and their differences have an exact
    paired test; if DATA is what all were trained on, on the examples that all held out for validation.
    """
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise ArtefactError(f"{missing[0]} is not a folder", fix="zoo runs   (lists the saved models below runs)")
    if data is not None:
        _test_differences(folders, data, as_json=as_json)
        return
    found: dict[Path, Manifest] = {}
    rows: dict[Path, tuple[str, ...]] = {}
    problems: dict[str, ZooError] = {}
    for folder in dict.fromkeys(path for root in folders or (DEFAULT,) for path in _below(root)):
        try:
            manifest = artefact.read(folder)
            with artefact.understanding(folder):
                rows[folder] = _row(folder, manifest)
            found[folder] = manifest
        except ArtefactError as error:
            problems[str(folder)] = error
    newest = sorted(found, key=lambda folder: (-saved_at(folder), str(folder)))
    print_notes(problems)
    if as_json:
        console.document([facts(folder, found[folder]) for folder in newest])
        return
    if newest:
        header = ("model", "task", "validation", "test", "strategy", "examples", "saved", "backbone")
        print_table([header, *(rows[folder] for folder in newest)])
    where = ", ".join(map(str, folders or (DEFAULT,)))
    console.line(f"{console.counted(len(newest), 'saved model')} below {console.printable(where)}")
    if len(folders) > 1 and set(folders) == set(found):
        _show_differences([(folder, found[folder]) for folder in folders])


def _below(root: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Yield the saved models in a folder and its sub-folders; links to folders are not followed."""
    if artefact.is_saved(root):
        yield root
        return
    try:
        folders = sorted(entry.path for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return
    for path in folders:
        if depth and not (os.path.basename(path).startswith(".") or path.endswith(out_folder.SUFFIX)):
            yield from _below(Path(path), depth - 1)


def _row(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    return (
        str(folder),
        str(manifest["task"].get("name")),
        score(manifest, "valid"),
        score(manifest, "test"),
        str(manifest["recipe"].get("strategy")),
        f"{manifest['data']['train']:,}",
        time.strftime("%Y-%m-%d %H:%M", time.localtime(saved_at(folder))),
        str(manifest["entry"].get("name")),
    )


def _show_differences(models: list[tuple[Path, Manifest]]) -> None:
    """Print the fields that differ between models, and say so if their scores are of different validation data."""
    columns = [_fields(manifest) for _, manifest in models]
    names = [name for name in columns[0] if len({column.get(name, "") for column in columns}) > 1]
    console.line()
    if names:
        header = ("differs", *(str(folder) for folder, _ in models))
        print_table([header, *((name, *(column.get(name, "") for column in columns)) for name in names)])
    else:
        console.line("recipe, backbone and data are the same")
    if {"data", "validation data", "seed"} & set(names):
        console.line(
            "the validation data differ, so these scores do not compare: zoo evaluate MODEL DATA on the same data"
        )


def _fields(manifest: Manifest) -> dict[str, str]:
    """Return what may differ between two models, as text."""
    request = manifest["training"]["request"]
    named = {
        "backbone": manifest["entry"].get("name"),
        "task": manifest["task"].get("name"),
        "data": manifest["data"]["fingerprint"][:12],
        "validation data": str(request.get("valid"))[:12],
    }
    return {name: str(value) for name, value in (named | dict(manifest["recipe"])).items()}


def _test_differences(folders: tuple[Path, ...], data: str, *, as_json: bool) -> None:
    """Measure models on the same items and print their differences with p."""
    with console.to(sys.stderr if as_json else sys.stdout):
        from zoo.data.reading import check_source

        check_source(data)
        with without_gc():
            from zoo.evidence import paired, sentences

        models = [path for root in folders or (DEFAULT,) for path in _below(root)]
        found = paired.compare_saved(models, data)
    said = [sentences.of_pair(pair, found.metric, _where(found.items)) for pair in found.pairs]
    if as_json:
        document = asdict(found) | {"sentences": said}
        for pair in document["pairs"]:
            del pair["size"]  # that of a learning curve
        console.document(document)
        return
    kind = "validation items of all, by which their weights were chosen" if found.validation else "items"
    console.line(f"{found.metric.replace('_', ' ')} on the same {found.items:,} {kind}")
    print_table(
        [
            ("model", "score", "95 % interval"),
            *((name, f"{each.mean:.3f}", f"[{each.low:.3f}, {each.high:.3f}]") for name, each in found.scores.items()),
        ]
    )
    for sentence in said:
        console.line()
        console.sentence(sentence)


def _where(items: int) -> str:
    return f"on {console.counted(items, 'item')}"
