"""Bytes over HTTP, through the Hub client's own session, so that proxies and certificates are set up in one place."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from urllib.parse import quote

from zoo.errors import StoreError
from zoo.plugin import Entry
from zoo.store.fetch import Remote
from zoo.store.sources import bad_source

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as dead."""
OFFLINE = ("ZOO_OFFLINE", "HF_HUB_OFFLINE")


def locate(entry: Entry, paths: Sequence[str]) -> list[Remote]:
    """Return the files of an https:// source: a plain GET each, of which nothing is known beforehand."""
    check_online(entry)
    source = entry.source or ""
    if not re.fullmatch(r"https://[\w.-]+(:\d+)?(/[^\s?#]*)?", source):
        raise bad_source(entry, "has to be https://host/folder")
    urls = {path: f"{source.rstrip('/')}/{quote(path)}" for path in paths}
    return [Remote(path, url, partial(stream, entry, url, {"user-agent": agent()})) for path, url in urls.items()]


def stream(entry: Entry, url: str, headers: Mapping[str, str]) -> Generator[bytes]:
    """Yield the body of a GET; redirects are followed, and credentials stay with the origin of `url`."""
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]  # public, not in its __all__

    headers = {**headers, "accept-encoding": "identity"}  # the bytes as they are stored, and their true length
    session = get_session()
    try:
        with session.stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True) as response:
            if response.status_code != 200:
                raise refused(entry, url, response.status_code)
            yield from response.iter_bytes()
    except (transport_error(), OfflineModeIsEnabled) as error:
        raise unreachable(entry, url, error) from error


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


def refused(entry: Entry, url: str, status: int) -> StoreError:
    """Return the error for an answer that is not the file."""
    fix = f"zoo pull {entry.name}   (once more, in a while)"
    if status in (401, 403, 404):
        fix = f"look at source and files: zoo info {entry.name}"
    return StoreError(f"{entry.name}: {url} was answered with HTTP status {status}", fix=fix)


def unreachable(entry: Entry, url: str, error: Exception) -> StoreError:
    """Return the error for a connection that cannot be made, or breaks."""
    what = f"{entry.name}: no connection for {url}, or it broke: {type(error).__name__}: {error}"
    return StoreError(what, fix=f"check network and proxy (and HF_ENDPOINT), then: zoo pull {entry.name}")


def transport_error() -> type[Exception]:
    """Return the root of the errors of the HTTP library below the Hub client, which differs between its versions."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]
