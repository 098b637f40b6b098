"""Hostile outputs and checkpoints: damaged or foreign ones, names of all kinds, folders that another process uses."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from hostile.case import Case

PRELOAD = (
    *("zoo.model.load", "zoo.cli.train", "zoo.store.hub_datasets", "zoo_native.plugin"),
    *("pictures", "safetensors", "torch._dynamo", "torch.distributed.tensor"),
)
FULL = ("--strategy", "full", *(f"--set={field}" for field in ("steps=6", "evals=3", "soup=2", "batch_size=4")))
PROBE = ("--strategy", "probe", "--set=l2=0.1")
MODEL = ("*/zoo.json", "*/zoo.safetensors", "*/README.md", "*/metrics.jsonl")
CACHE = ("store/*/*/*",)
HELD: list[int] = []
"""Descriptors of locked files, open until the process ends."""
Change = Callable[[Path], None]


def template() -> Path:
    """Return a folder with a checkpoint (run.unfinished), a finished run (done), two base models and data."""
    made = Path.home() / "resume"
    if made.exists():
        return made
    import pictures

    import zoo
    from zoo.console import quiet

    work, before = made.with_name("resume.part"), Path.cwd()
    work.mkdir()
    os.chdir(work)
    pictures.folder(work / "colours", 4)
    pictures.folder(work / "others", 4, seed=7)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with quiet():
        for seed, name in enumerate(("base", "base2")):
            model = zoo.load(pictures.catalogue(work, name), "cpu")
            model.finetune("colours", strategy="scratch", steps=2, batch_size=4, seed=seed, out=name)
        zoo.load("./base", "cpu").finetune("colours", strategy="probe", l2=0.1, out="done")
        model = zoo.load("./base", "cpu")
        left = iter(range(6, -1, -1))
        model.backbone.module.register_forward_hook(
            lambda *_: os.kill(os.getpid(), signal.SIGINT) if next(left, 1) == 0 else None
        )
        settings = {"steps": 6, "evals": 3, "soup": 2, "batch_size": 4}
        with suppress(KeyboardInterrupt):
            model.finetune("colours", strategy="full", out="run", **settings)
    assert (work / "run.unfinished" / "state.safetensors").exists()
    assert list((work / "run.unfinished").glob("best-*"))
    os.chdir(before)
    return work.rename(made)


def arguments(out: str, *more: str, data: str = "colours", base: str = "./base") -> list[str]:
    settings = {"run": FULL, "done": PROBE}.get(out, PROBE)
    return ["finetune", base, data, "--device", "cpu", *settings, "--out", out, *more]


def prepared(change: Change | None, command: list[str]) -> Callable[[Path], list[str]]:
    def prepare(folder: Path) -> list[str]:
        shutil.copytree(template(), folder, symlinks=True, dirs_exist_ok=True)
        if change is not None:
            change(folder)
        return command

    return prepare


def resumed(name: str, change: Change | None, says: str, *, out: str = "run", **more: Any) -> Case:
    """Return a case that continues the run to `out` after a change to the template's files."""
    return Case(name, prepared(change, arguments(out, "--resume")), says, keeps=CACHE, **more)


def edited(path: str, edit: Callable[[bytearray], Any]) -> Change:
    """Return a change of a file's bytes."""

    def change(folder: Path) -> None:
        for file in folder.glob(path):
            content = bytearray(file.read_bytes())
            edit(content)
            file.write_bytes(content)

    return change


def flipped(share: float) -> Callable[[bytearray], None]:
    def flip(content: bytearray) -> None:
        content[int(share * (len(content) - 1))] ^= 1

    return flip


def cut(share: float) -> Callable[[bytearray], None]:
    def truncate(content: bytearray) -> None:
        del content[int(share * len(content)) :]

    return truncate


