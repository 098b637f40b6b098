"""Run a command of zoo in this process."""

from __future__ import annotations

from click.testing import CliRunner

from zoo.cli import main


def run(*arguments: object, code: int = 0) -> str:
    """Return what a command prints to stdout, or to stderr where it should end with another code than 0."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr
