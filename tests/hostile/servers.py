"""Hostile mirrors, URLs, tokens and websites."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hostile.case import Case

PRELOAD = ("huggingface_hub", "huggingface_hub.hf_api", "filelock", "zoo.store.hub", "zoo.store.transfer")
CONTENT = bytes(range(256)) * 4
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "c" * 40
HEAD = {"X-Repo-Commit": COMMIT, "ETag": f'"{SHA256}"', "Content-Length": str(len(CONTENT))}
STORED = ("store/shared.txt", "store/tmp/*.part", "hf/*")
"""Files that a failed pull may leave: a partial download whose hash is known is resumed."""
PULL = ["pull", "mine/net"]


# A server that sends any bytes


def response(status: str = "200 OK", headers: Mapping[str, str] = {}, body: bytes = b"") -> bytes:
    """Return the bytes of a response; header values are sent as Latin-1."""
    lines = [
        f"HTTP/1.1 {status}",
        *(f"{name}: {value}" for name, value in headers.items()),
        "Connection: close",
        "",
        "",
    ]
    return "\r\n".join(lines).encode("latin-1", "replace") + body


def serve(head: bytes = b"", get: bytes = b"", listing: bytes = b"", *, reset: bool = False) -> int:
    """Answer requests on loopback until the process ends, one a connection; returns the port."""
    server = socket.create_server(("127.0.0.1", 0), backlog=64)

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            request = connection.recv(1 << 16)
            api = b" /api/" in request.partition(b"\r\n")[0]
            connection.sendall(head if request.startswith(b"HEAD") else listing if api else get)
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass

    def accept() -> None:
        while True:
            threading.Thread(target=answer, args=server.accept()[:1], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(server.getsockname()[1])


def row(folder: Path, source: str, file: str = 'path = "model.safetensors"') -> None:
    """Write a zoo.toml with the backbone mine/net, one file, whose downloads are retried without long pauses."""
    from zoo.store import stream

    stream.PAUSE = 0.01
    (folder / "zoo.toml").write_text(
        f'["mine/net"]\nplugin = "native"\nmodality = "image"\nsource = {json.dumps(source)}\n'
        f"files = [{{ {file} }}]\ninput = {{ size = 8, mean = [0.5], std = [0.5] }}\n",
        encoding="utf-8",
    )


def mirror(arguments: list[str] = PULL, **responses: Any) -> Callable[[Path], list[str]]:
    """Return a preparation: mine/net from a Hub with these responses."""

    def prepare(folder: Path) -> list[str]:
        os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{serve(**{'head': response(headers=HEAD), **responses})}"
        row(folder, "hf://org/net")
        return arguments

    return prepare


def website(get: bytes, file: str = 'path = "model.safetensors"', **options: Any) -> Callable[[Path], list[str]]:
    """Return a preparation: mine/net from an https:// source, served on loopback without TLS."""

    def prepare(folder: Path) -> list[str]:
        import http.client

        from zoo.store import http as store_http

        port, connect = serve(get=get, **options), store_http._connect
        direct = lambda: http.client.HTTPConnection("127.0.0.1", port)  # noqa: E731
        store_http._connect = lambda parts: direct() if parts.hostname == "weights.test" else connect(parts)
        row(folder, "https://weights.test/net", file)
        return PULL

    return prepare


# Headers of a mirror: metadata, then content

