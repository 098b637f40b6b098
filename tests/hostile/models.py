"""Hostile saved models: manifests, heads, labels, rows and class names of an author who signs them."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import saved_models as saved
import torch

from hostile.case import Case

HEAD = ("head.weight", "head.bias")
Change = Callable[[Path], Any]


def case(name: str, kind: str, change: Change, says: str = "", **more: Any) -> Case:
    """Return a case that predicts with an edited copy of a saved model."""

    def prepare(folder: Path) -> list[str]:
        change(saved.copy(kind, folder))
        return saved.predict(kind)

    return Case(name, prepare, says, **more)


ODD: dict[str, Any] = {
    "null": None,
    "true": True,
    "a number": -1,
    "a text": "x",
    "a list": [[]],
    "an object": {"\ud800": {"a": []}},
    "a tower": json.loads("[" * 500 + "]" * 500),
}
SECTIONS = ("entry", "task", "recipe", "metrics", "files", "tested", "history", "data", "training", "provenance")


def update(*path: str, **values: Any) -> Change:
    """Return an edit of zoo.json: set keys of the object at a path."""

    def change(manifest: dict[str, Any]) -> None:
        for key in path:
            manifest = manifest[key]
        manifest.update(values)

    return lambda model: saved.edit(model, change)


def manifests() -> Iterator[Case]:
    """Every section of a manifest, and the format, as something else."""
    for section in SECTIONS:
        for what, value in ODD.items():
            heavy = what not in ("null", "a text")
            code = int((section, what) != ("provenance", "an object"))
            yield case(f"manifest: {section} is {what}", "native", update(**{section: value}), code=code, heavy=heavy)
    for value in (True, -1, 0, 1.0, "1", None, [1], 10**30):
        yield case(f"manifest: format {value!r}", "native", update(format=value))
    for key in ("train", "valid", "test", "pairs", "skipped", "fingerprint", "near_duplicates", "origin"):
        for what, value in {"true": True, "a text": "x", "a list": [1]}.items():
            if (key, what) not in (("pairs", "true"), ("fingerprint", "a text"), ("origin", "a text")):
                yield case(f"data: {key} is {what}", "native", update("data", **{key: value}), heavy=key != "train")
    for value in (
        [],
        None,
        "x",
        {"input": "x", "label": None},
        {"input": [1], "label": None},
        {"input": []},
        {"input": [], "label": 1},
        {"input": [[]], "label": "x"},
    ):
        yield case(f"data: columns {value!r}", "native", update("data", columns=value))


def labels() -> Iterator[Case]:
    """Labels that do not name the outputs of the head."""
    for value in (
        "ab",
        None,
        2,
        {},
        [],
        ["a"],
        ["a", "b", "c"],
        ["a", "a"],
        [None, None],
        ["a", None],
        [["a"], ["b"]],
        [{}, {}],
        [1.0, 2.0],
        [1, True],
        ["a", "b"] * 10_000,
    ):
        yield case(f"labels {str(value)[:40]}", "native", update("task", labels=value))
    for value in ([True, False], ["\udcff", "\ud800"], [10**21, 10**250], ["a\x1b[2J", "b\n"]):
        yield case(f"labels {ascii(value)[:40]}, which are classes", "native", update("task", labels=value), code=0)
    for name in ("regress", "tag", "causal-lm", "masked-lm", "multilabel", "x", None, []):
        code = 0 if name == "multilabel" else 1
        yield case(f"task {name!r}", "native", update("task", name=name), code=code)
    one_output = head(lambda t: t[:1])
    for mean, std in (
        ([0], [0]),
        ([0], 1.0),
        (["x"], [1.0]),
        ([0], [-1.0]),
        (None, None),
        ([1e999], [1.0]),
        ([], {}),
        ({}, []),
        ([0, 1], [1, 1]),
    ):
        change = update("task", name="regress", labels=["value"], mean=mean, std=std)
        yield case(f"regress: mean {mean}, std {std}", "native", lambda model, c=change: (c(model), one_output(model)))


def heads() -> Iterator[Case]:
    """Heads of other types, shapes and values."""
    for kind, code in {
        "float16": 0,
        "bfloat16": 0,
        "float64": 0,
        "int64": 1,
        "complex64": 1,
        "bool": 1,
        "float8_e4m3fn": 0,
        "uint8": 1,
    }.items():
        yield case(f"head of {kind}", "native", head(lambda t, k=kind: t.to(getattr(torch, k))), code=code)
    yield case("head without numbers", "native", head(lambda t: t * float("nan")))
    yield case("head of infinite numbers", "native", head(lambda t: t + float("inf")))
    yield case("head of another width", "native", head(lambda t: t.repeat_interleave(2, -1)))
    yield case("head without rows", "native", head(lambda t: t[:0]))
    yield case("head of more dimensions", "native", head(lambda t: t[None]))
    yield case("no head", "native", tensors(lambda state: [state.pop(name) for name in HEAD]))
    yield case("no bias", "native", tensors(lambda state: state.pop("head.bias")))
    for name in ("head.more", "backbone.more", "more", "head.weight.x"):
        yield case(f"a tensor more: {name}", "native", tensors(lambda state, n=name: state.update({n: torch.zeros(2)})))
    for kind, code in {"float16": 0, "float64": 0, "int64": 1, "complex64": 1}.items():
        yield case(f"backbone of {kind}", "native", backbone(lambda t, k=kind: t.to(getattr(torch, k))), code=code)


def tensors(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Return an edit of the weights."""
    return lambda model: saved.tensors(model, change)


