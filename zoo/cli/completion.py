"""The command that sets up completion in a shell: completion."""

from __future__ import annotations

import click

from zoo import console

LINES = {
    "bash": ("# in ~/.bashrc:", 'eval "$(_ZOO_COMPLETE=bash_source zoo)"'),
    "zsh": ("# in ~/.zshrc, after compinit:", 'eval "$(_ZOO_COMPLETE=zsh_source zoo)"'),
    "fish": ("# in ~/.config/fish/completions/zoo.fish:", "_ZOO_COMPLETE=fish_source zoo | source"),
}
"""The file of each shell, and the line to add to it: https://click.palletsprojects.com/en/stable/shell-completion/"""


@click.command()
@click.argument("shell", type=click.Choice(list(LINES)))
def completion(shell: str) -> None:
    """Print what completes commands, options and names in SHELL: zoo completion bash >> ~/.bashrc"""
    console.lines(LINES[shell])
