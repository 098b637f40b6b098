"""Commands for plugins: plugins, plugin new."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from zoo import console
from zoo.catalogue import isolated_import, registry
from zoo.catalogue.discovery import Installed, installed
from zoo.catalogue.search import MODALITIES
from zoo.cli.catalogue import JSON, print_notes, print_table
from zoo.errors import PluginError, ZooError
from zoo.plugin import API


@click.command()
@JSON
def plugins(as_json: bool) -> None:
    """List installed plugins, with fixes for broken ones."""
    found = installed()
    apis = isolated_import.apis(list(found))
    problems, counts = registry.problems(), Counter(entry.plugin for entry in registry.rows().values())
    table = [
        _row(plugin, apis[name], problems.pop(name, None)) | {"rows": counts[name]} for name, plugin in found.items()
    ]
    print_notes(problems)
    if as_json:
        console.document(table)
        return
    columns = ("plugin", "distribution", "version", "api", "rows", "state")
    print_table([columns, *(tuple("" if row[key] is None else str(row[key]) for key in columns) for row in table)])
    for row in table:
        if row["problem"]:
            console.line()
            console.line(console.printable(f"{row['plugin']}: {row['problem']}"))
            console.line(f"fix: {console.printable(row['fix'])}")


@click.group()
def plugin() -> None:
    """Develop plugins."""


@plugin.command()
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path), help="Target folder; default ./NAME-zoo.")
@click.option("--modality", type=click.Choice(MODALITIES), default="image", help="Its inputs.", show_default=True)
def new(name: str, folder: Path | None, modality: str) -> None:
    """Create a distribution for a plugin NAME, with a working example (random weights, own tokenizer) and tests."""
    from zoo.testing import scaffold

    where = scaffold.new(name, folder, modality)
    for text in (f"{where}/", f"  pip install --editable '{where}[dev]'", f"  zoo list {name}/", f"  pytest {where}"):
        console.line(text)


def _row(plugin: Installed, api: isolated_import.ApiOrError, invalid: ZooError | None) -> dict[str, Any]:
    """Return the table row of a plugin, with the problem and its fix if it or its catalogue is broken."""
    problem = api if isinstance(api, PluginError) else invalid
    return {
        "plugin": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "api": None if isinstance(api, PluginError) else api,
        "contract": API,
        "catalogue": plugin.catalogue and str(plugin.catalogue),
        "state": "broken" if problem else "ok",
        "problem": problem and problem.what,
        "fix": problem and problem.fix,
    }