def facts(change: Callable[[dict[str, Any]], Any], *, signed: bool = False) -> Change:
    """Return a change of the facts in the checkpoint; `signed`: with the digest of the new content."""

    def edit(folder: Path) -> None:
        from zoo.finetune.training.checkpoint import _digest
        from zoo.weights import safetensors_file

        path = folder / "run.unfinished" / "state.safetensors"
        tensors, metadata = safetensors_file.read_state(path)
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        found = json.loads(metadata["run"])
        changed = change(found)
        found = found if changed is None else changed
        text = json.dumps(found) if isinstance(found, dict) else found
        digest = _digest(tensors, text) if signed else metadata["sha256"]
        safetensors_file.write_state(path, tensors, {"run": text, "sha256": digest})

    return edit


def replaced(path: str, make: Callable[[Path], Any]) -> Change:
    """Return a change that puts something else in a file's place."""

    def change(folder: Path) -> None:
        target = folder / path
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        make(target)

    return change


def put(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda found: found.update({key: value})


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda found: found.__delitem__(key)


def damaged() -> Iterator[Case]:
    """Checkpoints and best weights with other bytes than were written."""
    files = {"state": "run.unfinished/state.safetensors", "best weights": "run.unfinished/best-*.safetensors"}
    for kind, path in files.items():
        for place in (0.0, 0.02, 0.2, 0.5, 0.7, 0.9, 1.0):
            heavy = place not in (0.0, 0.5)
            yield resumed(f"{kind}: bit flipped at {place:.0%}", edited(path, flipped(place)), "", heavy=heavy)
        for place in (0.0, 0.001, 0.3, 0.999):
            heavy = place not in (0.0, 0.999)
            yield resumed(f"{kind}: cut at {place:.1%}", edited(path, cut(place)), "cannot be continued", heavy=heavy)
    kinds: dict[str, Callable[[Path], Any]] = {
        "a folder": Path.mkdir,
        "a pipe": os.mkfifo,
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a link to zeros": lambda path: path.symlink_to("/dev/zero"),
        "a pickle": lambda path: path.write_bytes(b"\x80\x04cos\nsystem\n"),
        "a model": lambda path: shutil.copyfile(path.parents[1] / "base/zoo.safetensors", path),
    }
    for kind, make in kinds.items():
        change = replaced("run.unfinished/state.safetensors", make)
        yield resumed(f"state: {kind}", change, "cannot be continued")
    gone = lambda folder: [path.unlink() for path in folder.glob("run.unfinished/best-*")]  # noqa: E731
    yield resumed("best weights: missing", gone, "cannot be continued")
    yield resumed("best weights: of another evaluation", _swapped, "belongs to another run")
    edits = {
        "step": -1, "phase": "probe", "history": [], "history_before": [{}], "finished": ["tune"], "decisions": {},
        "micro_batch": 0, "seconds": 1e9, "request": {}, "digests": {}, "best": {}, "x": 1,
    }  # fmt: skip
    for index, (key, value) in enumerate(edits.items()):
        yield resumed(f"facts: {key} edited", facts(put(key, value)), "cannot be continued", heavy=index > 1)
    for value in (None, 0, 2, 4, "3", [3]):
        change = facts(put("format", value), signed=True)
        yield resumed(f"facts: format {value!r}", change, "another version of zoo", heavy=value not in (None, 4))
    for key in ("step", "phase", "history", "history_before", "finished", "decisions", "micro_batch", "seconds"):
        yield resumed(f"facts: no {key}, signed", facts(drop(key), signed=True), "cannot be continued", heavy=True)
    for key in ("request", "digests", "best"):
        yield resumed(f"facts: no {key}, signed", facts(drop(key), signed=True), "")
    texts = {"not JSON": "{", "a list": "[]", "null": "null", "deep": "[" * 50_000 + "]" * 50_000, "empty": ""}
    for name, text in texts.items():
        change = facts(lambda _, text=text: text, signed=True)
        yield resumed(f"facts: {name}", change, "cannot be continued", heavy=name != "deep")


def _swapped(folder: Path) -> None:
    paths = sorted(folder.glob("run.unfinished/best-*"))
    shutil.copyfile(paths[0], paths[1])


def foreign() -> Iterator[Case]:
    """The same command on other data, weights or settings; for an unfinished and for a finished run."""
    renamed = lambda folder: (folder / "colours/red").rename(folder / "colours/rot")  # noqa: E731
    touched = lambda folder: os.utime(folder / "colours/red/008.png", (1, 1))  # noqa: E731
    fewer = lambda folder: (folder / "colours/red/008.png").unlink()  # noqa: E731
    swapped = lambda folder: _exchange(folder / "base", folder / "base2")  # noqa: E731
    changes: dict[str, tuple[Change, str]] = {
        "a class renamed": (renamed, "data="),
        "a file changed": (touched, "data="),
        "a file removed": (fewer, "data="),
        "other data": (lambda folder: _exchange(folder / "colours", folder / "others"), "data="),
        "another base of the same name": (swapped, "and now"),
        "a base whose size was edited": (_resized, "and now network="),
        "a base whose labels were edited": (_relabelled, "and now weights="),
    }
    options = {
        "seed": (["--seed", "3"], "seed=0, and now seed=3"),
        "lr": (["--lr", "0.5"], "now lr=0.5"),
        "valid share": (["--valid", "0.5"], "now valid=0.5"),
        "valid folder": (["--valid", "others"], "and now valid="),
        "test share": (["--test", "0.3"], "and now test="),
        "test folder": (["--test", "others"], "and now test="),
        "task": (["--task", "multilabel"], "and now task="),
        "batch size": (["--set", "batch_size=5"], "now batch_size=5"),
        "soup": (["--set", "soup=1"], "now soup=1"),
        "skip_bad": (["--set", "skip_bad=true"], "now skip_bad=True"),
        "strategy": (["--strategy", "lora"], "now strategy='lora'"),
        "precision": (["--set", "precision=bf16"], "now precision='bf16'"),
    }
    for out in ("run", "done"):
        for name, (change, says) in changes.items():
            yield resumed(f"{out}: {name}", change, says, out=out, heavy=out == "done" or "file" in name)
        for index, (name, (more, says)) in enumerate(options.items()):
            command = arguments(out, "--resume", *more)
            heavy = out == "done" or index > 4
            yield Case(f"{out}: another {name}", prepared(None, command), says, keeps=CACHE, heavy=heavy)
        command = arguments(out, "--resume", base="./base2")
        yield Case(f"{out}: another base", prepared(None, command), "and now backbone=", keeps=CACHE)
    both = edited("done/zoo.safetensors", flipped(0.5))
    yield resumed("a damaged result", both, "damaged", out="done")


def _exchange(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def _manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "base" / "zoo.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def _resized(folder: Path) -> None:
    _manifest(folder, lambda document: document["entry"]["input"].update(size=24))


def _relabelled(folder: Path) -> None:
    _manifest(folder, lambda document: document["task"].update(labels=["a", "b", "c"]))


def refused() -> Iterator[Case]:
    """Outputs that cannot be written, or that another process uses."""
    outs: dict[str, tuple[str, Change | None, str]] = {
        "unfinished, without --resume": ("run", None, "holds an unfinished run"),
        "finished, without --resume": ("done", None, "is not empty"),
        "not empty": ("colours", None, "is not empty"),
        "a file": ("zoo.toml", None, "is a file"),
        "below a file": ("zoo.toml/m", None, "cannot be created"),
        "a pipe": ("p", lambda folder: os.mkfifo(folder / "p"), "is a file"),
        "a loop of links": ("p", lambda folder: (folder / "p").symlink_to("p"), "cannot be created"),
        "the root": ("/", None, "cannot be created"),
        "the folder above": ("..", None, "is not empty"),
        "the working directory": (".", None, "is not empty"),
        "nothing": ("", None, "is not empty"),
        "a device": ("/dev/null", None, "is a file"),
        "in /proc": ("/proc/self/m", None, "cannot be created"),
        "a name of 246 bytes": ("n" * 246, None, "too long"),
        "a name of 256 bytes": ("n" * 256, None, "too long"),
        "a path of 5,000 bytes": ("n/" * 2500, None, "too long"),
        "a working folder that is a file": ("m", lambda folder: (folder / "m.unfinished").touch(), "cannot be created"),
        "a lock that is a folder": ("m", lambda folder: (folder / "m.unfinished/lock").mkdir(parents=True), "m cannot"),
        "a lock that is a link": ("m", _linked_lock, "m cannot"),
        "a folder that another process writes to": ("m", _locked, "another process"),
    }
    for name, (out, change, says) in outs.items():
        yield Case(f"out: {name}", prepared(change, arguments(out)), says, keeps=CACHE)
    resumes = prepared(_locked_run, arguments("run", "--resume"))
    yield Case("out: a run that another process continues", resumes, "another process", keeps=CACHE)


def _linked_lock(folder: Path) -> None:
    (folder / "m.unfinished").mkdir()
    (folder / "m.unfinished" / "lock").symlink_to(folder / "zoo.toml")


def _locked(folder: Path, out: str = "m") -> None:
    (folder / f"{out}.unfinished").mkdir(exist_ok=True)
    HELD.append(os.open(folder / f"{out}.unfinished" / "lock", os.O_RDWR | os.O_CREAT))
    fcntl.flock(HELD[-1], fcntl.LOCK_EX)


def _locked_run(folder: Path) -> None:
    _locked(folder, "run")


def accepted() -> Iterator[Case]:
    """Names that the file system accepts, and what killed runs leave."""
    names = {
        "Latin-1": os.fsdecode(b"caf\xe9"), "invalid UTF-8": os.fsdecode(b"\xff\xfe\xc0"), "a surrogate": "\udcff",
        "a newline": "a\nb", "an escape": "\x1b[31mred", "a bidirectional control": "\u202egnp.m", "a quote": "a'b\"c",
        "hidden": ".m", "a dash": "./--m", "spaces": " m ", "emoji": "🦜" * 40, "a long name": "n" * 244,
        "new folders": "a/b/c/m", "dots": "m..", "a tab": "m\t", "markdown": "[m](x)<b>",
    }  # fmt: skip
    for index, (name, out) in enumerate(names.items()):
        heavy = index not in (0, 3)
        yield Case(f"out: {name}", prepared(None, arguments(out)), code=0, keeps=(*CACHE, *MODEL), heavy=heavy)
    places: dict[str, Change] = {
        "a link to an empty folder": lambda folder: _link(folder, make=True),
        "a link to nothing": lambda folder: _link(folder, make=False),
        "an empty folder": lambda folder: (folder / "m").mkdir(),
        "left by a killed run": _killed,
    }
    for name, change in places.items():
        heavy = name == "an empty folder"
        yield Case(f"out: {name}", prepared(change, arguments("m")), code=0, keeps=(*CACHE, *MODEL), heavy=heavy)
    for name, path in {"data": "colours", "class": "colours/red", "file": "colours/red/008.png"}.items():
        odd = os.fsdecode(b"caf\xe9.png")
        change = lambda folder, path=path, odd=odd: (folder / path).rename((folder / path).with_name(odd))  # noqa: E731
        command, keeps = arguments("m", data=odd if name == "data" else "colours"), (*CACHE, *MODEL)
        yield Case(
            f"a non-UTF-8 name of a {name}", prepared(change, command), code=0, keeps=keeps, heavy=name == "data"
        )


def _link(folder: Path, *, make: bool) -> None:
    (folder / "m").symlink_to("target")
    if make:
        (folder / "target").mkdir()


def _killed(folder: Path) -> None:
    (folder / "m.unfinished" / "saved").mkdir(parents=True)
    for name in ("lock", ".state.safetensors.1.part", "best-tune-2.safetensors", "saved/zoo.safetensors"):
        (folder / "m.unfinished" / name).write_bytes(b"half")


CASES = [*damaged(), *foreign(), *refused(), *accepted()]
