"""A hostile case: what is written into an empty folder, and the command that has to refuse it."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SECONDS, BYTES = 10.0, 2 << 30
"""Limits of every case."""
CONTROLS = {chr(code) for code in (*range(32), *range(127, 160))} - {"\n"}
BIDI = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c\u2028\u2029")


@dataclass(frozen=True)
class Case:
    """`prepare` writes files below the folder it gets (its working directory) and returns the arguments of `zoo`.

    says   text that the error has to contain
    hides  text that the output must not contain
    code   expected exit status: 1, or 0 where the input has to be survived
    keeps  patterns of files that the command may leave behind, relative to the folder
    heavy  run in `make real` only
    """

    name: str
    prepare: Callable[[Path], list[str]]
    says: str = ""
    hides: str = ""
    code: int = 1
    keeps: tuple[str, ...] = ()
    heavy: bool = False


@dataclass(frozen=True)
class Result:
    """What a command did: exit status (negative: signal), output, seconds, peak bytes, files it left behind."""

    code: int
    out: str
    err: str
    seconds: float
    peak: int
    left: tuple[str, ...]


def run(case: Case, folder: Path) -> Result:
    """Prepare a case and run its command in a forked process, within the limits. RuntimeError if it is not prepared."""
    outside = folder.parent
    child = os.fork()
    if child == 0:
        _child(case, folder)
    ready = outside / "ready"
    code, peak, end = _wait(child, ready)
    if not ready.exists():
        raise RuntimeError((outside / "err").read_text("utf-8", "backslashreplace"))
    start, before = json.loads(ready.read_text())
    left = listing(folder) - set(before)
    kept = {name for name in left if any(Path(name).match(pattern) for pattern in case.keeps)}
    out, err = ((outside / name).read_text("utf-8", "backslashreplace") for name in ("out", "err"))
    return Result(code, out, err, end - start, peak, tuple(sorted(left - kept)))


def verdict(case: Case, result: Result) -> list[str]:
    """Return what is wrong with a result; an empty list if the case was refused (or survived) as it should be."""
    wrong = []
    if result.code != case.code:
        wrong.append(f"exit status {result.code}, expected {case.code}")
    lines = result.err.splitlines()
    if case.code == 1:
        if len(lines) < 2 or not lines[-2].startswith("error: ") or not lines[-1].startswith("fix: "):
            wrong.append("stderr does not end with error: and fix:")
        if case.says not in result.err:
            wrong.append(f"the error does not say {case.says!r}")
        if len(result.err) > 2000:
            wrong.append(f"an error of {len(result.err):,} characters")
    if case.hides and case.hides in result.err + result.out:
        wrong.append(f"the output shows {case.hides!r}")
    if "Traceback" in result.err + result.out:
        wrong.append("a traceback")
    if found := (CONTROLS | BIDI) & set(result.out + result.err):
        wrong.append(f"control characters in the output: {sorted(map(ascii, found))}")
    if result.seconds > SECONDS:
        wrong.append(f"{result.seconds:.1f} s")
    if result.peak > BYTES:
        wrong.append(f"{result.peak / 1e9:.1f} GB")
    if result.left:
        wrong.append(f"left behind: {', '.join(result.left[:5])}")
    return wrong


def listing(folder: Path) -> set[str]:
    """Return the relative paths of all files below a folder, but for lock files and bytecode."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {str(path) for path in found if path.suffix not in (".lock", ".pyc")}


def _child(case: Case, folder: Path) -> None:
    """Prepare a case, then run `zoo` without root's capabilities, its output in files; never returns."""
    status = 99
    os.setsid()
    _redirect(2, folder.parent / "err")
    try:
        os.chdir(folder)
        homes = {"ZOO_HOME": "store", "ZOO_CONFIG_HOME": "config", "HF_HOME": "hf"}
        os.environ.update({name: str(folder / home) for name, home in homes.items()})
        arguments = case.prepare(folder)
        for stream, name in ((1, "out"), (2, "err")):
            sys.stdout.flush()
            _redirect(stream, folder.parent / name)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        before = sorted(listing(folder))
        written = folder.parent / "ready.part"
        written.write_text(json.dumps([time.monotonic(), before]))
        written.rename(folder.parent / "ready")

        from storing import drop_root

        from zoo.cli import main

        drop_root()
        main(arguments, prog_name="zoo")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _redirect(stream: int, path: Path) -> None:
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), stream)


def _wait(child: int, ready: Path) -> tuple[int, int, float]:
    """Wait for a child; return its status, its peak memory in bytes and the time of its end.

    Its process group is ended SECONDS after the file `ready` appeared, and after a minute without it.
    """
    deadline, is_ready = time.monotonic() + 60, False
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        now = time.monotonic()
        if done:
            return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024, now
        if not is_ready and ready.exists():
            deadline, is_ready = now + SECONDS, True
        if now > deadline:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.005)


def serve() -> None:
    """Answer requests on stdin, one JSON object a line: {module, name, folder}.

    What is slow to import is loaded once, before any fork: the PRELOAD of a module, a tuple of names.
    """
    import importlib

    import zoo.model.finetuning  # loaded once, before any fork

    assert zoo
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        module = importlib.import_module(request["module"])
        for name in getattr(module, "PRELOAD", ()):
            importlib.import_module(name)
        case = next(case for case in module.CASES if case.name == request["name"])
        try:
            answer = {"result": vars(run(case, Path(request["folder"])))}
        except RuntimeError as error:
            answer = {"failed": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve()