DIGITS = "9" * 5000
METADATA: dict[str, dict[str, str | None]] = {
    "a commit that is a path": {"X-Repo-Commit": "../../../outside"},
    "a commit of 5,000 letters": {"X-Repo-Commit": "c" * 5000},
    "a commit with an escape": {"X-Repo-Commit": "\x1b[31mred"},
    "a commit that is not ASCII": {"X-Repo-Commit": "caf\xe9" * 10},
    "an empty commit": {"X-Repo-Commit": ""},
    "no commit": {"X-Repo-Commit": None},
    "a size of 5,000 digits": {"Content-Length": DIGITS},
    "a linked size of 5,000 digits": {"X-Linked-Size": DIGITS},
    "a linked size below zero": {"X-Linked-Size": "-5"},
    "a linked size that is no number": {"X-Linked-Size": "many"},
    "a linked size of 10**17": {"X-Linked-Size": str(10**17)},
    "a linked size of 10**15": {"X-Linked-Size": str(10**15)},
    "a linked size in other digits": {"X-Linked-Size": "\xb2\xb3"},
}
TARGETS = {
    "port 99999": "http://127.0.0.1:99999/x",
    "port 0": "http://127.0.0.1:0/x",
    "port -1": "http://127.0.0.1:-1/x",
    "a port of letters": "http://127.0.0.1:http/x",
    "a port of 5,000 digits": f"http://127.0.0.1:{DIGITS}/x",
    "open IPv6": "http://[::1/x",
    "no IPv6": "http://[zz]/x",
    "IPv6 with a zone": "http://[fe80::1%25lo]:9/x",
    "an empty label": "http://a..b/x",
    "a long label": f"http://{'a' * 64}.test/x",
    "no host": "http:///x",
    "only a port": "http://:80/x",
    "letters that are not ASCII": "http://127.0.0.1:9/caf\xe9",
    "a host that is not ASCII": "http://caf\xe9..test/",
    "a space": "http://127.0.0.1:9/a b",
    "an escape": "http://127.0.0.1:9/\x1b[31m",
    "a file": "file:///etc/passwd",
    "javascript": "javascript:alert(1)",
    "ftp": "ftp://127.0.0.1/x",
    "data": "data:,x",
    "100,000 letters": f"http://127.0.0.1:9/{'a' * 60_000}",
}
RANGES = {
    "5,000 digits": f"bytes {DIGITS}-{DIGITS}/{DIGITS}",
    "a total of 5,000 digits": f"bytes 0-9/{DIGITS}",
    "a total of 10**18": f"bytes 0-9/{10**18 - 1}",
    "a start below zero": "bytes -5-9/10",
    "words": "bytes some-more/all",
    "no numbers": "bytes */*",
    "another unit": "pages 0-9/10",
    "superscripts": "bytes \xb2-\xb3/\xb9",
    "nothing": "",
    "another start": f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}",
}
BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a status of 5,000 digits": f"HTTP/1.1 {DIGITS} OK\r\n\r\n".encode(),
    "HTTP/9.9": b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status 999": response("999 Odd"),
    "status 204": response("204 No Content"),
    "status 304": response("304 Not Modified"),
    "status 100 for ever": b"HTTP/1.1 100 Continue\r\n\r\n" * 200,
    "a header of 1 MB": response(headers={"X": "a" * 1_000_000}),
    "10,000 headers": response(headers={f"X-{number}": "a" for number in range(10_000)}),
    "chunks below zero": response(headers={"Transfer-Encoding": "chunked"}, body=b"-5\r\nabcde\r\n0\r\n\r\n"),
    "a chunk of 2**70": response(headers={"Transfer-Encoding": "chunked"}, body=b"4" + b"0" * 18 + b"\r\nabc"),
    "a chunk of no number": response(headers={"Transfer-Encoding": "chunked"}, body=b"zz\r\nabc\r\n0\r\n\r\n"),
    "a chunk size of 1 MB": response(headers={"Transfer-Encoding": "chunked"}, body=b"0" * 1_000_000),
    "chunks without an end": response(headers={"Transfer-Encoding": "chunked"}, body=b"400\r\n" + CONTENT + b"\r\n"),
    "a length of 5,000 digits": response(headers={"Content-Length": DIGITS}, body=CONTENT[:99]),
    "a length below zero": response(headers={"Content-Length": "-9"}, body=CONTENT[:99]),
    "a length that is too long": response(headers={"Content-Length": "9999"}, body=CONTENT),
    "a length that is too short": response(headers={"Content-Length": "99"}, body=CONTENT),
    "gzip": response(headers={"Content-Encoding": "gzip", "Content-Length": "9"}, body=b"\x1f\x8b" + bytes(7)),
    "other bytes": response(headers={"Content-Length": str(len(CONTENT))}, body=CONTENT[::-1]),
    "no length, half of the file": response(body=CONTENT[:512]),
    "Retry-After of 5,000 digits": response("503 Busy", {"Retry-After": DIGITS}),
    "Retry-After in the year 99999": response("429 Busy", {"Retry-After": "Fri, 31 Dec 99999 23:59:59 GMT"}),
    "Retry-After of words": response("429 Busy", {"Retry-After": "soon \xe9"}),
    "Retry-After below zero": response("429 Busy", {"Retry-After": "-1"}),
}


def of_mirrors() -> Iterator[Case]:
    """Metadata and content from a mirror of the Hub."""
    for name, changed in METADATA.items():
        headers = {key: value for key, value in {**HEAD, **changed}.items() if value is not None}
        yield Case(f"mirror, {name}", mirror(head=response(headers=headers)), keeps=STORED)
    for name, target in TARGETS.items():
        moved = response("302 Found", {"Location": target})
        says = "invalid" if name in ("port 99999", "open IPv6", "a long label", "letters that are not ASCII") else ""
        yield Case(f"content moved to {name}", mirror(get=moved), says, keeps=STORED)
        yield Case(f"metadata moved to {name}", mirror(head=moved), keeps=STORED, heavy=True)
    for name, text in RANGES.items():
        partial = response("206 Partial", {"Content-Range": text, "Content-Length": "10"}, CONTENT[:10])
        says = "the invalid Content-Range" if "5,000" in name else ""
        yield Case(f"Content-Range of {name}", mirror(get=partial), says, keeps=STORED)
    for name, sent in BODIES.items():
        yield Case(f"content: {name}", mirror(get=sent), keeps=STORED)
        yield Case(f"metadata: {name}", mirror(head=sent), keeps=STORED, heavy=True)
        yield Case(f"reset after: {name}", mirror(get=sent, reset=True), keeps=STORED, heavy=True)


