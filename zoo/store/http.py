"""HTTP GET with proxies, redirects and byte ranges; errors are either retryable (Broken) or final (Refused).

huggingface_hub provides URLs and metadata; file contents are downloaded here, into reused buffers.
"""

from __future__ import annotations

import http.client
import re
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
"""Read timeout in seconds."""
MAX_REDIRECTS = 5
REDIRECT_STATUSES = (301, 302, 303, 307, 308)
BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Status codes worth a retry."""


class Broken(Exception):
    """A retryable failure: connection error or busy server; `wait` is the delay in seconds before a retry, if given."""

    def __init__(self, what: str, wait: float | None = None, status: int | None = None) -> None:
        super().__init__(what)
        self.wait, self.status = wait, status


class Refused(Exception):
    """A final failure: a retry would give the same response."""

    def __init__(self, what: str, status: int | None = None) -> None:
        super().__init__(what)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """Head of a response: its status, first byte, total size in bytes (None: unknown), and whether it marks its end."""

    status: int
    first: int
    total: int | None
    ends: bool


class Line:
    """A persistent connection to `url` or its redirect target.

    Credentials in `headers` are sent only to the origin of `url`. Not thread-safe.
    """

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float | None = None) -> None:
        self.url, self.headers, self.timeout = url, dict(headers), timeout or TIMEOUT
        self._current_url = url
        self._origin: tuple[str, str] | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._response: http.client.HTTPResponse | None = None

    def get(self, first: int = 0, last: int | None = None) -> Answer:
        """Request the bytes from `first` to `last` (inclusive; None: to the end).

        Raises Broken for retryable failures, Refused for final ones.
        """
        reused = self._connection is not None
        ranged = {"Range": f"bytes={first}-{'' if last is None else last}"} if first or last is not None else {}
        try:
            for _ in range(MAX_REDIRECTS + 1):
                response = self._request(ranged)
                location = response.getheader("Location")
                if response.status not in REDIRECT_STATUSES or not location:
                    return self._parse_response(response, first)
                self.close()
                self._current_url = _redirect_target(self._current_url, location)
        except OSError as error:  # first: an SSLCertVerificationError is a ValueError as well
            raise self._broken(error, reused) from error
        except (http.client.InvalidURL, ValueError) as error:  # ports, IPv6 and IDNA; headers that are not ASCII
            self.close()
            raise Refused("cannot be requested: the URL, a redirect, a header or the token is invalid") from error
        except http.client.HTTPException as error:
            raise self._broken(error, reused) from error
        raise Refused(f"redirects more than {MAX_REDIRECTS} times")

    def read(self, into: memoryview) -> int:
        """Read the bytes that have arrived into a buffer; returns their number, 0 at the end.

        One read of the socket at most, so that a connection that fails loses nothing that was received.
        """
        response = self._response
        assert response is not None
        try:
            if response.chunked or response.length is None:
                count = response.readinto(into)
            else:
                count = response.fp.readinto1(into[: response.length]) if response.length else 0
                response.length -= count
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error) from error
        if count == 0 and response.length:
            self.close()
            raise Broken("the connection was closed before the end of the file")
        if response.length == 0:
            response.close()  # the connection can be used again
        return count

    def close(self) -> None:
        """Close the connection; the next request starts at the original URL."""
        for each in (self._response, self._connection):  # a response owns the socket if the server closes it afterwards
            if each is not None:
                with suppress(OSError):
                    each.close()
        self._connection = self._response = None
        self._current_url = self.url

    def _broken(self, error: Exception, reused: bool = False) -> Broken:
        self.close()
        wait = 0.0 if reused else None  # servers close idle connections: retry at once
        return Broken(f"{type(error).__name__}: {error}", wait)

    def _request(self, ranged: Mapping[str, str]) -> http.client.HTTPResponse:
        parts = urlsplit(self._current_url)
        origin = (parts.scheme, parts.netloc)
        if self._connection is None or self._origin != origin:
            self._connection, self._origin = _connect(parts), origin
            self._connection.timeout = self.timeout
        headers = {"Accept-Encoding": "identity", **ranged}  # no compression: hashes are of the stored bytes
        same = origin == urlsplit(self.url)[:2]
        headers |= {k: v for k, v in self.headers.items() if same or k.lower() not in ("authorization", "cookie")}
        target = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
        proxy = _proxy(parts)
        if proxy is not None and parts.scheme == "http":
            target, headers = self._current_url, headers | _credentials("Proxy-Authorization", proxy)
        self._connection.request("GET", target, headers=headers)
        self._response = self._connection.getresponse()
        return self._response

    def _parse_response(self, response: http.client.HTTPResponse, requested: int) -> Answer:
        status = response.status
        if status in BUSY:
            wait = retry_after(response.getheader("Retry-After"))
            self.close()
            raise Broken(f"the server returned HTTP status {status}", wait, status)
        ends = response.length is not None or response.chunked
        if status == 200:
            self._check_encoding(response)
            return Answer(status, 0, response.length, ends)
        if status == 206:
            self._check_encoding(response)
            first, total = _content_range(response.getheader("Content-Range"))
            if first != requested:
                self.close()
                raise Refused(f"returned a range that starts at byte {first}, not {requested}", status)
            return Answer(status, first, total, ends)
        redirected = self._current_url != self.url
        self.close()
        if redirected and status in (401, 403, 404, 410):  # signed URLs expire: retry from the original URL
            raise Broken(f"the redirect target returned HTTP status {status}", None, status)
        raise Refused(f"returned HTTP status {status}", status)

    def _check_encoding(self, response: http.client.HTTPResponse) -> None:
        encoding = response.getheader("Content-Encoding", "identity")
        if encoding not in ("identity", ""):
            self.close()
            raise Refused(f"returned Content-Encoding {encoding}, which was not requested", response.status)


def is_valid(url: str) -> bool:
    """Return whether a URL can be requested: http or https, a host, a port in range, nothing that must be quoted."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        port = 1 if parts.port is None else parts.port
    except ValueError:
        return False
    printable = re.fullmatch(r"[\x21-\x7e]*", parts.path + parts.query) and not re.search(r"[\0-\x20\x7f]", url)
    return bool(printable and parts.scheme in ("http", "https") and host and port)


