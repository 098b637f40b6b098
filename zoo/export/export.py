"""Export a model: write a folder, check it in a process without zoo, and only then hand it over."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from zoo.console import say
from zoo.data.images import MAX_ASPECT
from zoo.errors import ArtefactError, ExportError
from zoo.export import formats, graph, items, library, program, quantize, runner, serving, state, verify
from zoo.export import source as sources
from zoo.export.quantize import Quantization
from zoo.export.source import Source
from zoo.export.verify import TOLERANCE, Job, Verified
from zoo.plugin import Exported, ImageInput
from zoo.store import out_folder


def export(
    source: Source,
    form: str,
    out: Path,
    inputs: Sequence[Any] | None = None,
    quantization: Quantization | None = None,
) -> Verified:
    """Write a model to a new folder in a format, checked on `inputs` or, without any, on seeded random ones.

    Raises ExportError, and leaves nothing behind, if the format cannot express the model or answers differently, or if
    a quantised model loses more of its score than allowed.
    """
    formats.check(form)
    if form in formats.SERVED:
        serving.check(form, source)
    if quantization:
        quantize.check(form, source, quantization)
    with _staged(out) as folder, tempfile.TemporaryDirectory(prefix="zoo-items-") as scratch:
        if quantization:
            verified = _quantized(folder, source, form, quantization, Path(scratch))
        else:
            verified = _written(folder, source, form, inputs, Path(scratch))
        facts = {"format": form, **verified.to_dict(), "tolerance": TOLERANCE, "libraries": verified.libraries}
        (folder / "verified.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    _report(out, form, verified)
    return verified


def _written(folder: Path, source: Source, form: str, inputs: Sequence[Any] | None, scratch: Path) -> Verified:
    """Write and check an export in a working folder."""
    chosen = items.chosen(source, inputs, scratch)
    given = items.as_inputs(source, chosen)
    exported = _files(folder, source, form, given)
    if form == "safetensors":
        return state.write(folder, source)
    if form in formats.SERVED:
        serving.write(folder, source, form)
    expected = sources.answers(source, given)
    short = [i for i, item in enumerate(given) if _fits(source, item)] if exported.pipeline else []
    job = Job(chosen, exported.pipeline, short, app=form in formats.SERVED)
    return verify.verify(source, form, expected, verify.answers(folder, form, job), chosen)


def _files(folder: Path, source: Source, form: str, given: Sequence[Any]) -> Exported:
    """Write the files of a library or the graph, with run.py; `given` are items of which two are traced."""
    tensors, _ = sources.prepared(source, given[:2])
    exported = library.write(folder, source, form) if form in formats.LIBRARIES else Exported({}, {})
    names = exported.inputs or (tuple(tensors) if isinstance(tensors, dict) else ())
    runner.write(folder, source, formats.inner(form), names, exported.opens)
    if formats.inner(form) in formats.GRAPHS:
        program.write(folder, source, formats.inner(form), graph.example(source, given[:2]))
    return exported


def _quantized(folder: Path, source: Source, form: str, wanted: Quantization, scratch: Path) -> Verified:
    """Write the float export to `scratch`, check it, and write and measure the quantised one in a working folder."""
    chosen = items.as_values(source, wanted.measured.inputs, scratch)
    given, floats = items.as_inputs(source, chosen), scratch / "float"
    floats.mkdir()
    _files(floats, source, form, given)
    shutil.copytree(floats, folder, dirs_exist_ok=True)
    quantize.write(source, floats / program.ONNX, folder / program.ONNX, wanted.calibration.inputs)
    found, report = verify.answers(folder, form, Job(chosen, floats=floats))
    checked = given[: items.COUNT]
    both = [(found[f"run.{i}"], found[f"float.{i}"]) for i in range(len(given))]
    cost = quantize.cost(source, wanted.measured.labels, both, report["ms"])
    answers = {f"run.{i}": both[i][1] for i in range(len(checked))}
    verified = verify.verify(source, form, sources.answers(source, checked), (answers, report), chosen)
    if -cost.change > wanted.max_loss:
        what = f"the {wanted.kind} export is not kept: it loses more than {wanted.max_loss:g}: {cost}"
        raise ExportError(
            what, fix=f"--to {form} without --quantize, or allow it: --max-loss {-cost.change + 5e-4:.3f}"
        )
    return replace(verified, cost=cost)


def _fits(source: Source, item: Any) -> bool:
    """Return whether an item is not truncated: a long text, or an image of more than 4:1, which libraries keep."""
    if isinstance(source.how.input, ImageInput):
        with Image.open(item) as image:
            return max(image.size) <= MAX_ASPECT * min(image.size)
    inputs, _ = sources.prepared(source, [item])
    assert isinstance(inputs, dict)
    return inputs["input_ids"].shape[1] < source.how.length


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """Yield a working folder, which becomes `out` when the block succeeds."""
    with out_folder.claim(out) as working:
        folder = working / "saved"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield folder
            out_folder.publish(folder, out, "verified.json")
        except OSError as error:
            fix = "free some disk space or choose another folder with --out"
            raise ArtefactError(f"{out} cannot be written: {error}", fix=fix) from error


def _report(out: Path, form: str, verified: Verified) -> None:
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    say("export", f"{form}{', int8' if verified.cost else ''} -> {out}/   ({size / 1e6:,.1f} MB)")
    if form == "safetensors":
        say("verified", f"{verified.items} tensors read without zoo, bit by bit the same")
        return
    equal = f"the same top answer on {verified.top1_equal} of {verified.items} items"
    checked = "the float export, without zoo" if verified.cost else "without zoo"
    say("verified", f"{checked}: {equal}, largest difference {verified.max_difference:.1e} (limit {TOLERANCE:.0e})")
    if verified.cost:
        say("int8", str(verified.cost))
    if form in formats.SERVED:
        say("use", f"pip install -r {out / 'requirements.txt'}; python {out / 'app.py'}")
        return
    say("use", f"python {out / 'run.py'} INPUT   ({verified.ms:.1f} ms an item)")