# Endpoints and tokens

SECRET = "s3cr3t"
ENDPOINTS = {
    "a password": f"http://user:{SECRET}@127.0.0.1:9",
    "a password with a slash": f"http://user:a/{SECRET}@127.0.0.1:9",
    "a password with an at sign": f"http://user:a@{SECRET}@127.0.0.1:9",
    "a password and port 99999": f"http://user:{SECRET}@127.0.0.1:99999",
    "a password and a space": f"http://user:{SECRET} x@127.0.0.1:9",
    "a password and no host": f"http://user:{SECRET}@/",
    "a password as user": f"HTTPS://{SECRET}@127.0.0.1:9/hub",
}
TOKENS = {
    "letters that are not ASCII": f"hf_{SECRET}\xe9",
    "a line break": f"hf_{SECRET}\nX-Evil: 1",
    "an escape": f"hf_{SECRET}\x1b[31m",
    "a surrogate": f"hf_{SECRET}\udcff",
    "a space": f"hf {SECRET}",
}


def configured(arguments: list[str] = PULL, **variables: str) -> Callable[[Path], list[str]]:
    """Return a preparation: environment variables, and mine/net from the Hub."""

    def prepare(folder: Path) -> list[str]:
        os.environ.update({name: value.format(port=serve(response("401 No"))) for name, value in variables.items()})
        row(folder, "hf://org/net")
        return arguments

    return prepare


def of_settings() -> Iterator[Case]:
    """HF_ENDPOINT, HF_TOKEN and proxies."""
    for name, url in ENDPOINTS.items():
        yield Case(
            f"endpoint with {name}",
            configured(HF_ENDPOINT=url),
            "mine/net" if "and" in name else "",
            SECRET,
            keeps=STORED,
        )
        doctor = configured(["doctor"], HF_ENDPOINT=url)
        yield Case(f"doctor: endpoint with {name}", doctor, hides=SECRET, code=0, keeps=STORED, heavy=True)
    for name, url in TARGETS.items():
        if name != "a space":  # stripped by nobody, and refused above
            yield Case(f"endpoint: {name}", configured(HF_ENDPOINT=url), keeps=STORED)
        plain = url.replace("http:", "https:", 1)
        yield Case(f"https source: {name}", partial(_pull_from, plain), keeps=STORED)
        proxied = configured(HF_ENDPOINT="http://hub.test", http_proxy=url)
        yield Case(f"proxy: {name}", proxied, keeps=STORED, heavy=True)
    for name, token in TOKENS.items():
        yield Case(
            f"token with {name}",
            configured(HF_TOKEN=token),
            "token" if "line" in name or "not" in name else "",
            SECRET,
            keeps=STORED,
        )


def _pull_from(source: str, folder: Path) -> list[str]:
    row(folder, source)
    return PULL


# Websites: bodies that end early

ENDLESS = response(body=CONTENT[:512])
CHUNKED = {"Transfer-Encoding": "chunked"}


def of_websites() -> Iterator[Case]:
    """Sources without metadata: a file is complete only if something says so."""
    hashed = f'path = "model.safetensors", sha256 = "{SHA256}"'
    sized = f'path = "model.safetensors", bytes = {len(CONTENT)}'
    complete = ("store/blobs/*", "store/lock.toml", "store/verified-*/*")
    yield Case("website, no length", website(ENDLESS), "neither a size nor a hash")
    yield Case("website, no length, reset", website(ENDLESS, reset=True), "neither a size nor a hash")
    yield Case("website, no length, a hash", website(ENDLESS, hashed), "expected by")
    yield Case("website, no length, a size", website(ENDLESS, sized), "expected by")
    yield Case(
        "website, complete without a length, a hash", website(response(body=CONTENT), hashed), code=0, keeps=complete
    )
    unending = response(headers=CHUNKED, body=b"200\r\n" + CONTENT[:512] + b"\r\n")
    yield Case("website, chunks without an end", website(unending), "failed")
    yield Case("website, chunks with an end", website(unending + b"0\r\n\r\n"), code=0, keeps=complete)
    ranged = response("206 Partial", {"Content-Range": "bytes 0-511/*", "Content-Length": "512"}, CONTENT[:512])
    yield Case("website, a range of an unknown size", website(ranged), "neither a size nor a hash")
    short = response("206 Partial", {"Content-Range": "bytes 0-511/1024", "Content-Length": "512"}, CONTENT[:512])
    yield Case("website, half of a range", website(short), "ended early")


def thinned(cases: Iterator[Case], every: int) -> Iterator[Case]:
    """Leave one of `every` cases in the fast suite, and those whose error is given."""
    for number, case in enumerate(cases):
        yield replace(case, heavy=case.heavy or not (case.says or number % every == 0))


CASES = [*thinned(of_mirrors(), 9), *thinned(of_settings(), 30), *thinned(of_websites(), 9)]
