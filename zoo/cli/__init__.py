"""The `zoo` command group: commands are imported lazily, and a ZooError is printed without a traceback."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from zoo import console
from zoo.errors import PluginError, ZooError

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
    "rank": "zoo.cli.rank:rank",
    "finetune": "zoo.cli.train:finetune",
    "evaluate": "zoo.cli.evaluate:evaluate",
    "report": "zoo.cli.report:report",
    "compare": "zoo.cli.compare:compare",
    "runs": "zoo.cli.runs:runs",
    "predict": "zoo.cli.predict:predict",
    "embed": "zoo.cli.predict:embed",
    "generate": "zoo.cli.generate:generate",
    "export": "zoo.cli.export:export",
    "push": "zoo.cli.export:push",
    "demo": "zoo.cli.demo:demo",
    "completion": "zoo.cli.completion:completion",
}
"""Import paths of the commands in `zoo --help` order; modules of this package import heavy libraries lazily."""


class Zoo(click.Group):
    """Click group that imports commands lazily and prints a ZooError without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command `cmd_name`, or None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run the command line, with standard streams that take any text."""
        console.open_streams()
        return super().main(*args, **extra)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; on ZooError print two lines to stderr (with --json: a JSON document), exit with 1."""
        as_json = "--json" in ctx.args  # read here: the error may be raised before the command parses its options
        try:
            from zoo.catalogue import plugins

            with plugins.trials():
                result = super().invoke(ctx)
            console.flush()
            return result
        except ZooError as error:
            show(error, as_json and not isinstance(error, console.StdoutError))
            ctx.exit(1)
        except click.ClickException as error:
            error.message = "\n".join(map(console.printable, error.message.splitlines()))  # type: ignore[misc]
            raise
        except SystemExit as error:  # no command of zoo raises it
            what = f"a plugin or one of its libraries ended the process: SystemExit({console.printable(str(error))})"
            show(PluginError(what, fix="zoo plugins   (lists them; pip uninstall the one that does)"), as_json)
            ctx.exit(1)
        except BrokenPipeError:  # the reader, such as head, has what it wants
            ctx.exit(0)
        except KeyboardInterrupt:
            console.line("interrupted", error=True)
            ctx.exit(130)  # 128 + SIGINT, as shells report it


def show(error: ZooError, as_json: bool) -> None:
    """Print an error and its fix."""
    if as_json:
        console.document({"error": error.what, "fix": error.fix})
    else:
        console.line(f"error: {console.printable(error.what)}", error=True)
        console.line(f"fix: {console.printable(error.fix)}", error=True)


def complete_name(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete backbone names (`shell_complete=` of NAME arguments)."""
    from zoo.catalogue import registry

    try:
        return [name for name in registry.rows() if name.startswith(incomplete)]
    except ZooError:
        return []


def columns(command: Any) -> Any:
    """Add the options that name the columns of a table."""
    help_label = 'Column of the labels of a table, by default found by common names; several: "red,green".'
    label = click.option("--label", help=help_label)
    help_input = "Column of the inputs; two, separated by a comma: pairs of texts."
    return click.option("--input", "column", help=help_input)(label(command))


@click.command(cls=Zoo, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="backbone-zoo", prog_name="zoo")
def main() -> None:
    """Turn any pretrained backbone into a model for your small data set."""
