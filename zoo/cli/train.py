"""The command finetune."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from zoo import console
from zoo.cli import columns, complete_name
from zoo.cli.startup import load
from zoo.errors import RecipeError
from zoo.store import out_folder

LONGEST_WORD = 100
"""Bytes of the names of data and backbone in the name of a run's folder."""


def fields_of(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Parse key=value pairs; a value is JSON where it parses as such (0.1, true), else a text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise RecipeError(f"--set {pair!r} has no '='", fix=f"--set {pair}=VALUE")
        try:
            found[key.strip().replace("-", "_")] = json.loads(value)
        except (ValueError, RecursionError):
            found[key.strip().replace("-", "_")] = value
    return found


def _free_folder(name: str, data: str, *, resume: bool) -> Path:
    """Return runs/<data>-<backbone>, numbered if it exists; to resume, the last unfinished one."""
    backbone = name.rstrip("/").rsplit("/", 1)[-1].split(".")[0] or "model"
    source = os.path.realpath(data.rpartition(":")[2])
    words = (os.path.basename(source).partition(".")[0] or "data", backbone)
    short = (os.fsencode(word)[:LONGEST_WORD].decode(errors="ignore") for word in words)
    base = Path("runs", "-".join(short))
    numbered = [base, *(base.with_name(f"{base.name}-{i}") for i in range(2, 1_000))]
    unfinished = list(filter(out_folder.is_unfinished, numbered))
    if resume and unfinished:
        return unfinished[-1]
    return next(path for path in numbered if not (path.exists() or path in unfinished or out_folder.is_claimed(path)))


class _WithFields(click.Command):
    """A command whose help ends with the fields of Recipe."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each field with its meaning and default."""
        with formatter.section("Fields of the recipe (--set KEY=VALUE; defaults that depend on the data: auto)"):
            formatter.write_dl(list(_described_fields()))


def _described_fields() -> Iterator[tuple[str, str]]:
    """Yield (name, meaning and default) of each field, from the docstring of Recipe."""
    from zoo.finetune.recipe import Recipe

    paragraphs: dict[str, str] = {}
    last = ""
    for line in (Recipe.__doc__ or "").split("\n\n", 1)[1].splitlines():
        name, _, text = line[4:].partition("  ")
        last = name if name.strip() else last
        paragraphs[last] = f"{paragraphs.get(last, '')} {(text if name.strip() else line).strip()}".strip()
    for field in dataclasses.fields(Recipe):
        unset = "none" if field.name == "max_time" else "auto"
        default = unset if field.default is None else str(field.default).lower()
        yield field.name, f"{paragraphs.get(field.name, '')}  [{default}]".strip()


@click.command(cls=_WithFields)
@click.argument("name", shell_complete=complete_name)
@click.argument("data")
@click.option("--task", help="classify, multilabel, regress, tag, causal-lm or masked-lm.  [default: as labelled]")
@columns
@click.option("--groups", help="Column of what a split must not divide; or @file-name, @camera, @thread.")
@click.option("--fixes", type=click.Path(path_type=Path), help="Table of labels to change, examples to drop.")
@click.option("--valid", help="Share held out for validation (0: none), or validation data.  [default: 0.2]")
@click.option(
    "--strategy", default="auto", help="auto, scratch, probe, full, lp-ft, gradual or lora.", show_default=True
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder to save to.  [default: runs/DATA-NAME]")
@click.option("--stream", is_flag=True, help="Read the data in windows, and keep nothing of it on disk.")
@click.option("--classes", metavar="A,B,…", help="Classes of a stream, which is then not read before the training.")
@click.option("--resume", is_flag=True, help="Continue a run that was stopped or killed.")
@click.option("--dry-run", is_flag=True, help="Print the recipe with the predicted time and memory; train nothing.")
@click.option("--folds", type=int, default=0, metavar="K", help="Cross-validate, then train on everything (2 to 10).")
@click.option("--test", help="Share kept apart, or test data: measured once, at the end.")
@click.option("--track", multiple=True, help="tensorboard, wandb, mlflow or trackio: log losses and scores there.")
@click.option("--lr", type=float, help="Peak learning rate of the head.  [default: by strategy]")
@click.option("--epochs", type=float, help="Passes over the training data.  [default: by strategy]")
@click.option("--batch-size", type=int, help="Examples of an optimizer step.  [default: 32]")
@click.option("--device", default="auto", help="auto, cpu, cuda, mps, …", show_default=True)
@click.option("--seed", default=0, help="Same seed, same machine: same model.", show_default=True)
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Any field of the recipe, see below.")
@click.option(
    "--report/--no-report",
    "wants_report",
    default=None,
    help="Write OUT/report.html.  [default: if it costs less than a tenth of the run]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def finetune(
    name: str,
    data: str,
    task: str | None,
    column: str | None,
    label: str | None,
    groups: str | None,
    fixes: Path | None,
    valid: str | None,
    strategy: str,
    out: Path | None,
    stream: bool,
    classes: str | None,
    resume: bool,
    dry_run: bool,
    folds: int,
    test: str | None,
    track: tuple[str, ...],
    lr: float | None,
    epochs: float | None,
    batch_size: int | None,
    device: str,
    seed: int,
    pairs: tuple[str, ...],
    wants_report: bool | None,
    as_json: bool,
) -> None:
    """Fine-tune a backbone on your data and save the model.

    DATA is a folder with one sub-folder per class (or with train/ and valid/ folders of that form), a table (.csv,
    .tsv, .jsonl, .parquet, .conll) with a column of inputs and one of labels, or hf:user/dataset. Texts without labels
    train a language model. NAME may also be the folder of a saved model, which is then trained further.
    """
    given = {"lr": lr, "epochs": epochs, "batch_size": batch_size}
    fields: dict[str, Any] = {"strategy": strategy, "seed": seed}
    fields |= {name: value for name, value in given.items() if value is not None} | fields_of(pairs)
    resume = resume or out_folder.is_restarted()
    target = out or _free_folder(name, data, resume=resume)
    start = time.monotonic()
    with console.to(sys.stderr if as_json else sys.stdout):
        from zoo.data.reading import check_source
        from zoo.finetune.recipe import make

        recipe = make(fields)  # before anything heavy is imported or fetched
        if not stream:
            check_source(data)
        if not resume:
            out_folder.check_free(target)
        model = load(name, device)
        chosen: dict[str, Any] = {"task": task, "input": column, "label": label, "groups": groups, "folds": folds}
        chosen |= {"track": track, "fixes": fixes, "stream": stream, "classes": classes}
        chosen |= {"test": test and share_or_data(test), "valid": 0.2 if valid is None else share_or_data(valid)}
        if dry_run:
            plan = model.plan(data, recipe, **chosen)
        else:
            model.finetune(data, recipe, out=target, resume=resume, report=wants_report, **chosen)
            page = target / "report.html"
    if dry_run:
        if as_json:
            console.document({"plan": plan.to_dict()})
        return
    if as_json and os.environ.get("RANK", "0") == "0":  # one document for all processes
        assert model.recipe is not None
        seconds = round(time.monotonic() - start, 2)
        tested: dict[str, Any] = {"test": model.tested} if model.tested else {}
        tested |= {"folds": model.training["folds"]} if folds else {}
        tested |= {"report": str(page)} if page.exists() else {}
        document = {"metrics": model.metrics, **tested, "strategy": model.recipe.strategy}
        console.document(document | {"seconds": seconds, "out": str(target)})


def share_or_data(text: str) -> float | str:
    """Return a share as a number, or the name of data as it is."""
    try:
        return float(text)
    except ValueError:
        return text
