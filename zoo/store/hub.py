"""The Hub as a source: its client gives metadata, credentials and endpoint; commit, hash and size come first."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from zoo.errors import StoreError
from zoo.plugin import Entry, File
from zoo.store import http, stream, web, xet
from zoo.store.fetch import Remote
from zoo.store.paths import is_inside
from zoo.store.source_errors import bad_source, row_of

ASKED = 8
"""Files that the Hub is asked about at once."""
TRIES = 3
"""Attempts at what is small: what a file is, what a repository holds."""
Found = TypeVar("Found")
SOURCE = re.compile(r"hf://(?P<repo>\w[\w.-]*(/\w[\w.-]*)?)(@(?P<revision>\w[\w./-]*))?")


class _Gone(StoreError):
    """A revision that a repository does not have, or no longer."""


def locate(entry: Entry, paths: Sequence[str], commit: str | None) -> list[Remote]:
    """Return files of a Hub repository, all of the commit that the revision stands for now (or of `commit`)."""
    repo, named, endpoint = _where(entry)
    if not paths:
        return []
    try:
        first = _file(entry, repo, commit or named, paths[0], endpoint)
    except _Gone as error:
        if commit is None:
            raise
        what = f"{entry.name}: {repo} has no longer the commit {commit} that was pulled before"
        fix = f"zoo pull {entry.name} --update   (takes what {named} is now)"
        raise StoreError(what, fix=fix) from error
    ask = partial(_file, entry, repo, str(first.commit), endpoint=endpoint)
    with ThreadPoolExecutor(ASKED) as pool:
        return [first, *pool.map(lambda path: ask(path=path), paths[1:])]


def listing(entry: Entry) -> tuple[tuple[File, ...], str]:
    """Return all files of a Hub repository, large ones with their SHA-256, and the commit that holds them."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    constants.HF_HUB_DISABLE_TELEMETRY = True
    repo, revision, endpoint = _where(entry)
    api = HfApi(endpoint=endpoint, user_agent=web.agent())
    try:
        found = _patiently(lambda: api.model_info(repo, revision=revision, files_metadata=True))
    except HFValidationError as error:
        raise bad_source(entry, str(error)) from error
    except (web.transport_error(), OfflineModeIsEnabled) as error:
        url = f"{endpoint or constants.ENDPOINT}/{repo}"
        raise _explain(entry, repo, revision, "", url, error) from error
    files = [File(s.rfilename, s.lfs.sha256 if s.lfs else None, s.size) for s in found.siblings or ()]
    return tuple(file for file in files if is_inside(file.path)), str(found.sha)


def _where(entry: Entry) -> tuple[str, str, str | None]:
    """Return the repository, the revision and the endpoint (None: the client's own) of a Hub source."""
    web.check_online(entry)
    match = SOURCE.fullmatch(entry.source or "")
    if match is None:
        raise bad_source(entry, "has to be hf://organisation/repository or hf://organisation/repository@revision")
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None  # the client reads it once, at its import
    if endpoint and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", endpoint):
        what = f"{entry.name}: HF_ENDPOINT={endpoint!r} is no address of a Hub"
        raise StoreError(what, fix="export HF_ENDPOINT=https://your.hub, or: unset HF_ENDPOINT")
    return match["repo"], match["revision"] or "main", endpoint


