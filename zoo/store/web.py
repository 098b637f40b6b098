"""https:// sources, offline mode, and conversion of HTTP errors to StoreError."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from urllib.parse import quote

from zoo.errors import StoreError, without_credentials
from zoo.plugin import Entry, File
from zoo.store import http, stream
from zoo.store.fetch import Remote
from zoo.store.source_errors import bad_source, row_of

REACH_TIMEOUT = 5.0
"""Timeout in seconds of the connectivity check."""
OFFLINE = ("ZOO_OFFLINE", "HF_HUB_OFFLINE")


def locate(entry: Entry, files: Sequence[File]) -> list[Remote]:
    """Return the files of an https:// source, without metadata."""
    check_online(entry)
    source = entry.source or ""
    if not re.fullmatch(r"https://[\w.-]+(:\d+)?(/[^\s?#]*)?", source) or not http.is_valid(source):
        raise bad_source(entry, "must be https://host/folder, in ASCII but for the host")
    headers = {"User-Agent": agent()}
    remotes = []
    for file in files:
        url = f"{source.rstrip('/')}/{quote(file.path)}"
        checked = file.sha256 is not None or file.bytes is not None
        remotes.append(Remote(file.path, url, partial(read, entry, url, headers, None, checked)))
    return remotes


def read(
    entry: Entry, url: str, headers: Mapping[str, str], size: int | None, checked: bool, start: int
) -> Generator[memoryview]:
    """Yield the bytes of a URL from `start` on; credentials are sent only to its origin. Raises StoreError.

    `checked` says that the caller checks its size or hash; a body that does not mark its end is refused otherwise.
    """
    try:
        yield from stream.stream(url, headers, start, size, checked=checked)
    except http.Refused as error:
        raise refused(entry, url, str(error), error.status) from error
    except http.Broken as error:
        raise busy(entry, url, error) if error.status else unreachable(entry, url, error) from error


def agent() -> str:
    """Return the User-Agent: the version of zoo, and nothing about the machine."""
    from importlib import metadata

    try:
        return f"backbone-zoo/{metadata.version('backbone-zoo')}"
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return "backbone-zoo"


def check_online(entry: Entry) -> None:
    """Raise StoreError in offline mode."""
    on = forbidden()
    if on:
        what = f"{entry.name}: {entry.source} is not in the store, and {on[0]}={os.environ[on[0]]} disables downloads"
        raise StoreError(what, fix=f"unset {' '.join(on)}; zoo pull {entry.name}")


def forbidden() -> list[str]:
    """Return the environment variables that set offline mode; an empty list means online."""
    return [name for name in OFFLINE if os.environ.get(name, "").lower() not in ("", "0", "false", "no", "off")]


def refused(entry: Entry, url: str, said: str, status: int | None) -> StoreError:
    """Return the error for a final failure, with the message `said`."""
    fix = f"zoo pull {entry.name}   (retry later)"
    if said == stream.UNBOUNDED:
        fix = f"add sha256 or bytes to the file in {row_of(entry)}"
    if status in (401, 403, 404, 410):
        fix = f"check source and files: zoo info {entry.name}"
    return StoreError(f"{entry.name}: {url} {said}", fix=fix)


def busy(entry: Entry, url: str, error: http.Broken) -> StoreError:
    """Return the error for a server that is overloaded or unavailable."""
    what = f"{entry.name}: {url} repeatedly returned HTTP status {error.status}"
    when = "later"
    if error.wait and error.wait > stream.LONGEST:
        what = f"{entry.name}: {url} returned HTTP status {error.status}"
        when = f"in {error.wait:,.0f} seconds, as requested by the server"
    return StoreError(what, fix=f"zoo pull {entry.name}   (retry {when})")


def unreachable(entry: Entry, url: str, error: Exception) -> StoreError:
    """Return the error for a connection that fails or is interrupted."""
    what = f"{entry.name}: connection to {url} failed: {error or type(error).__name__}"
    return StoreError(what, fix=f"check network and proxy (and HF_ENDPOINT), then: zoo pull {entry.name}")


def transport_error() -> type[Exception]:
    """Return the base exception of huggingface_hub's HTTP library (requests or httpx, depending on its version)."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def reach() -> tuple[str, str | None]:
    """Check whether the Hub responds, with a short timeout; returns its URL and the error message (None: it does)."""
    from huggingface_hub import constants

    url = os.environ.get("HF_ENDPOINT", "").rstrip("/") or str(constants.ENDPOINT)
    shown = without_credentials(url) if http.is_valid(url) else url.rpartition("@")[2]
    line = http.Line(url, {"User-Agent": agent()}, timeout=REACH_TIMEOUT)
    try:
        line.get()
    except http.Broken as error:
        return shown, str(error)
    except http.Refused as error:
        return shown, None if error.status else str(error)
    finally:
        line.close()
    return shown, None
