"""HTTP fault injection for the loopback Hub: truncated, stalled, reset and malformed responses."""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Callable
from typing import Any


def _part(handler: Any, content: bytes) -> tuple[int, int] | None:
    """Return start and stop of the requested byte range; None if all bytes are requested or ranges are disabled."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
    if not match or not handler.ranges:
        return None
    return int(match[1]), min(int(match[2] or len(content)) + 1, len(content))


def _head(handler: Any, content: bytes, share: float = 1) -> bytes:
    """Send valid headers for the requested bytes, or for the first `share` of them; returns the matching body."""
    part = _part(handler, content)
    first, stop = part or (0, len(content))
    length = int((stop - first) * share)
    handler.send_response(206 if part else 200)
    if part:
        handler.send_header("Content-Range", f"bytes {first}-{stop - 1}/{len(content)}")
    handler.send_header("Content-Length", str(length))
    handler.end_headers()
    return content[first : first + length]


def cut(after: int) -> Callable[..., bool]:
    """Close the connection after `after` bytes of the body."""

    def fault(handler: Any, content: bytes) -> bool:
        handler.wfile.write(_head(handler, content)[:after])
        handler.close_connection = True
        return True

    return fault


def reset(after: int) -> Callable[..., bool]:
    """Reset the connection after `after` bytes of the body."""

    def fault(handler: Any, content: bytes) -> bool:
        handler.wfile.write(_head(handler, content)[:after])
        handler.wfile.flush()
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
        handler.close_connection = True
        return True

    return fault


def stall(after: int, seconds: float) -> Callable[..., bool]:
    """Stop sending after `after` bytes and keep the connection open for `seconds`."""

    def fault(handler: Any, content: bytes) -> bool:
        handler.wfile.write(_head(handler, content)[:after])
        handler.wfile.flush()
        time.sleep(seconds)
        handler.close_connection = True
        return True

    return fault


def status(code: int, **headers: str) -> Callable[..., bool]:
    """Respond with a status code; keyword arguments are headers, with _ for -."""

    def fault(handler: Any, content: bytes) -> bool:
        handler.answer(code, {name.replace("_", "-"): value for name, value in headers.items()})
        return True

    return fault


def wrong(handler: Any, content: bytes) -> bool:
    """Send a body of the right length with wrong content."""
    handler.wfile.write(_head(handler, content).translate(bytes(range(255, -1, -1))))
    return True


def short(handler: Any, content: bytes) -> bool:
    """Send half of the requested bytes, with a matching Content-Length."""
    handler.wfile.write(_head(handler, content, 0.5))
    return True


def long(handler: Any, content: bytes) -> bool:
    """Send 1,000 extra bytes, with a matching Content-Length."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) + 1000))
    handler.end_headers()
    handler.wfile.write(content + bytes(1000))
    return True


def elsewhere(handler: Any, content: bytes) -> bool:
    """Respond with a range other than the requested one."""
    handler.answer(206, {"Content-Range": f"bytes 1-{len(content) - 1}/{len(content)}"}, content[1:], content[1:])
    return True


def zipped(handler: Any, content: bytes) -> bool:
    """Respond with gzip although it was not requested."""
    import gzip

    packed = gzip.compress(content)
    handler.answer(200, {"Content-Encoding": "gzip"}, packed, packed)
    return True


def lead(url: str) -> Callable[..., bool]:
    """Redirect to another URL; {self} in it is the server's own."""
    return lambda handler, content: status(302, Location=url.format(self=f"http://{handler.headers['Host']}"))(
        handler, content
    )
