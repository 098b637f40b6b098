"""The command `zoo`: a group whose commands are imported when they are used, and how errors are shown."""

from __future__ import annotations

import json
from importlib import import_module

import click

from zoo.errors import ZooError

COMMANDS = {
    "list": "zoo.cli.catalogue:list_",
    "info": "zoo.cli.catalogue:info",
    "plugins": "zoo.cli.plugins:plugins",
    "plugin": "zoo.cli.plugins:plugin",
    "doctor": "zoo.cli.doctor:doctor",
    "pull": "zoo.cli.store:pull",
    "verify": "zoo.cli.store:verify",
    "rm": "zoo.cli.store:rm",
    "gc": "zoo.cli.store:gc",
    "convert": "zoo.cli.store:convert",
    "finetune": "zoo.cli.train:finetune",
    "evaluate": "zoo.cli.train:evaluate",
    "predict": "zoo.cli.train:predict",
    "demo": "zoo.cli.demo:demo",
}
"""Where each command is, in the order of `zoo --help`; modules of this package import nothing heavy at the top."""


class Zoo(click.Group):
    """A group that imports a command's module when it is asked for, and shows a ZooError without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command called `cmd_name`."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; a ZooError ends it with two lines on stderr (with --json: one document) and exit code 1."""
        as_json = "--json" in ctx.args  # looked up here, because an error may come before the command has parsed it
        try:
            return super().invoke(ctx)
        except ZooError as error:
            show(error, as_json)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)  # what shells report for a command that Ctrl-C ended


def show(error: ZooError, as_json: bool) -> None:
    """Print an error: what happened and how to go on."""
    if as_json:
        click.echo(json.dumps({"error": error.what, "fix": error.fix}, ensure_ascii=False))
    else:
        click.echo(f"error: {error.what}\nfix: {error.fix}", err=True)


def complete_name(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a backbone (`shell_complete=` of every NAME argument)."""
    from zoo.catalogue import registry

    try:
        return [name for name in registry.rows() if name.startswith(incomplete)]
    except ZooError:
        return []


@click.command(cls=Zoo, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="backbone-zoo", prog_name="zoo")
def main() -> None:
    """Turn any pretrained backbone into a model for your small data set."""
