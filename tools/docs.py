"""Write docs/cli.md from the commands' own help; with --check, fail when it is out of date."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from zoo.cli import main as zoo

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
HEAD = """# Commands

Generated from the commands' own help by `python tools/docs.py`.
"""


def page() -> str:
    """Return the text of docs/cli.md."""
    group = click.Context(zoo, info_name="zoo")
    parts = [HEAD, f"## zoo\n\n```text\n{zoo.get_help(group)}\n```\n"]
    for name in zoo.list_commands(group):
        command = zoo.get_command(group, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=group, max_content_width=100)
        parts.append(f"## zoo {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    if "--check" not in sys.argv:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        sys.exit("docs/cli.md is out of date; fix: python tools/docs.py")
