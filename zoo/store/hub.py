"""Hugging Face Hub sources: resolve revision, hash and size with huggingface_hub before downloading."""

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
from zoo.store.paths import is_inside, is_sha256
from zoo.store.source_errors import bad_source, row_of

METADATA_WORKERS = 8
"""Concurrent metadata requests."""
TRIES = 3
"""Attempts per metadata request."""
LARGEST = 1 << 50
"""Maximum size of a file in bytes that is believed."""
Found = TypeVar("Found")
SOURCE = re.compile(r"hf://(?P<repo>\w[\w.-]*(/\w[\w.-]*)?)(@(?P<revision>\w[\w./-]*))?")


class _RevisionNotFound(StoreError):
    """The revision does not exist, or no longer exists, in the repository."""


def locate(entry: Entry, paths: Sequence[str], commit: str | None) -> list[Remote]:
    """Return files of a Hub repository, all at `commit`, else at the current commit of the source's revision."""
    repo, named, endpoint = _parse_source(entry)
    if not paths:
        return []
    try:
        first = _file(entry, repo, commit or named, paths[0], endpoint)
    except _RevisionNotFound as error:
        if commit is None:
            raise
        what = f"{entry.name}: {repo} no longer has the commit {commit}, which was pulled before"
        fix = f"zoo pull {entry.name} --update   (pulls the current commit of {named})"
        raise StoreError(what, fix=fix) from error
    at_commit = partial(_file, entry, repo, str(first.commit), endpoint=endpoint)
    with ThreadPoolExecutor(METADATA_WORKERS) as pool:
        return [first, *pool.map(lambda path: at_commit(path=path), paths[1:])]


def listing(entry: Entry) -> tuple[tuple[File, ...], str]:
    """Return all files of a Hub repository, large ones with their SHA-256, and the commit."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    constants.HF_HUB_DISABLE_TELEMETRY = True
    repo, revision, endpoint = _parse_source(entry)
    api = HfApi(endpoint=endpoint, user_agent=web.agent())
    url = f"{endpoint or constants.ENDPOINT}/{repo}"
    try:
        found = _retry(lambda: api.model_info(repo, revision=revision, files_metadata=True))
        files = [File(s.rfilename, s.lfs.sha256 if s.lfs else None, s.size) for s in found.siblings or ()]
    except HFValidationError as error:
        raise bad_source(entry, str(error)) from error
    except (web.transport_error(), OfflineModeIsEnabled) as error:
        raise _explain(entry, repo, revision, "", url, error) from error
    except Exception as error:  # whatever the library raises for a response that it does not expect
        raise _not_a_hub(entry, url, f"{type(error).__name__} in the listing") from error
    for file in files:
        if not isinstance(file.path, str) or not _is_size(file.bytes):
            raise _not_a_hub(entry, url, f"the file {file.path!a:.80} of {file.bytes!r:.40} bytes in the listing")
        if file.sha256 is not None and not is_sha256(file.sha256):
            raise _not_a_hub(entry, url, f"{file.sha256!a:.80} as SHA-256 of {file.path!a:.80}")
    return tuple(file for file in files if is_inside(file.path)), _checked_commit(entry, url, found.sha)


def _parse_source(entry: Entry) -> tuple[str, str, str | None]:
    """Return the repository, revision and endpoint (None: the default of huggingface_hub) of a Hub source."""
    web.check_online(entry)
    match = SOURCE.fullmatch(entry.source or "")
    if match is None:
        raise bad_source(entry, "must be hf://organisation/repository or hf://organisation/repository@revision")
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None  # huggingface_hub reads it only at import
    if endpoint and not (re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", endpoint) and http.is_valid(endpoint)):
        shown = endpoint.rpartition("@")[2]  # without a password, which may be what makes it invalid
        what = f"{entry.name}: HF_ENDPOINT={shown!a:.200} is not the URL of a Hub"
        raise StoreError(what, fix="export HF_ENDPOINT=https://your.hub, or: unset HF_ENDPOINT")
    _check_token(entry)
    return match["repo"], match["revision"] or "main", endpoint


def endpoint_of(entry: Entry) -> str | None:
    """Return the endpoint of a Hub source; None: the default of huggingface_hub."""
    return _parse_source(entry)[2]


def _check_token(entry: Entry) -> None:
    """Raise StoreError for a token that cannot be sent in a header; huggingface_hub does not check it."""
    from huggingface_hub import get_token

    if not re.fullmatch("[!-~]*", get_token() or ""):
        what = f"{entry.name}: your token for the Hub has characters other than printable ASCII"
        raise StoreError(what, fix="export HF_TOKEN=hf_…, or: hf auth login")


def _is_size(size: object) -> bool:
    return size is None or (type(size) is int and 0 <= size <= LARGEST)


def _checked_commit(entry: Entry, url: str, commit: object) -> str:
    if not isinstance(commit, str) or not re.fullmatch("[0-9A-Za-z._-]{1,100}", commit):
        raise _not_a_hub(entry, url, f"{commit!a:.80} as commit")
    return commit


def _not_a_hub(entry: Entry, url: str, problem: str) -> StoreError:
    what = f"{entry.name}: the response of {url} is not that of a Hub: {problem}"
    fix = "correct HF_ENDPOINT, or: unset HF_ENDPOINT"
    if not os.environ.get("HF_ENDPOINT"):
        fix = f"zoo pull {entry.name}   (retry later, or: pip install --upgrade huggingface_hub)"
    return StoreError(what, fix=fix)


def _file(entry: Entry, repo: str, revision: str, path: str, endpoint: str | None) -> Remote:
    """Request a file's metadata: the ETag of an LFS file is its SHA-256, that of a regular file its git blob SHA-1."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, not in its __all__

    constants.HF_HUB_DISABLE_TELEMETRY = True  # else huggingface_hub sends an additional telemetry request
    headers = {"user-agent": web.agent()}
    try:
        url = hf_hub_url(repo, path, revision=revision, endpoint=endpoint)
    except ValueError as error:
        raise bad_source(entry, str(error)) from error
    try:
        metadata = _retry(lambda: get_hf_file_metadata(url, endpoint=endpoint, headers=headers))
    except (web.transport_error(), OfflineModeIsEnabled) as error:
        raise _explain(entry, repo, revision, path, url, error) from error
    except Exception as error:  # whatever the library raises for headers that it does not expect
        raise _not_a_hub(entry, url, f"{type(error).__name__} in the headers") from error
    if metadata.commit_hash is None:
        raise _not_a_hub(entry, url, "no commit header")
    if not _is_size(metadata.size):
        raise _not_a_hub(entry, url, f"a size of {metadata.size!r:.40}")
    commit = _checked_commit(entry, url, metadata.commit_hash)
    pinned = hf_hub_url(repo, path, revision=commit, endpoint=endpoint)
    etag = metadata.etag or ""
    sha256 = etag if is_sha256(etag) else None
    git = etag if re.fullmatch("[0-9a-f]{40}", etag) else None
    sent = build_hf_headers(headers=headers)
    plain = partial(web.read, entry, pinned, sent, metadata.size, bool(sha256 or git))
    offer = xet.offered(metadata, endpoint or constants.ENDPOINT)
    return Remote(
        path,
        pinned,
        partial(_read, plain, offer, sent, metadata.size),
        size=metadata.size,
        sha256=sha256,
        git=git,
        commit=commit,
        twins=(cache() / f"models--{repo.replace('/', '--')}" / "blobs" / etag,) if sha256 or git else (),
    )


