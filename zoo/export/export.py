"""Export a model: write a folder, check it in a process without zoo, and only then hand it over."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from zoo.console import say
from zoo.data.images import MAX_ASPECT
from zoo.errors import ArtefactError
from zoo.export import formats, graph, items, library, program, runner, state, verify
from zoo.export import source as sources
from zoo.export.source import Source
from zoo.export.verify import TOLERANCE, Verified
from zoo.plugin import Exported, ImageInput
from zoo.store import out_folder


def export(source: Source, form: str, out: Path, inputs: Sequence[Any] | None = None) -> Verified:
    """Write a model to a new folder in a format, checked on `inputs` or, without any, on seeded random ones.

    Raises ExportError, and leaves nothing behind, if the format cannot express the model or answers differently.
    """
    formats.check(form)
    with _staged(out) as folder, tempfile.TemporaryDirectory(prefix="zoo-items-") as scratch:
        verified = _written(folder, source, form, inputs, Path(scratch))
        facts = {"format": form, **verified.to_dict(), "tolerance": TOLERANCE, "libraries": verified.libraries}
        (folder / "verified.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    _report(out, form, verified)
    return verified


def _written(folder: Path, source: Source, form: str, inputs: Sequence[Any] | None, scratch: Path) -> Verified:
    """Write and check an export in a working folder."""
    chosen = items.chosen(source, inputs, scratch)
    given = items.as_inputs(source, chosen)
    tensors, _ = sources.prepared(source, given[:2])
    exported = library.write(folder, source, form) if form in formats.LIBRARIES else Exported({}, {})
    names = exported.inputs or (tuple(tensors) if isinstance(tensors, dict) else ())
    runner.write(folder, source, form, names, exported.opens)
    if form == "safetensors":
        return state.write(folder, source)
    if form in formats.GRAPHS:
        program.write(folder, source, form, graph.example(source, given[:2]))
    expected = sources.answers(source, given)
    short = [i for i, item in enumerate(given) if _fits(source, item)] if exported.pipeline else []
    found, report = verify.answers(folder, chosen, form, exported.pipeline, [chosen[i] for i in short])
    found = {
        f"pipeline.{short[int(name[9:])]}" if name.startswith("pipeline.") else name: a for name, a in found.items()
    }
    shutil.rmtree(folder / "verification")
    return verify.verify(source, form, expected, (found, report), chosen)


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
    say("export", f"{form} -> {out}/   ({size / 1e6:,.1f} MB)")
    if form == "safetensors":
        say("verified", f"{verified.items} tensors read without zoo, bit by bit the same")
        return
    equal = f"the same top answer on {verified.top1_equal} of {verified.items} items"
    say("verified", f"without zoo: {equal}, largest difference {verified.max_difference:.1e} (limit {TOLERANCE:.0e})")
    say("use", f"python {out / 'run.py'} INPUT   ({verified.ms:.1f} ms an item)")