def _file(entry: Entry, repo: str, revision: str, path: str, endpoint: str | None) -> Remote:
    """Ask for a file's metadata: the ETag of a large file is its SHA-256, that of a small one git's SHA-1."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, not in its __all__

    constants.HF_HUB_DISABLE_TELEMETRY = True  # else the client makes a request of its own to learn who runs it
    headers = {"user-agent": web.agent()}
    try:
        url = hf_hub_url(repo, path, revision=revision, endpoint=endpoint)
    except ValueError as error:
        raise bad_source(entry, str(error)) from error
    try:
        metadata = _patiently(lambda: get_hf_file_metadata(url, endpoint=endpoint, headers=headers))
    except (web.transport_error(), OfflineModeIsEnabled) as error:
        raise _explain(entry, repo, revision, path, url, error) from error
    if metadata.commit_hash is None:
        what = f"{entry.name}: {url} names no commit, so it is not answered by a Hub"
        raise StoreError(what, fix="correct HF_ENDPOINT, or: unset HF_ENDPOINT")
    pinned = hf_hub_url(repo, path, revision=metadata.commit_hash, endpoint=endpoint)
    etag = metadata.etag or ""
    offer = xet.offered(metadata, endpoint or constants.ENDPOINT)
    return Remote(
        path,
        pinned,
        partial(_read, entry, pinned, build_hf_headers(headers=headers), metadata.size, offer),
        size=metadata.size,
        sha256=etag if re.fullmatch("[0-9a-f]{64}", etag) else None,
        git=etag if re.fullmatch("[0-9a-f]{40}", etag) else None,
        commit=metadata.commit_hash,
        twins=(_cache() / f"models--{repo.replace('/', '--')}" / "blobs" / etag,) if etag.isalnum() else (),
    )


def _read(
    entry: Entry, url: str, headers: Mapping[str, str], size: int | None, offer: Any | None, start: int
) -> Generator[memoryview]:
    """Yield the bytes of a file from `start` on, out of the Hub's own storage as far as they come from there."""
    done = start
    if offer is not None and size is not None and size - start >= xet.LEAST:
        with suppress(xet.Failed):
            for piece in xet.read(offer, headers, size, start):
                done += len(piece)
                yield piece
            return
    yield from web.read(entry, url, headers, size, done)


def _cache() -> Path:
    """Return the folder where the Hub's own client keeps what it has fetched."""
    environ = os.environ
    home = environ.get("HF_HOME") or os.path.join(environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()


def _patiently(ask: Callable[[], Found]) -> Found:
    """Ask the Hub, and again where another answer may come: it is busy, or the connection broke."""
    from huggingface_hub.errors import HfHubHTTPError

    for tried in range(1, TRIES + 1):
        try:
            return ask()
        except web.transport_error() as error:
            answer = error.response if isinstance(error, HfHubHTTPError) else None
            busy = answer is None or answer.status_code in http.BUSY
            asked = http.retry_after(answer.headers.get("Retry-After")) if answer is not None else None
            if tried == TRIES or not busy or (asked or 0) > stream.LONGEST:
                raise
            time.sleep(stream.PAUSE * 2 ** (tried - 1) if asked is None else asked)
    raise AssertionError("the last attempt returns or raises")


def _explain(entry: Entry, repo: str, revision: str, path: str, url: str, error: Exception) -> StoreError:
    """Return what an error of the client means for the user, and the way on."""
    from huggingface_hub import errors

    host = "/".join(url.split("/")[:3])
    row = row_of(entry)
    login = f"hf auth login; zoo pull {entry.name}"
    if isinstance(error, errors.GatedRepoError):
        what = f"{repo} is gated: its owner wants to be asked, or your account is not let in yet"
        return StoreError(f"{entry.name}: {what}", fix=f"ask at {host}/{repo}, then: {login}")
    if isinstance(error, errors.RepositoryNotFoundError):
        what = f"{host} has no repository {repo}, or it is private and your token does not open it"
        return StoreError(f"{entry.name}: {what}", fix=f"{login}   (if it is private), or correct source in {row}")
    if isinstance(error, errors.RevisionNotFoundError):
        fix = f"zoo pull {entry.name.partition('@')[0]}@main, or correct source in {row}"
        return _Gone(f"{entry.name}: {repo} has no revision {revision!r}", fix=fix)
    if isinstance(error, errors.EntryNotFoundError):
        what = f"{entry.name}: {repo}@{revision} has no file {path}"
        return StoreError(what, fix=f"see what it has at {host}/{repo}/tree/{revision}, and correct files in {row}")
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return StoreError(f"{entry.name}: {host} refused your token (HTTP status {status})", fix=login)
        if status in http.BUSY:
            asked = http.retry_after(error.response.headers.get("Retry-After"))
            return web.busy(entry, url, http.Broken("", asked, status))
        return web.refused(entry, url, f"was answered with HTTP status {status}", status)
    return web.unreachable(entry, url, error)
