"""The web as a source, and what goes wrong on the way told to the user."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from urllib.parse import quote

from zoo.errors import StoreError
from zoo.plugin import Entry
from zoo.store import http, stream
from zoo.store.fetch import Remote
from zoo.store.source_errors import bad_source

SOON = 5.0
"""Seconds to wait for an answer when all that matters is whether there is one."""
OFFLINE = ("ZOO_OFFLINE", "HF_HUB_OFFLINE")


def locate(entry: Entry, paths: Sequence[str]) -> list[Remote]:
    """Return the files of an https:// source, of which nothing is known beforehand."""
    check_online(entry)
    source = entry.source or ""
    if not re.fullmatch(r"https://[\w.-]+(:\d+)?(/[^\s?#]*)?", source):
        raise bad_source(entry, "has to be https://host/folder")
    urls = {path: f"{source.rstrip('/')}/{quote(path)}" for path in paths}
    return [Remote(path, url, partial(read, entry, url, {"User-Agent": agent()}, None)) for path, url in urls.items()]


def read(entry: Entry, url: str, headers: Mapping[str, str], size: int | None, start: int) -> Generator[memoryview]:
    """Yield the bytes of a URL from `start` on; credentials in `headers` stay with its origin. Raises StoreError."""
    try:
        yield from stream.stream(url, headers, start, size)
    except http.Refused as error:
        raise refused(entry, url, str(error), error.status) from error
    except http.Broken as error:
        raise busy(entry, url, error) if error.status else unreachable(entry, url, error) from error


def agent() -> str:
    """Return how zoo calls itself to servers: its version, and nothing about the machine."""
    from zoo import __version__

    return f"backbone-zoo/{__version__}"


def check_online(entry: Entry) -> None:
    """Raise StoreError if the user has asked that nothing be fetched from the network."""
    on = forbidden()
    if on:
        what = f"{entry.name}: {entry.source} is not in the store, and {on[0]}={os.environ[on[0]]} forbids to fetch it"
        raise StoreError(what, fix=f"unset {' '.join(on)}; zoo pull {entry.name}")


def forbidden() -> list[str]:
    """Return the variables by which the user has asked that nothing be fetched from the network; none: it may be."""
    return [name for name in OFFLINE if os.environ.get(name, "").lower() not in ("", "0", "false", "no", "off")]


def refused(entry: Entry, url: str, said: str, status: int | None) -> StoreError:
    """Return the error for an answer that is not the file."""
    fix = f"zoo pull {entry.name}   (once more, in a while)"
    if status in (401, 403, 404, 410):
        fix = f"look at source and files: zoo info {entry.name}"
    return StoreError(f"{entry.name}: {url} {said}", fix=fix)


def busy(entry: Entry, url: str, error: http.Broken) -> StoreError:
    """Return the error for a server that does not want to answer now."""
    what = f"{entry.name}: {url} was answered with HTTP status {error.status}, time after time"
    when = "in a while"
    if error.wait and error.wait > stream.LONGEST:
        what = f"{entry.name}: {url} was answered with HTTP status {error.status}"
        when = f"in {error.wait:,.0f} seconds, as the server asks"
    return StoreError(what, fix=f"zoo pull {entry.name}   (once more, {when})")


def unreachable(entry: Entry, url: str, error: Exception) -> StoreError:
    """Return the error for a connection that cannot be made, or breaks."""
    what = f"{entry.name}: no connection for {url}, or it broke: {error or type(error).__name__}"
    return StoreError(what, fix=f"check network and proxy (and HF_ENDPOINT), then: zoo pull {entry.name}")


def transport_error() -> type[Exception]:
    """Return the root of the errors of the HTTP library below the Hub client, which differs between its versions."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def reach() -> tuple[str, str | None]:
    """Ask the Hub's endpoint for anything; returns its address, and what is wrong (None: it answers), soon."""
    from huggingface_hub import constants

    url = os.environ.get("HF_ENDPOINT", "").rstrip("/") or str(constants.ENDPOINT)
    line = http.Line(url, {"User-Agent": agent()}, timeout=SOON)
    try:
        line.get()
    except http.Broken as error:
        return url, str(error)
    except http.Refused as error:
        return url, None if error.status else str(error)
    finally:
        line.close()
    return url, None