def _read(
    plain: Callable[[int], Generator[memoryview]],
    offer: Any | None,
    headers: Mapping[str, str],
    size: int | None,
    start: int,
) -> Generator[memoryview]:
    """Yield the bytes of a file from `start` on: from xet storage if offered, falling back to plain HTTP."""
    done = start
    if offer is not None and size is not None and size - start >= xet.LEAST:
        with suppress(xet.Failed):
            for piece in xet.read(offer, headers, size, start):
                done += len(piece)
                yield piece
            return
    yield from plain(done)


def cache() -> Path:
    """Return the cache folder of huggingface_hub."""
    environ = os.environ
    home = environ.get("HF_HOME") or os.path.join(environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()


def _retry(ask: Callable[[], Found]) -> Found:
    """Call `ask`, retrying with backoff if the Hub is busy or the connection fails."""
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(1, TRIES + 1):
        try:
            return ask()
        except web.transport_error() as error:
            response = error.response if isinstance(error, HfHubHTTPError) else None
            retryable = response is None or response.status_code in http.BUSY
            wait = http.retry_after(response.headers.get("Retry-After")) if response is not None else None
            if attempt == TRIES or not retryable or (wait or 0) > stream.LONGEST:
                raise
            time.sleep(stream.PAUSE * 2 ** (attempt - 1) if wait is None else wait)
    raise AssertionError("the last attempt returns or raises")


def _explain(entry: Entry, repo: str, revision: str, path: str, url: str, error: Exception) -> StoreError:
    """Convert an exception of huggingface_hub to a StoreError with a fix."""
    from huggingface_hub import errors

    host = "/".join(url.split("/")[:3])
    row = row_of(entry)
    login = f"hf auth login; zoo pull {entry.name}"
    if isinstance(error, errors.GatedRepoError):
        what = f"{repo} is gated: request access, or wait until your request is approved"
        return StoreError(f"{entry.name}: {what}", fix=f"request access at {host}/{repo}, then: {login}")
    if isinstance(error, errors.RepositoryNotFoundError):
        what = f"{host} has no repository {repo}, or it is private and your token has no access to it"
        return StoreError(f"{entry.name}: {what}", fix=f"{login}   (if it is private), or correct source in {row}")
    if isinstance(error, errors.RevisionNotFoundError):
        fix = f"zoo pull {entry.name.partition('@')[0]}@main, or correct source in {row}"
        return _RevisionNotFound(f"{entry.name}: {repo} has no revision {revision!r}", fix=fix)
    if isinstance(error, errors.EntryNotFoundError):
        what = f"{entry.name}: {repo}@{revision} has no file {path}"
        return StoreError(what, fix=f"see its files at {host}/{repo}/tree/{revision}, and correct files in {row}")
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return StoreError(f"{entry.name}: {host} rejected your token (HTTP status {status})", fix=login)
        if status in http.BUSY:
            wait = http.retry_after(error.response.headers.get("Retry-After"))
            return web.busy(entry, url, http.Broken("", wait, status))
        return web.refused(entry, url, f"returned HTTP status {status}", status)
    return web.unreachable(entry, url, error)
