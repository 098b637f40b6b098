"""Execute pull plans: check disk space, download missing files concurrently, record each completed backbone."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from zoo.console import MEGABYTES, Bar, say
from zoo.errors import StoreError
from zoo.plugin import Entry, File
from zoo.store import kept_rows, lock, receipts, sources
from zoo.store.fetch import Arrived, Claim, Remote, fetch
from zoo.store.paths import home, is_here
from zoo.store.pull_plan import Plan, disk_errors

FILES = 2
"""Concurrent file downloads, each with several connections if the file is large."""
MARGIN = 64 << 20
"""Disk space in bytes that a pull leaves free."""


def survey(plan: Plan) -> Plan:
    """Add the metadata of missing files from the source to a plan: sizes, and hashes of large files."""
    remotes = {remote.path: remote for remote in _locate(plan)}
    files = tuple(_with_metadata(file, remotes.get(file.path)) for file in plan.files)
    return replace(plan, files=files, missing=tuple(file for file in files if file.path in remotes))


def _with_metadata(file: File, remote: Remote | None) -> File:
    if remote is None:
        return file
    return File(file.path, file.sha256 or remote.sha256, remote.size if file.bytes is None else file.bytes)


def fetch_some(entry: Entry, files: Sequence[File], commit: str | None) -> list[File]:
    """Download small files of an entry at one commit, without progress output and without recording them in a lock."""
    remotes = sources.locate(entry, files, commit)
    with disk_errors(entry):
        claims = [Claim(file, entry.name, "the listing", f"zoo pull {entry.name} --update") for file in files]
        return [fetch(remote, claim, home(), lambda count: None) for remote, claim in zip(remotes, claims, strict=True)]


def fetch_all(plans: Sequence[Plan]) -> dict[str, tuple[File, ...]]:
    """Download the missing files of all plans; returns all files of each name with hashes. Raises StoreError."""
    found = {plan.entry.name: (plan, _locate(plan)) for plan in plans}
    jobs = [_Job(plan, remote, file) for plan, remotes in found.values() for remote, file in _pairs(plan, remotes)]
    _check_room(jobs)
    errors: list[StoreError] = []
    files: dict[str, tuple[File, ...]] = {}
    with (
        Bar("pull", sum(job.remote.size or 0 for job in jobs), MEGABYTES) as bar,
        _Downloads(jobs, bar.advance) as downloads,
    ):
        for name, (plan, remotes) in found.items():
            try:
                with disk_errors(plan.entry):
                    fetched = {file.path: file for file in (downloads.result(job) for job in jobs if job.plan is plan)}
                    files[name] = tuple(fetched.get(file.path, file) for file in plan.files)
                    _record(plan, remotes[0].commit, files[name])
            except StoreError as error:
                errors.append(error)
    if errors:
        raise errors[0]
    return files


def _locate(plan: Plan) -> list[Remote]:
    if not plan.missing:
        return []
    commit = plan.known.receipt.commit if plan.known else None
    return sources.locate(plan.entry, plan.missing, commit)


def _pairs(plan: Plan, remotes: Sequence[Remote]) -> list[tuple[Remote, File]]:
    return list(zip(remotes, plan.missing, strict=True))


def _record(plan: Plan, commit: str | None, files: tuple[File, ...]) -> None:
    """Record a completed backbone in the locks; files of the previous receipt not in `files` are kept."""
    before = plan.known.receipt if plan.known else None
    others = [file for file in before.files if file.path not in {f.path for f in files}] if before else []
    when = before.when if before and {*before.files} == {*files, *others} else _now()
    kept = (*files, *others)
    receipt = lock.Receipt(str(plan.entry.source), commit, kept, when, kept_rows.row(plan.entry, commit, kept))
    if change := receipts.moved(plan.entry.name, receipt):
        say("moved", f"{plan.entry.name}: {change}")
    receipts.record(plan.entry.name, receipt, plan.known)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _check_room(jobs: Sequence[_Job]) -> None:
    """Raise StoreError if the disk does not have enough free space for the downloads."""
    folder = home()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    needed = sum(job.remote.size or 0 for job in jobs if not is_here(_with_metadata(job.file, job.remote)))
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return
    if jobs and needed and needed + MARGIN > free:
        names = " ".join(dict.fromkeys(job.plan.entry.name for job in jobs))
        what = f"{names}: the download needs {needed / 1e6:,.0f} MB, but {folder} has {free / 1e6:,.0f} MB free"
        fix = f"free some space (zoo gc), or use another folder: ZOO_HOME=/another/folder zoo pull {names}"
        raise StoreError(what, fix=fix)


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """One file of a plan to download."""

    plan: Plan
    remote: Remote
    file: File

    def run(self, folder: Path, arrived: Arrived) -> File:
        """Download the file into the store at `folder`."""
        name = self.plan.entry.name
        accept = f"zoo pull {name} --update" if self.plan.known else f"edit {self.plan.by}"
        return fetch(self.remote, Claim(self.file, name, self.plan.by, accept), folder, arrived)


class _Stopped(Exception):
    """The pull was interrupted."""


@dataclass(slots=True)
class _Downloads:
    """Thread pool for several downloads (a single one runs inline); leaving the block early, e.g. Ctrl-C, stops all."""

    jobs: Sequence[_Job]
    arrived: Arrived
    folder: Path = field(default_factory=home)
    stop: threading.Event = field(default_factory=threading.Event)
    counting: threading.Lock = field(default_factory=threading.Lock)
    pool: ThreadPoolExecutor | None = None
    futures: dict[_Job, Future[File]] = field(default_factory=dict)

    def __enter__(self) -> _Downloads:
        if len(self.jobs) > 1:
            self.pool = ThreadPoolExecutor(FILES)
            self.futures = {job: self.pool.submit(job.run, self.folder, self._count) for job in self.jobs}
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def result(self, job: _Job) -> File:
        """Wait for the download of a job and return its file."""
        return self.futures[job].result() if self.pool else job.run(self.folder, self.arrived)

    def _count(self, count: int) -> None:
        if self.stop.is_set():
            raise _Stopped
        with self.counting:
            self.arrived(count)
