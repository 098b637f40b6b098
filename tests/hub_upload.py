"""A loopback Hub that takes uploads of the real client: create, preupload, LFS batch, PUT, commit."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from hub import Hub, commit_of, etag_of, is_lfs

API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<what>preupload|commit)/main")
BATCH = re.compile(r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")


@dataclass
class UploadHub(Hub):
    """A Hub whose repositories are written to.

    objects       contents that were PUT, by SHA-256
    puts          SHA-256 of all PUT requests, in order
    cut_commits   commits that fail before they change anything
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    puts: list[str] = field(default_factory=list)
    cut_commits: int = 0

    def _answer(self, handler: Any) -> None:
        if handler.command in ("GET", "HEAD"):
            return super()._answer(handler)
        path, body = unquote(urlsplit(handler.path).path), handler.body()
        if self.status:
            return handler.answer(self.status)
        if handler.command == "PUT":
            self.puts.append(path.rpartition("/")[2])
            self.objects[self.puts[-1]] = body
            return handler.answer(200)
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            self.repos.setdefault(repo, {})
            return self._json(handler, {"url": f"{self.url}/{repo}"})
        if path.startswith("/api/validate-yaml"):
            return self._json(handler, {"errors": [], "warnings": []})
        if match := BATCH.fullmatch(path):
            objects = [self._action(row) for row in json.loads(body)["objects"]]
            return self._json(handler, {"transfer": "basic", "objects": objects})
        match = API.fullmatch(path)
        if match is None:
            return handler.answer(404)
        return (
            self._preupload(handler, match["repo"], body)
            if match["what"] == "preupload"
            else self._commit(handler, match["repo"], body)
        )

    def _json(self, handler: Any, value: Any) -> None:
        content = json.dumps(value).encode()
        handler.answer(200, {"Content-Type": "application/json"}, content, content)

    def _action(self, row: dict[str, Any]) -> dict[str, Any]:
        known = {"oid": row["oid"], "size": row["size"]}
        if row["oid"] in self.objects:
            return known
        return known | {"actions": {"upload": {"href": f"{self.url}/lfs/{row['oid']}"}}}

    def _preupload(self, handler: Any, repo: str, body: bytes) -> None:
        before, rows = self.repos[repo], []
        for asked in json.loads(body)["files"]:
            path = asked["path"]
            large = is_lfs(path, b"") or asked["size"] >= 1 << 20
            oid = etag_of(path, before[path]) if path in before else None
            rows.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid})
        self._json(handler, {"files": rows})

    def _commit(self, handler: Any, repo: str, body: bytes) -> None:
        if self.cut_commits:
            self.cut_commits -= 1
            handler.close_connection = True
            return handler.answer(400)
        files = dict(self.repos[repo])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
        self.repos[repo] = files
        commit = commit_of(files)
        return self._json(
            handler, {"commitUrl": f"{self.url}/{repo}/commit/{commit}", "commitOid": commit, "success": True}
        )
