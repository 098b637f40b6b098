"""The command that continues texts: generate."""

from __future__ import annotations

import sys
from typing import Any

import click

from zoo import console
from zoo.cli import complete_name
from zoo.cli.catalogue import JSON


@click.command()
@click.argument("model", shell_complete=complete_name)
@click.argument("prompt")
@click.option("--tokens", default=50, help="Maximum number of new tokens.", show_default=True)
@click.option(
    "--temperature", default=0.0, help="0 takes the likeliest token, above 0 one is drawn.", show_default=True
)
@click.option("--top-p", default=1.0, help="Draw from the likeliest tokens with this probability.", show_default=True)
@click.option("--top-k", default=0, help="Draw from this many likeliest tokens; 0: all.", show_default=True)
@click.option("--stop", multiple=True, help="End before this text; may be given several times.")
@click.option("--seed", default=0, help="Seed of the drawn tokens: the same one, the same text.", show_default=True)
@click.option("--device", default="auto", help="auto, cpu, cuda, mps, …", show_default=True)
@JSON
def generate(model: str, prompt: str, seed: int, device: str, as_json: bool, **settings: Any) -> None:
    """Continue PROMPT (-: standard input) by a causal language model, a saved one or a name of the catalogue.

    Prints the continuation, without the prompt.
    """
    import torch

    from zoo.model.load import load

    with console.to(sys.stderr):
        loaded = load(model, device)
        torch.manual_seed(seed)
        text = sys.stdin.buffer.read().decode("utf-8", "replace") if prompt == "-" else prompt
        (found,) = loaded.generate([text], settings.pop("tokens"), **settings)
    if as_json:
        console.document({"prompt": text, "text": found})
    else:
        console.lines(found.split("\n"))
