"""Write the evidence report of a fine-tuned model: one HTML file."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.console import counted, say
from zoo.data.examples import Columns
from zoo.errors import ArtefactError, ZooError
from zoo.evidence.report import cost
from zoo.evidence.report.doctor import fixes as doubted
from zoo.evidence.report.doctor.diagnosis import diagnose
from zoo.evidence.report.explain.explain import explain
from zoo.evidence.report.facts import collect
from zoo.evidence.report.findings import Finding
from zoo.evidence.report.page.render import render
from zoo.evidence.report.results import compared
from zoo.evidence.report.results.measure import measure
from zoo.model import result_files
from zoo.model.load import load
from zoo.model.model import Model


@dataclass(frozen=True, slots=True)
class Written:
    """A report that was written: its file (os.PathLike) and its findings, most important first."""

    out: Path
    findings: tuple[Finding, ...] = ()

    def __fspath__(self) -> str:
        """Return the path of the file."""
        return str(self.out)

    def to_dict(self) -> dict[str, Any]:
        """Return path and findings as JSON values."""
        return {"out": str(self.out), "findings": [finding.to_dict() for finding in self.findings]}


def report(
    model: Model | str | os.PathLike[str],
    data: object = None,
    out: str | os.PathLike[str] = "report.html",
    fixes: str | os.PathLike[str] | None = None,
    *,
    compare: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    input: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
) -> Written:
    """Write a self-contained HTML page on a fine-tuned model: its results and mistakes, and what they rest on.

    model  a fine-tuned Model, or the folder of a saved one
    data   None: what the model was fine-tuned on, split again in the same way; else labelled data to test on
    out    file to write; one that exists is replaced
    fixes  table (.csv, .jsonl, .parquet) to write as well: the examples in doubt, to be edited and applied with
           finetune(…, fixes=…); it must not exist
    compare  what to set it beside: a .json file of zoo compare on the same data, the folder of a saved model that held
           out the same examples, such as one trained from scratch, or several of these
    input  column of a table that holds the inputs; label: that of the labels; as in the fine-tuning unless given

    Makes no request. Raises DataError where the data of the fine-tuning is gone or has changed, RecipeError for a model
    without a head, ArtefactError where `out` cannot be written.
    """
    path = Path(out)
    check_writable(path)
    if fixes is not None:
        result_files.check(Path(fixes), result_files.TABLES, "--fixes")
    loaded = model if isinstance(model, Model) else load(model)
    columns = None if input is None and label is None else Columns.of(input, label)
    facts = collect(loaded, data, columns)
    beside = compared.all_compared(facts, [compare] if isinstance(compare, str | os.PathLike) else compare)
    findings = tuple(diagnose(facts))
    text = render(facts, measure(facts, beside), findings, explain(facts))
    write(path, text)
    if fixes is not None:
        count = doubted.write(Path(fixes), facts, findings)
        say("fixes", f"{fixes}   {counted(count, 'example')} to decide on: relabel, drop or keep in the column action")
    say("report", f"{path}   {len(text.encode()) / 1e3:,.0f} kB")
    return Written(path, findings)


def after_run(model: Model, data: object, folder: Path, *, wanted: bool | None) -> Path | None:
    """Write report.html into the folder of a model that was just fine-tuned on `data`, unless it is there.

    Without `wanted` only where that is cheap; then a report that cannot be written is a message and no error. Of
    several processes the first one writes.
    """
    path = folder / "report.html"
    if path.exists() or os.environ.get("RANK", "0") != "0" or (wanted is None and not cost.is_cheap(model)):
        return None
    try:
        return report(model, data, path).out
    except ZooError as error:
        if wanted:
            raise
        say("report", f"not written: {error.what}")
        return None


def check_writable(path: Path) -> None:
    """Raise ArtefactError, before anything long is computed, where a report cannot be written."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        what = f"{path} is a folder" if path.is_dir() else f"{path.parent} does not exist"
        named = path / "report.html" if path.is_dir() else Path("report.html")
        raise ArtefactError(what, fix=f"--out {shlex.quote(str(named))}")


def write(path: Path, text: str) -> None:
    """Write a page to a new file, which then takes the place of `path`. Raises ArtefactError."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ArtefactError(f"{path} cannot be written: {error}", fix="another place: --out ~/report.html") from error
