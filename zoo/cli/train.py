"""Commands that train and use models: finetune, evaluate, predict."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from zoo import console
from zoo.cli import complete_name
from zoo.errors import RecipeError


def _fields(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Read key=value pairs; a value is JSON where it reads as such (0.1, true), else a text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise RecipeError(f"--set {pair!r} has no '='", fix=f"--set {pair}=VALUE")
        try:
            found[key.strip().replace("-", "_")] = json.loads(value)
        except ValueError:
            found[key.strip().replace("-", "_")] = value
    return found


def _free_folder(name: str, data: Path) -> Path:
    """Choose runs/<data>-<backbone>, numbered if it is taken."""
    backbone = name.rstrip("/").rsplit("/", 1)[-1].split(".")[0] or "model"
    base = Path("runs") / f"{data.resolve().name}-{backbone}"
    numbered = (base.with_name(f"{base.name}-{i}") for i in range(2, 10_000))
    return base if not base.exists() else next(path for path in numbered if not path.exists())


def _print(document: object) -> None:
    click.echo(json.dumps(document, indent=1, ensure_ascii=False))


@click.command()
@click.argument("name", shell_complete=complete_name)
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--task", help="What to learn; inferred from the labels when left out.")
@click.option("--valid", help="Share held out for validation (0: none), or a folder.  [default: 0.2]")
@click.option("--strategy", default="auto", help="auto, scratch, probe or full.", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder to save to.  [default: runs/DATA-NAME]")
@click.option("--device", default="auto", help="auto, cpu, cuda, …", show_default=True)
@click.option("--seed", default=0, help="Same seed, same machine: same model.", show_default=True)
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="Any field of the recipe: steps, lr, …")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def finetune(
    name: str,
    data: Path,
    task: str | None,
    valid: str | None,
    strategy: str,
    out: Path | None,
    device: str,
    seed: int,
    pairs: tuple[str, ...],
    as_json: bool,
) -> None:
    """Fine-tune a backbone on your data and save the model.

    DATA is a folder with one sub-folder per class, or with train/ and valid/ folders of that form.
    NAME may also be the folder of a saved model, which is then trained further.
    """
    fields = _fields(pairs)
    target = out or _free_folder(name, data)
    start = time.monotonic()
    with console.to(sys.stderr if as_json else sys.stdout):
        from zoo import artefact
        from zoo.data.examples import check_folder
        from zoo.finetune import recipe

        recipe.make({"strategy": strategy, "seed": seed, **fields})  # told before anything is imported or fetched
        check_folder(data)
        artefact.check_free(target)
        from zoo.model import load

        model = load(name, device)
        model.finetune(data, task=task, valid=_valid(valid), strategy=strategy, out=target, seed=seed, **fields)
    if as_json:
        assert model.recipe is not None
        seconds = round(time.monotonic() - start, 2)
        _print({"metrics": model.metrics, "strategy": model.recipe.strategy, "seconds": seconds, "out": str(target)})


def _valid(text: str | None) -> float | Path:
    if text is None:
        return 0.2
    try:
        return float(text)
    except ValueError:
        return Path(text)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--device", default="auto", help="auto, cpu, cuda, …", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def evaluate(model: Path, data: Path, device: str, as_json: bool) -> None:
    """Measure a saved model on a folder with one sub-folder per class."""
    start = time.monotonic()
    with console.to(sys.stderr if as_json else sys.stdout):
        from zoo.model import load

        loaded = load(model, device)
        metrics = loaded.evaluate(data)
    if as_json:
        strategy = loaded.recipe.strategy if loaded.recipe else None
        seconds = round(time.monotonic() - start, 2)
        _print({"metrics": metrics, "strategy": strategy, "seconds": seconds, "out": str(model)})
        return
    for key, value in metrics.items():
        click.echo(f"{key:<9} {value:.4f}")


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, required=True)
@click.option("--top", default=1, help="How many labels to show for each input.", show_default=True)
@click.option("--device", default="auto", help="auto, cpu, cuda, …", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def predict(model: Path, inputs: tuple[str, ...], top: int, device: str, as_json: bool) -> None:
    """Predict the labels of image files with a saved model."""
    with console.to(sys.stderr if as_json else sys.stdout):
        from zoo.model import load

        answers = load(model, device).predict(list(inputs), top=top)
    if as_json:
        ranked = [[{"label": label, "probability": p} for label, p in answer.top] for answer in answers]
        _print([{"input": name, "top": labels} for name, labels in zip(inputs, ranked, strict=True)])
        return
    width = max(map(len, inputs))
    for name, answer in zip(inputs, answers, strict=True):
        click.echo(f"{name:<{width}}  " + "  ".join(f"{label} {p:.3f}" for label, p in answer.top))
