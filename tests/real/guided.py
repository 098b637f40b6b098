"""Coverage-guided fuzzing of the parsers of untrusted files: python guided.py TARGET CORPUS [-option=value …].

Options are passed to libFuzzer through atheris: https://llvm.org/docs/LibFuzzer.html#options. Any exception other than
a ZooError with a fix ends the process with a traceback. Inputs are either the bytes of a file, or a valid document with
parts removed, renamed or replaced.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris
import torch
from safetensors.torch import save

sys.path.insert(0, str(Path(__file__).parents[1]))
import pictures
from mutations import LEAVES, nodes

with atheris.instrument_imports(include=["zoo", "PIL"]):
    from hostile import images

    import zoo.model.load
    from zoo.catalogue import rows
    from zoo.console import quiet
    from zoo.data import image_files
    from zoo.data.images import pixels
    from zoo.data.reading import read_one
    from zoo.errors import ZooError
    from zoo.model import artefact
    from zoo.plugin import ImageInput
    from zoo.store import cache_file, lock
    from zoo.weights.safetensors_file import read_state

FOLDER = Path("guided").absolute()
SAVED = FOLDER / "saved"
REGISTRY = Path(__file__).parents[2] / "registry.toml"
HEADER = {
    "__metadata__": {"zoo": "1"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "I64", "shape": [], "data_offsets": [24, 32]},
}
ROWS = {
    "acme/owl": {
        "plugin": "native",
        "modality": "image",
        "source": "hf://acme/owl",
        "files": [{"path": "model.safetensors", "sha256": "ab" * 32, "bytes": 7}],
        "input": {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear"},
        "options": {"arch": "resnet14", "width": 4},
        "aliases": ["owl"],
        "dim": 512,
        "params": 1000,
        "license": "mit",
        "tasks": ["classify"],
        "metrics": {"imagenet-1k top1": 70.0},
    }
}
LOCK = """
["acme/owl"]
source = "hf://acme/owl"
commit = "0123456789abcdef0123456789abcdef01234567"
when = "2026-01-01T00:00:00+00:00"
files = [{ path = "model.safetensors", sha256 = "%s", bytes = 7 }]
""" % ("ab" * 32)


def mutate(document: Any, content: bytes) -> Any:
    """Return a document with some nodes removed, copied or replaced, determined by the fuzzer bytes."""
    data, found = atheris.FuzzedDataProvider(content), copy.deepcopy(document)
    for _ in range(data.ConsumeIntInRange(0, 4)):
        paths = list(nodes(found))
        if not paths:
            break
        *above, key = paths[data.ConsumeIntInRange(0, len(paths) - 1)]
        parent, action = found, data.ConsumeIntInRange(0, 9)
        for step in above:
            parent = parent[step]
        if action == 0:
            del parent[key]
        elif action == 1 and isinstance(parent, dict):
            parent[data.ConsumeUnicode(8)] = copy.deepcopy(parent[key])
        elif action == 2:
            parent[key] = data.ConsumeUnicode(20)
        elif action == 3:
            parent[key] = data.ConsumeInt(9)
        else:
            parent[key] = copy.deepcopy(LEAVES[data.ConsumeIntInRange(0, len(LEAVES) - 1)])
    return found


def write(name: str, content: bytes | Any) -> Path:
    """Write a file: bytes unchanged, other values as JSON."""
    path = FOLDER / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode("utf-8", "surrogatepass"))
    return path


def read_weights(content: bytes) -> None:
    read_state(write("any.safetensors", content))


def read_header(content: bytes) -> None:
    """Read a mutated header; if accepted, the tensors must have exactly the bytes of the file."""
    text, count = json.dumps(mutate(HEADER, content)).encode("utf-8", "surrogatepass"), 32
    state, _ = read_state(write("near.safetensors", len(text).to_bytes(8, "little") + text + bytes(count)))
    assert sum(tensor.numel() * tensor.element_size() for tensor in state.values()) == count


def read_lock(content: bytes) -> None:
    lock._parse.cache_clear()
    for receipt in lock.read(write("lock.toml", content)).values():
        assert all(rows.is_inside(file.path) for file in receipt.files)


def read_catalogue(content: bytes) -> None:
    check_rows(write("zoo.toml", content))


def read_rows(content: bytes) -> None:
    check_rows(write("rows.json", mutate(ROWS, content)))


def check_rows(path: Path) -> None:
    for name, row in rows.read_catalogue(path).items():
        entry = rows.entry_from_row(name, row, catalogue=path)
        assert all(rows.is_inside(file.path) for file in entry.files)


def read_manifest(content: bytes) -> None:
    artefact.read(write("any/zoo.json", content).parent)


def load_saved(content: bytes) -> None:
    """Load a saved model with a mutated manifest; if accepted, it must predict and save."""
    again = FOLDER / "again"
    shutil.rmtree(again, ignore_errors=True)
    manifest = mutate(json.loads((SAVED / "zoo.json").read_text()), content)
    model = zoo.load(write("near/zoo.json", manifest).parent, "cpu")
    model.predict([pictures.array("blue", 1)])
    model.save(again)


def decode_image(content: bytes) -> None:
    image_files.MAX_BYTES = 5_000_000  # else a few inputs of a second each take most of the time
    assert pixels(content, ImageInput(8, (0.5,) * 3, (0.5,) * 3), "image").shape[0] == 3


def read_table(suffix: str) -> Callable[[bytes], None]:
    """Return a function that reads a table; if accepted, every input is a text with a label."""

    def read(content: bytes) -> None:
        found = read_one(write(f"table.{suffix}", content), modality="text")
        assert len(found.inputs) == len(found.labels) > 0

    return read


def read_cache(content: bytes) -> None:
    """Read a file of a cache: it is whole, or it is deleted."""
    path = write("cached", content)
    assert cache_file.read(path) is None
    assert not path.exists()


def seeds() -> dict[str, bytes]:
    """Return more corpus entries of the images: each format and mode, damaged or not."""
    modes = [(form, mode) for form, several in images.FORMATS.items() for mode in several if mode != "I;16"]
    return {f"{form} {mode}": images.encoded(form, mode, 12) for form, mode in modes} | images.FOREIGN


CSV = b'text,label\na film,1.5\n"a ""film""",2\n'
JSON = b'{"text": "a film", "label": ["a", "b"]}\n{"text": "a film", "label": []}\n'
TARGETS: dict[str, tuple[Callable[[bytes], None], bytes]] = {
    "image": (decode_image, images.encoded("PNG", size=12)),
    "csv": (read_table("csv"), CSV),
    "tsv": (read_table("tsv"), CSV.replace(b",", b"\t")),
    "json": (read_table("json"), JSON),
    "parquet": (read_table("parquet"), b""),
    "cache": (read_cache, b"\x18\0\0\0\0\0\0\0" + b'{"__metadata__":{"a":1}}'),
    "weights": (read_weights, save({"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.int64)}, {"zoo": "1"})),
    "header": (read_header, bytes(64)),
    "lock": (read_lock, LOCK.encode()),
    "catalogue": (read_catalogue, REGISTRY.read_bytes().split(b"\n\n")[1]),
    "rows": (read_rows, bytes(64)),
    "manifest": (read_manifest, b""),
    "saved": (load_saved, bytes(64)),
}
"""Function under test and initial corpus entry of each target; b"" is replaced by a real file."""


def prepare() -> None:
    """Save a tiny model and copy its weights next to the mutated manifests."""
    for name in ("any", "near"):
        (FOLDER / name).mkdir(parents=True)
    os.chdir(FOLDER)
    model = zoo.load(pictures.catalogue(FOLDER), "cpu")
    model.finetune(pictures.pairs(2), strategy="scratch", steps=1, batch_size=4)
    shutil.copy(model.save(SAVED) / artefact.WEIGHTS, FOLDER / "near")


def main() -> None:
    name, corpus, *options = sys.argv[1:]
    call, first = TARGETS[name]
    with quiet():
        prepare()
        if name == "parquet":
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": [1, 2]}), FOLDER / "first")
            first = (FOLDER / "first").read_bytes()
        first = first or (SAVED / "zoo.json").read_bytes()
        call(first)  # the initial input must be accepted
        more = seeds() if name == "image" else {}
        for number, content in enumerate((first, *more.values())):
            (Path(corpus) / str(number)).write_bytes(content)

        def once(content: bytes) -> None:
            try:
                call(content)
            except ZooError as error:
                if not error.what or not error.fix:
                    raise

        atheris.Setup([name, corpus, *options], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
