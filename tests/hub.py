"""A fake Hub on a loopback port for the real huggingface_hub client, with configurable failures."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

MODEL = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?")
RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
TOKENS = "/api/models/xet-read-token"
RANGE = re.compile(r"bytes=(\d+)-(\d*)")
LFS = (".safetensors", ".bin", ".pt")
LARGE = 1 << 20


@dataclass(frozen=True)
class Request:
    """A received request; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]


def commit_of(files: Mapping[str, bytes]) -> str:
    """Return a fake commit hash, 40 hexadecimal digits derived from the content."""
    return _commit(tuple(sorted(files.items())))


@lru_cache(maxsize=64)
def _commit(files: tuple[tuple[str, bytes], ...]) -> str:
    return hashlib.sha1("".join(path + etag_of(path, content) for path, content in files).encode()).hexdigest()


@lru_cache(maxsize=256)
def etag_of(path: str, content: bytes) -> str:
    """Return the ETag of a file on the Hub: SHA-256 of an LFS file, git blob SHA-1 of a regular one."""
    if is_lfs(path, content):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_lfs(path: str, content: bytes) -> bool:
    """Return whether the Hub stores a file in LFS."""
    return path.endswith(LFS) or len(content) >= LARGE


@dataclass
class Hub:
    """A Hub with repositories ("org/repo", or "org/repo@revision" for a revision other than main) as files by path.

    cdn       redirect large files to another origin, as the real Hub does
    token     require this token
    gated     repositories that deny access
    status    respond to every request with this HTTP status
    without   headers to omit
    alter     (path, content) -> body to send instead; headers are unchanged, so a shorter body is a cut connection
    xet       xet hashes of files, by path; `storage` is the URL of the xet storage
    ranges    support range requests
    faults    faults (faults.py) for the first requests for file contents, one each; None: no fault
    always    fault for all requests after those
    requests, cdn_requests    received requests, in order
    """

    repos: Mapping[str, Mapping[str, bytes]]
    cdn: bool = False
    token: str | None = None
    gated: frozenset[str] = frozenset()
    status: int | None = None
    without: frozenset[str] = frozenset()
    alter: Callable[[str, bytes], bytes] = lambda path, content: content
    xet: Mapping[str, str] = field(default_factory=dict)
    storage: str = ""
    ranges: bool = True
    faults: list[Fault | None] = field(default_factory=list)
    always: Fault | None = None
    requests: list[Request] = field(default_factory=list)
    cdn_requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Hub:
        self._turn = threading.Lock()
        self._servers = [_serve(self._answer, self.requests), _serve(self._answer_cdn, self.cdn_requests)]
        self.url, self.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)
        return self

    def __exit__(self, *error: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def find(self, repo: str, revision: str) -> Mapping[str, bytes] | None:
        """Return the files of a revision: main, a branch name or a commit."""
        versions = {name: files for name, files in self.repos.items() if name.partition("@")[0] == repo}
        named = versions.get(repo if revision == "main" else f"{repo}@{revision}")
        return named or next((files for files in versions.values() if commit_of(files) == revision), None)

    def _answer(self, handler: _Handler) -> None:
        if self.status:
            return handler.answer(self.status)
        route = unquote(urlsplit(handler.path).path)
        if route == TOKENS:
            return self._xet_token(handler)
        match = RESOLVE.fullmatch(route) or MODEL.fullmatch(route)
        if match is None:
            return handler.answer(404)
        repo, path = match["repo"], match.groupdict().get("path")
        denied = self.token is not None and handler.headers.get("authorization") != f"Bearer {self.token}"
        if denied or not any(name.partition("@")[0] == repo for name in self.repos):
            return handler.answer(401, {"X-Error-Code": "RepoNotFound"})
        if repo in self.gated:
            return handler.answer(403, {"X-Error-Code": "GatedRepo"})
        files = self.find(repo, match["revision"] or "main")
        if files is None:
            return handler.answer(404, {"X-Error-Code": "RevisionNotFound"})
        if path is None:
            listing = json.dumps(_listing(repo, files)).encode()
            return handler.answer(200, {"Content-Type": "application/json"}, listing, listing)
        commit = {name: value for name, value in [("X-Repo-Commit", commit_of(files))] if name not in self.without}
        if path not in files:
            return handler.answer(404, {"X-Error-Code": "EntryNotFound"} | commit)
        return self._send(handler, path, files[path], commit)

    def _send(self, handler: _Handler, path: str, content: bytes, headers: dict[str, str]) -> None:
        etag = f'"{etag_of(path, content)}"'
        if is_lfs(path, content):
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(len(content))}
            if path in self.xet:
                headers |= {"X-Xet-Hash": self.xet[path], "X-Xet-Refresh-Route": f"{self.url}{TOKENS}"}
            if self.cdn:
                return handler.answer(302, headers | {"Location": f"{self.cdn_url}/{etag[1:-1]}/{path}"})
        return self._bytes(handler, headers | {"ETag": etag}, path, content)

    def _xet_token(self, handler: _Handler) -> None:
        document = {"casUrl": self.storage, "exp": int(time.time()) + 3600, "accessToken": "short-lived"}
        content = json.dumps(document).encode()
        handler.answer(200, {"Content-Type": "application/json"}, content, content)

    def _bytes(self, handler: _Handler, headers: dict[str, str], path: str, content: bytes) -> None:
        """Send a file or the requested range of it, unless a fault is configured for the request."""
        handler.ranges = self.ranges
        if handler.command == "GET":
            with self._turn:
                fault = self.faults.pop(0) if self.faults else self.always
            if fault is not None and fault(handler, content):
                return None
        sent, requested = self.alter(path, content), RANGE.fullmatch(handler.headers.get("Range", ""))
        if not requested or not self.ranges or handler.command == "HEAD":
            return handler.answer(200, headers, content, sent)
        first, last = int(requested[1]), min(int(requested[2] or len(content)), len(content) - 1)
        headers |= {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        return handler.answer(206, headers, content[first : last + 1], sent[first : last + 1])

    def _answer_cdn(self, handler: _Handler) -> None:
        _, etag, path = handler.path.split("/", 2)
        found = [files[path] for files in self.repos.values() if path in files and etag_of(path, files[path]) == etag]
        if not found:
            return handler.answer(404)
        return self._bytes(handler, {}, path, found[0])


def _listing(repo: str, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the response of the Hub API for a repository with blobs=true."""
    siblings: list[dict[str, Any]] = []
    for path, content in files.items():
        siblings.append({"rfilename": path, "size": len(content), "blobId": "0" * 40})
        if is_lfs(path, content):
            pointer = {"sha256": etag_of(path, content), "size": len(content), "pointerSize": 130}
            siblings[-1] |= {"lfs": pointer}
    return {"id": repo, "modelId": repo, "sha": commit_of(files), "private": False, "tags": [], "siblings": siblings}


Fault = Callable[["_Handler", bytes], bool]
"""Sends a faulty response to a request for file contents and returns True; False: respond normally."""


class _Handler(BaseHTTPRequestHandler):
    """Handler of one keep-alive connection."""

    protocol_version = "HTTP/1.1"
    server: _Server
    ranges = True

    def do_GET(self) -> None:
        self.server.requests.append(
            Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        )
        self.server.reply(self)

    do_HEAD = do_POST = do_PUT = do_GET

    def body(self) -> bytes:
        """Return the body of the request."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, status: int, headers: Mapping[str, str] = {}, content: bytes = b"", sent: bytes = b"") -> None:
        """Send the headers for `content`, then the body `sent`; close the connection if the body is shorter."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent[: len(content)])
            if len(sent) < len(content):
                self.close_connection = True

    def log_message(self, *args: Any) -> None:
        """Suppress the access log."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, reply: Callable[[_Handler], None], requests: list[Request]) -> None:
        self.reply, self.requests = reply, requests
        super().__init__(("127.0.0.1", 0), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address

    def handle_error(self, request: Any, address: Any) -> None:
        """Ignore clients that disconnect."""


def _serve(reply: Callable[[_Handler], None], requests: list[Request]) -> _Server:
    server = _Server(reply, requests)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server