def head(change: Callable[[Any], Any]) -> Change:
    """Return an edit of the tensors of the head."""
    return tensors(lambda state: state.update({name: change(state[name]).contiguous() for name in HEAD}))


def backbone(change: Callable[[Any], Any]) -> Change:
    """Return an edit of the tensors of the backbone."""

    def edit(state: dict[str, Any]) -> None:
        state.update({n: change(t) for n, t in state.items() if n.startswith("backbone.") and t.is_floating_point()})

    return tensors(edit)


def rows() -> Iterator[Case]:
    """Rows whose sizes are not those of the weights."""
    for size, code in {4096: 1, 10**9: 1, 0: 1, -1: 1, True: 1, 16.5: 1, 5: 0}.items():
        yield case(f"native: images of {size} px", "native", update("entry", "input", size=size), code=code)
    yield case("native: width of a million", "native", update("entry", "options", width=10**6))
    yield case("native: another arch", "native", update("entry", "options", arch="resnet50"))
    yield case("native: unknown options", "native", update("entry", "options", weights="/etc/passwd"))
    yield case("another dim", "native", update("entry", dim=7))
    yield case("a plugin that does not exist", "native", update("entry", plugin="x"))
    yield case("a plugin of a path", "native", update("entry", plugin="../../x"))


def classes() -> Iterator[Case]:
    """Names of classes, and of the folder of the model, that a file system accepts: training saves a model."""
    names = {
        "not UTF-8": b"caf\xe9",
        "control characters": b"\x1b[2J\nred",
        "bidirectional": "red\u202edlog".encode(),
        "markup": b"`</details>|[x](y)",
        "21 digits": b"123456789012345678901",
        "4,000 digits in a table": b"",
        "255 bytes": b"x" * 255,
        "a quote": b"'; touch x; '",
    }
    for what, name in names.items():
        yield Case(f"class name: {what}", trained(name), code=0, keeps=("model/*", "store/*", "store/*/*/*"))
    for what, out in {"not UTF-8": b"out\xff", "control characters": b"\x1b[2J"}.items():
        keeps = ("out*/*", "*2J/*", "store/*", "store/*/*/*")
        yield Case(f"--out: {what}", trained(b"red", out), code=0, keeps=keeps)


def trained(name: bytes, out: bytes = b"model") -> Callable[[Path], list[str]]:
    """Return a `prepare` that fine-tunes on two classes, one of them with that name."""

    def prepare(folder: Path) -> list[str]:
        import pictures
        from PIL import Image

        base = pictures.catalogue(folder)
        for index, (pixels, label) in enumerate(pictures.pairs(3, ("blue", "red"))):
            where = folder / "data" / ("blue" if label == "blue" else os.fsdecode(name or b"red"))
            where.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(where / f"{index}.png")
        data = "data"
        if not name:
            data = "data.csv"
            lines = [
                f"{path.relative_to(folder)},{'9' * 4000 if path.parent.name == 'red' else 1}"
                for path in (folder / "data").rglob("*.png")
            ]
            (folder / data).write_text("image,label\n" + "\n".join(lines) + "\n")
        options = "--strategy scratch --set steps=1 --valid 0 --out"
        return ["finetune", base, data, *options.split(), os.fsdecode(out)]

    return prepare


def thinned(cases: Iterator[Case], every: int) -> Iterator[Case]:
    """Leave one case in `every` to the fast suite; `make real` runs them all."""
    for index, each in enumerate(cases):
        yield dataclasses.replace(each, heavy=each.heavy or index % every > 0)


CASES = [
    *thinned(manifests(), 14),
    *thinned(labels(), 5),
    *thinned(heads(), 3),
    *thinned(rows(), 3),
    *thinned(classes(), 4),
]
