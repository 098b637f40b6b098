"""What can go wrong between a server and its client: each answers a request for a file's bytes in its own wrong way."""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Callable
from typing import Any


def _part(handler: Any, content: bytes) -> tuple[int, int] | None:
    """Return which bytes are asked for, the first and the one after the last; None: all, or there are no ranges."""
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
    if not asked or not handler.ranges:
        return None
    return int(asked[1]), min(int(asked[2] or len(content)) + 1, len(content))


def _head(handler: Any, content: bytes, share: float = 1) -> bytes:
    """Send the head of a right answer, or of a share of it; returns the bytes that should follow it."""
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
    """Close the connection after some bytes of the body."""

    def fault(handler: Any, content: bytes) -> bool:
        handler.wfile.write(_head(handler, content)[:after])
        handler.close_connection = True
        return True

    return fault


def reset(after: int) -> Callable[..., bool]:
    """Reset the connection after some bytes of the body."""

    def fault(handler: Any, content: bytes) -> bool:
        handler.wfile.write(_head(handler, content)[:after])
        handler.wfile.flush()
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
        handler.close_connection = True
        return True

    return fault


def stall(after: int, seconds: float) -> Callable[..., bool]:
    """Send no more after some bytes, and keep the connection open."""

    def fault(handler: Any, content: bytes) -> bool:
        handler.wfile.write(_head(handler, content)[:after])
        handler.wfile.flush()
        time.sleep(seconds)
        handler.close_connection = True
        return True

    return fault


def status(code: int, **headers: str) -> Callable[..., bool]:
    """Answer with a status; header names are written with _ for -."""

    def fault(handler: Any, content: bytes) -> bool:
        handler.answer(code, {name.replace("_", "-"): value for name, value in headers.items()})
        return True

    return fault


def wrong(handler: Any, content: bytes) -> bool:
    """Send the right number of wrong bytes."""
    handler.wfile.write(_head(handler, content).translate(bytes(range(255, -1, -1))))
    return True


def short(handler: Any, content: bytes) -> bool:
    """Send half of the bytes that were asked for, and say so."""
    handler.wfile.write(_head(handler, content, 0.5))
    return True


def long(handler: Any, content: bytes) -> bool:
    """Send more bytes than there are, and say so."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content) + 1000))
    handler.end_headers()
    handler.wfile.write(content + bytes(1000))
    return True


def elsewhere(handler: Any, content: bytes) -> bool:
    """Answer with another range than was asked for."""
    handler.answer(206, {"Content-Range": f"bytes 1-{len(content) - 1}/{len(content)}"}, content[1:], content[1:])
    return True


def zipped(handler: Any, content: bytes) -> bool:
    """Answer with compressed bytes that were not asked for."""
    import gzip

    packed = gzip.compress(content)
    handler.answer(200, {"Content-Encoding": "gzip"}, packed, packed)
    return True


def lead(url: str) -> Callable[..., bool]:
    """Redirect to another address; {self} in it is the server's own."""
    return lambda handler, content: status(302, Location=url.format(self=f"http://{handler.headers['Host']}"))(
        handler, content
    )
