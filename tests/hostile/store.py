"""Hostile local sources, locks and stores."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import chdir
from functools import partial
from pathlib import Path

from hostile.case import Case
from hostile.servers import CONTENT, PULL, SHA256, STORED, row, thinned
from hostile.servers import PRELOAD as PRELOAD

# Local sources

LOCAL = {
    "/proc/self/environ": ("file:///proc/self", "environ"),
    "/proc/1/cmdline": ("file:///proc/1", "cmdline"),
    "/proc through the root": ("file:///", "proc/self/environ"),
    "/proc through dots": ("file:///tmp/..", "proc/self/environ"),
    "/proc in percent": ("file:///%70roc/self", "environ"),
    "/proc through a link to it": ("file://./proc", "self/environ"),
    "/sys": ("file:///sys/kernel", "notes"),
    "/dev/zero": ("file:///dev", "zero"),
    "/dev/stdin": ("file:///dev", "stdin"),
    "a named pipe": ("file://./box", "pipe"),
    "a socket": ("file://./box", "socket"),
    "a folder": ("file://./box", "folder"),
    "a link to a secret": ("file://./box", "secret"),
    "a link to a folder of secrets": ("file://./box", "outside/secret"),
    "a link to /dev/zero": ("file://./box", "zero"),
    "a link to itself": ("file://./box", "loop"),
    "a link to nothing": ("file://./box", "nothing"),
    "dots": ("file://./box", "../secret"),
    "dots in percent": ("file://./box", "%2e%2e/secret"),
    "NUL": ("file://./box%00", "model.safetensors"),
    "a path of 5,000 letters": (f"file://./{'a' * 5000}", "model.safetensors"),
    "an escape": ("file://./%1b[31mred", "model.safetensors"),
    "a home": ("file://~root", "x"),
    "a package with dots": ("package://torch/..", "x"),
    "a package with a root": ("package://torch//etc", "passwd"),
    "no package": ("package://\u202eevil", "x"),
    "an unknown scheme": ("gopher://x", "x"),
    "no scheme": ("/etc", "passwd"),
}


def _local(source: str, path: str, folder: Path) -> list[str]:
    box = folder / "box"
    (box / "folder").mkdir(parents=True)
    os.mkfifo(box / "pipe")
    with socket.socket(socket.AF_UNIX) as unix, chdir(box):
        unix.bind("socket")
    (folder / "secret").write_text("secret")
    links = {"secret": "../secret", "outside": "..", "zero": "/dev/zero", "loop": "loop", "nothing": "none"}
    for name, target in links.items():
        (box / name).symlink_to(target)
    (folder / "proc").symlink_to("/proc")
    row(folder, source, f"path = {json.dumps(path)}")
    return PULL


def of_local_files() -> Iterator[Case]:
    """Local sources that are no stored files."""
    for name, (source, path) in LOCAL.items():
        yield Case(f"local: {name}", partial(_local, source, path))


# Locks and stores

TABLE = '["mine/net"]\nsource = "file://./box"\nwhen = "2026"\nfiles = [{{ path = {}, sha256 = {}, bytes = {} }}]\n'
GOOD = ('"model.safetensors"', f'"{SHA256}"', str(len(CONTENT)))
RECORDS = {
    "a hash that is a path": (GOOD[0], '"../../outside/x"', GOOD[2]),
    "a hash in capitals": (GOOD[0], f'"{SHA256.upper()}"', GOOD[2]),
    "a hash of 63 digits": (GOOD[0], f'"{SHA256[:-1]}"', GOOD[2]),
    "a hash with a line break": (GOOD[0], f'"{SHA256}\\n"', GOOD[2]),
    "a hash in other digits": (GOOD[0], f'"{"٣" * 64}"', GOOD[2]),
    "a hash that is a number": (GOOD[0], "1", GOOD[2]),
    "a path outside": ('"../x"', *GOOD[1:]),
    "an absolute path": ('"/etc/passwd"', *GOOD[1:]),
    "a size below zero": (*GOOD[:2], "-1"),
    "a size that is true": (*GOOD[:2], "true"),
    "a size that is nan": (*GOOD[:2], "nan"),
}
LOCKS: dict[str, str | bytes] = {
    **{name: TABLE.format(*record) for name, record in RECORDS.items()},
    "no table": "mine = 1",
    "no files": '["mine/net"]\nsource = "file://./box"\nwhen = "2026"\n',
    "files that are a number": '["mine/net"]\nsource = "file://./box"\nwhen = "2026"\nfiles = 3\n',
    "nested 10,000 deep": "a = " + "[" * 10_000 + "]" * 10_000,
    "a key of 50,000 dots": f"{'.a' * 50_000}"[1:] + " = 1",
    "5 MB": "#" * 5_000_000,
    "no UTF-8": b"\xff\xfe\x00",
    "an escape as name": '["\x1b[31m"]\n',
    "a name that turns the line": '["\u202egnp"]\nsource = 1\n',
}
COMMANDS = {"pull": PULL, "verify": ["verify"], "gc": ["gc"], "rm": ["rm", "mine/net"], "list": ["list", "--pulled"]}


def locked(content: str | bytes, command: str, where: str) -> Callable[[Path], list[str]]:
    """Return a preparation: a lock with this content (or a device at this path), and a command that reads it."""

    def prepare(folder: Path) -> list[str]:
        (folder / "box").mkdir()
        (folder / "store").mkdir()
        (folder / "box" / "model.safetensors").write_bytes(CONTENT)
        row(folder, "file://./box")
        lock = folder / where
        if content == "pipe":
            os.mkfifo(lock)
        elif content == "zero":
            lock.symlink_to("/dev/zero")
        elif content == "folder":
            lock.mkdir()
        else:
            lock.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return COMMANDS[command]

    return prepare


def of_locks() -> Iterator[Case]:
    """The user's lock and a project's."""
    for number, (name, content) in enumerate(LOCKS.items()):
        for turn, command in enumerate(COMMANDS):
            for where in ("store/lock.toml", "zoo.lock"):
                light = (
                    (number + turn) % 5 == 0 and (where == "zoo.lock") == bool(number % 2) and number % 2 == turn % 2
                )
                yield Case(
                    f"{command}, {where}: {name}", locked(content, command, where), keeps=STORED, heavy=not light
                )
    for content in ("pipe", "zero", "folder"):
        for command in COMMANDS:
            prepare = locked(content, command, "store/lock.toml")
            yield Case(f"{command}, store/lock.toml: {content}", prepare, "lock.toml", heavy=command != "gc")


# Stores that cannot be written, or were changed

TRAIN = ["finetune", "mine/net", "images", "--strategy", "probe", "--out", "model"]


def stored(arguments: list[str], change: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    """Return a preparation: a small network is pulled, then its store is changed."""

    def prepare(folder: Path) -> list[str]:
        import pictures

        import zoo
        from zoo.weights.safetensors_file import write_state

        network = zoo.load(pictures.catalogue(folder), "cpu").backbone.module
        (folder / "box").mkdir()
        write_state(folder / "box" / "model.safetensors", network.state_dict(), {})
        source = 'source = "file://./box"\nfiles = [{ path = "model.safetensors" }]\n'
        with (folder / "zoo.toml").open("a") as file:
            file.write(pictures.ROW.format(name="net", size=16, mean=[0.5] * 3).replace("tiny/", "mine/") + source)
        pictures.folder(folder / "images", 4)
        zoo.pull("mine/net")
        change(folder / "store")
        return arguments

    return prepare


def read_only(store: Path) -> None:
    """Make a store read-only, with caches that cannot even be listed."""
    for name, mode in (("decoded", 0o000), ("features", 0o555)):
        (store / "cache" / name).mkdir(parents=True)
        (store / "cache" / name).chmod(mode)
    (store / "blobs" / ("0" * 64)).touch()
    for path in (store / "cache", store / "blobs", store / "tmp", store):
        path.chmod(0o555)


def _blob(store: Path) -> Path:
    return next((store / "blobs").iterdir())


def _tamper(store: Path) -> None:
    blob = _blob(store)
    before = blob.stat()
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes()[:-1] + b"X")
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))


def _swap(store: Path) -> None:
    (store / "swap").write_bytes(_blob(store).read_bytes()[:-1] + b"X")
    (store / "swap").replace(_blob(store))


def _link(store: Path) -> None:
    (store.parent / "elsewhere").write_bytes(_blob(store).read_bytes()[:-1] + b"X")
    blob = _blob(store)
    blob.unlink()
    blob.symlink_to(store.parent / "elsewhere")


def of_stores() -> Iterator[Case]:
    """Read-only stores serve; changed ones do not load."""
    yield Case("read-only: finetune", stored(TRAIN, read_only), code=0, keeps=("model/*",), heavy=True)
    for arguments in (["gc"], ["gc", "--caches"], ["rm", "mine/net"]):
        yield Case(f"read-only: {' '.join(arguments)}", stored(arguments, read_only), "cannot be changed")
    for arguments in (["verify"], ["list", "--pulled"], ["info", "mine/net"], PULL):
        yield Case(f"read-only: {arguments[0]}", stored(arguments, read_only), code=0, heavy=True)
    for name, change in {"in place": _tamper, "by another file": _swap, "by a link": _link}.items():
        yield Case(f"changed {name}: finetune", stored(TRAIN, change), "was changed after its download")
        yield Case(f"changed {name}: verify", stored(["verify"], change), "damaged", heavy=True)


CASES = [*thinned(of_local_files(), 4), *thinned(of_locks(), 1), *of_stores()]