def _redirect_target(url: str, location: str) -> str:
    target = urljoin(url, location)
    before, after = urlsplit(url), urlsplit(target)
    if after.scheme not in ("http", "https") or (before.scheme, after.scheme) == ("https", "http"):
        raise Refused(f"redirects to {after.scheme}://{after.hostname!a:.80}, which is insecure")
    if not is_valid(target):
        raise Refused(f"redirects to an invalid URL: {location!a:.80}")
    return target


def _connect(parts: SplitResult) -> http.client.HTTPConnection:
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    proxy = _proxy(parts)
    if proxy is None:
        return _https_connection(host, port) if secure else http.client.HTTPConnection(host, port)
    via, at = proxy.hostname or "", proxy.port or 80
    if not secure:
        return http.client.HTTPConnection(via, at)
    connection = _https_connection(via, at)
    connection.set_tunnel(host, port, _credentials("Proxy-Authorization", proxy))
    return connection


def _https_connection(host: str, port: int) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection(host, port, context=_ssl_context())


@lru_cache(maxsize=1)
def _ssl_context() -> ssl.SSLContext:
    import ssl

    return ssl.create_default_context()


def _proxy(parts: SplitResult) -> SplitResult | None:
    """Return the proxy configured in the environment (or the system settings) for a URL."""
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


RANGE = re.compile(r"\s*bytes\s*([0-9]{1,18})-[0-9]{0,18}(?:/(?:([0-9]{1,18})|\*))?\s*")


def _content_range(text: str | None) -> tuple[int, int | None]:
    """Parse a Content-Range header such as `bytes 0-99/1234`: first byte and total size (None: unknown)."""
    match = RANGE.fullmatch(text or "")
    if match is None:
        raise Refused(f"returned the invalid Content-Range {text!a:.80}", 206)
    return int(match[1]), int(match[2]) if match[2] else None


def retry_after(text: str | None) -> float | None:
    """Parse a Retry-After header, seconds or an HTTP date, to seconds from now; None if absent or invalid."""
    if not text:
        return None
    if re.fullmatch("[0-9]+", text.strip()):
        return float(text.strip())
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
