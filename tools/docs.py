"""Generate docs/cli.md and the recipe in docs/finetuning.md; with --check, fail if they are out of date."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from click.testing import CliRunner

from zoo import Recipe
from zoo.cli import COMMANDS
from zoo.cli import main as zoo

DOCS = Path(__file__).parents[1] / "docs"


def commands() -> str:
    """Return the text of docs/cli.md: the help of every command."""
    parts = ["# Commands\n\nGenerated from the commands' own help by `python tools/docs.py`.\n", _help()]
    parts += [f"## zoo {name}\n\n{_help(name)}" for name in COMMANDS]
    return "\n".join(parts)


def _help(*command: str) -> str:
    shown = CliRunner().invoke(zoo, [*command, "--help"], prog_name="zoo", terminal_width=100)
    return f"```text\n{shown.output}```\n"


def recipe(page: str) -> str:
    """Return docs/finetuning.md with recipe fields and defaults inserted between its markers."""
    fields = "\n".join(
        f"{name} = {field.default!r}".replace("'", '"') for name, field in Recipe.__dataclass_fields__.items()
    )
    words = (Recipe.__doc__ or "").partition("\n\n")[2].rstrip().replace("\n    ", "\n")
    block = f"<!-- recipe -->\n```python\n{fields}\n```\n\n```text\n{words.strip()}\n```\n<!-- end -->"
    return re.sub(r"<!-- recipe -->.*?<!-- end -->", lambda _: block, page, flags=re.DOTALL)


if __name__ == "__main__":
    finetuning = DOCS / "finetuning.md"
    pages = {DOCS / "cli.md": commands(), finetuning: recipe(finetuning.read_text())}
    stale = [path.name for path, text in pages.items() if not path.exists() or path.read_text() != text]
    if "--check" not in sys.argv:
        for path, text in pages.items():
            path.write_text(text)
    elif stale:
        sys.exit(f"docs out of date: {', '.join(stale)}\nfix: python tools/docs.py")
