"""The loopback Hub with the dataset endpoints used by the `datasets` library."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub import Hub, _Handler, _listing

TREE = re.compile(r"/api/datasets/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(/(?P<under>.+))?")
INFO = re.compile(r"/api/datasets/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?")


class DatasetHub(Hub):
    """A Hub with dataset repositories; other requests are handled as for models."""

    def _answer(self, handler: _Handler) -> None:
        parts = urlsplit(handler.path)
        path = unquote(parts.path)
        if match := TREE.fullmatch(path):
            recursive = parse_qs(parts.query).get("recursive") == ["true"]
            files = self.find(match["repo"], match["revision"]) or {}
            found = _tree(files, match["under"] or "", recursive)
            return _json(handler, found) if found else handler.answer(404, {"X-Error-Code": "EntryNotFound"})
        if match := INFO.fullmatch(path):
            files = self.find(match["repo"], match["revision"] or "main")
            if files is None:
                return handler.answer(401, {"X-Error-Code": "RepoNotFound"})
            return _json(handler, _listing(match["repo"], files))
        handler.path = handler.path.replace("/datasets/", "/", 1)
        return super()._answer(handler)


def _json(handler: _Handler, document: Any) -> None:
    body = json.dumps(document).encode()
    handler.answer(200, {"Content-Type": "application/json"}, body, body)


def _tree(files: Mapping[str, bytes], under: str, recursive: bool) -> list[dict[str, Any]]:
    """Return the files and folders directly in a folder, or all files below it if recursive."""
    found: dict[str, dict[str, Any]] = {}
    for path, content in files.items():
        if not path.startswith(f"{under}/" if under else ""):
            continue
        inner = path.removeprefix(f"{under}/").split("/")
        if len(inner) > 1 and not recursive:
            folder = f"{under}/{inner[0]}".lstrip("/")
            found[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
        else:
            found[path] = {"type": "file", "path": path, "oid": "0" * 40, "size": len(content)}
    return list(found.values())
