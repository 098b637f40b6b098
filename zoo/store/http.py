"""One GET over HTTP: proxies, redirects, byte ranges, and what an answer means for the next try.

The Hub's client decides what to fetch; bytes come through here, read into memory that is used again and again.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

if TYPE_CHECKING:
    import ssl

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as dead."""
REDIRECTS = 5
MOVED = (301, 302, 303, 307, 308)
BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Statuses that may be another at the next try."""


class Broken(Exception):
    """A connection that could not be made or broke, or a server that is busy; `wait` seconds until another try."""

    def __init__(self, what: str, wait: float | None = None, status: int | None = None) -> None:
        super().__init__(what)
        self.wait, self.status = wait, status


class Refused(Exception):
    """An answer that another try does not change."""

    def __init__(self, what: str, status: int | None = None) -> None:
        super().__init__(what)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an answer: what it is the bytes of, `first` to `total` (None: the server does not say)."""

    status: int
    first: int
    total: int | None
    length: int | None


class Line:
    """A connection that stays open from one request to the next, to wherever `url` has led.

    Credentials in `headers` go to the origin of `url` alone. Not for several threads.
    """

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float | None = None) -> None:
        self.url, self.headers, self.timeout = url, dict(headers), timeout or TIMEOUT
        self._at = url
        self._origin: tuple[str, str] | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._response: http.client.HTTPResponse | None = None

    def get(self, first: int = 0, last: int | None = None) -> Answer:
        """Ask for the bytes from `first` to `last` (inclusive, None: all that follow).

        Raises Broken for what another try may mend, Refused for what it does not.
        """
        used = self._connection is not None
        ranged = {"Range": f"bytes={first}-{'' if last is None else last}"} if first or last is not None else {}
        try:
            for _ in range(REDIRECTS + 1):
                response = self._ask(ranged)
                place = response.getheader("Location")
                if response.status not in MOVED or not place:
                    return self._understand(response, first)
                self.close()
                self._at = _redirected(self._at, place)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            wait = 0.0 if used else None  # servers hang up on a connection that has been quiet
            raise Broken(f"{type(error).__name__}: {error}", wait) from error
        raise Refused(f"is redirected more than {REDIRECTS} times")

    def read(self, into: memoryview) -> int:
        """Fill memory with the next bytes of the answer; returns how many there were, 0 at its end."""
        assert self._response is not None
        try:
            count = self._response.readinto(into)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Broken(f"{type(error).__name__}: {error}") from error
        if count == 0 and self._response.length:
            self.close()
            raise Broken("the connection was closed in the middle of the file")
        return count

    def close(self) -> None:
        """Hang up, and begin at the first address the next time."""
        if self._connection is not None:
            with suppress(OSError):
                self._connection.close()
        self._connection = self._response = None
        self._at = self.url

    def _ask(self, ranged: Mapping[str, str]) -> http.client.HTTPResponse:
        parts = urlsplit(self._at)
        origin = (parts.scheme, parts.netloc)
        if self._connection is None or self._origin != origin:
            self._connection, self._origin = _connect(parts), origin
            self._connection.timeout = self.timeout
        headers = {"Accept-Encoding": "identity", **ranged}  # the bytes as they are stored
        same = origin == urlsplit(self.url)[:2]
        headers |= {k: v for k, v in self.headers.items() if same or k.lower() not in ("authorization", "cookie")}
        target = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
        proxy = _proxy(parts)
        if proxy is not None and parts.scheme == "http":
            target, headers = self._at, headers | _credentials("Proxy-Authorization", proxy)
        self._connection.request("GET", target, headers=headers)
        self._response = self._connection.getresponse()
        return self._response

    def _understand(self, response: http.client.HTTPResponse, asked: int) -> Answer:
        status = response.status
        if status in BUSY:
            wait = retry_after(response.getheader("Retry-After"))
            self.close()
            raise Broken(f"the server answered with HTTP status {status}", wait, status)
        length = None if response.length is None else int(response.length)
        if status == 200:
            self._check_encoding(response)
            return Answer(status, 0, length, length)
        if status == 206:
            self._check_encoding(response)
            first, total = _content_range(response.getheader("Content-Range"))
            if first != asked:
                self.close()
                raise Refused(f"was asked for byte {asked} and answered from byte {first}", status)
            return Answer(status, first, total, length)
        moved = self._at != self.url
        self.close()
        if moved and status in (401, 403, 404, 410):  # an address that was good for some minutes only
            raise Broken(f"the address it redirects to answered with HTTP status {status}", None, status)
        raise Refused(f"was answered with HTTP status {status}", status)

    def _check_encoding(self, response: http.client.HTTPResponse) -> None:
        encoding = response.getheader("Content-Encoding", "identity")
        if encoding not in ("identity", ""):
            self.close()
            raise Refused(f"was sent as {encoding}, which was not asked for", response.status)


def _redirected(url: str, place: str) -> str:
    target = urljoin(url, place)
    before, after = urlsplit(url), urlsplit(target)
    if after.scheme not in ("http", "https") or (before.scheme, after.scheme) == ("https", "http"):
        raise Refused(f"is redirected to {after.scheme}://{after.hostname}, which is not safe")
    return target


def _connect(parts: SplitResult) -> http.client.HTTPConnection:
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    proxy = _proxy(parts)
    if proxy is None:
        return _secure(host, port) if secure else http.client.HTTPConnection(host, port)
    via, at = proxy.hostname or "", proxy.port or 80
    if not secure:
        return http.client.HTTPConnection(via, at)
    connection = _secure(via, at)
    connection.set_tunnel(host, port, _credentials("Proxy-Authorization", proxy))
    return connection


def _secure(host: str, port: int) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection(host, port, context=_certificates())


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    import ssl

    return ssl.create_default_context()


def _proxy(parts: SplitResult) -> SplitResult | None:
    """Return the proxy that the environment (or the system) names for an address."""
    from urllib.request import getproxies, proxy_bypass

    found = getproxies()
    proxy = found.get(parts.scheme) or found.get("all")
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}")


def _credentials(header: str, parts: SplitResult) -> dict[str, str]:
    if parts.username is None:
        return {}
    from base64 import b64encode

    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {header: f"Basic {b64encode(pair.encode()).decode()}"}


def _content_range(text: str | None) -> tuple[int, int | None]:
    """Return first byte and size of the whole from `bytes 0-99/1234`."""
    span, _, total = (text or "").removeprefix("bytes").strip().partition("/")
    first = span.partition("-")[0]
    if not first.isdecimal():
        raise Refused(f"was answered with the range {text!r}", 206)
    return int(first), int(total) if total.isdecimal() else None


def retry_after(text: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks to wait: a number, or a date."""
    if not text:
        return None
    if text.strip().isdecimal():
        return float(text)
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
