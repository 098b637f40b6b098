"""Fetch what several plans are missing: enough room first, then files at once, and each name noted when it is whole."""

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
from zoo.store import lock, receipts, sources
from zoo.store.fetch import Arrived, Claim, Remote, fetch
from zoo.store.paths import home, is_here
from zoo.store.pull_plan import Plan, disk_errors

FILES = 2
"""Files on their way at once, each on several connections if it is large."""
MARGIN = 64 << 20
"""Bytes that a pull leaves free on the disk."""


def survey(plan: Plan) -> Plan:
    """Return a plan with what the source says of the files that are missing: their sizes, and hashes of large ones."""
    remotes = {remote.path: remote for remote in _locate(plan)}
    files = tuple(_told(file, remotes.get(file.path)) for file in plan.files)
    return replace(plan, files=files, missing=tuple(file for file in files if file.path in remotes))


def _told(file: File, remote: Remote | None) -> File:
    if remote is None:
        return file
    return File(file.path, file.sha256 or remote.sha256, remote.size if file.bytes is None else file.bytes)


def fetch_some(entry: Entry, files: Sequence[File], commit: str | None) -> list[File]:
    """Fetch some small files of an entry, of one commit, without a word and without noting it in a lock."""
    remotes = sources.locate(entry, [file.path for file in files], commit)
    with disk_errors(entry):
        claims = [Claim(file, entry.name, "the listing", f"zoo pull {entry.name} --update") for file in files]
        return [fetch(remote, claim, home(), lambda count: None) for remote, claim in zip(remotes, claims, strict=True)]


def fetch_all(plans: Sequence[Plan]) -> dict[str, tuple[File, ...]]:
    """Fetch what plans are missing; returns all files of each name, with their hashes. StoreError if one fails."""
    found = {plan.entry.name: (plan, _locate(plan)) for plan in plans}
    jobs = [_Job(plan, remote, file) for plan, remotes in found.values() for remote, file in _pairs(plan, remotes)]
    _check_room(jobs)
    errors: list[StoreError] = []
    files: dict[str, tuple[File, ...]] = {}
    with Bar("pull", sum(job.remote.size or 0 for job in jobs), MEGABYTES) as bar, _Crew(jobs, bar.advance) as crew:
        for name, (plan, remotes) in found.items():
            try:
                with disk_errors(plan.entry):
                    fetched = {file.path: file for file in (crew.result(job) for job in jobs if job.plan is plan)}
                    files[name] = tuple(fetched.get(file.path, file) for file in plan.files)
                    _note(plan, remotes[0].commit, files[name])
            except StoreError as error:
                errors.append(error)
    if errors:
        raise errors[0]
    return files


def _locate(plan: Plan) -> list[Remote]:
    if not plan.missing:
        return []
    commit = plan.known.receipt.commit if plan.known else None
    return sources.locate(plan.entry, [file.path for file in plan.missing], commit)


def _pairs(plan: Plan, remotes: Sequence[Remote]) -> list[tuple[Remote, File]]:
    return list(zip(remotes, plan.missing, strict=True))


def _note(plan: Plan, commit: str | None, files: tuple[File, ...]) -> None:
    """Record a name that is whole; what was pulled by an older receipt and is not asked for now stays in it."""
    before = plan.known.receipt if plan.known else None
    others = [file for file in before.files if file.path not in {f.path for f in files}] if before else []
    when = before.when if before and {*before.files} == {*files, *others} else _now()
    receipt = lock.Receipt(str(plan.entry.source), commit, (*files, *others), when)
    if change := receipts.moved(plan.entry.name, receipt):
        say("moved", f"{plan.entry.name}: {change}")
    receipts.record(plan.entry.name, receipt, plan.known)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _check_room(jobs: Sequence[_Job]) -> None:
    """Raise StoreError if the disk has no room for what is going to arrive."""
    folder = home()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    needed = sum(job.remote.size or 0 for job in jobs if not is_here(_told(job.file, job.remote)))
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return
    if jobs and needed and needed + MARGIN > free:
        names = " ".join(dict.fromkeys(job.plan.entry.name for job in jobs))
        what = f"{names}: {needed / 1e6:,.0f} MB are to be fetched, and {folder} has {free / 1e6:,.0f} MB free"
        fix = f"free some space (zoo gc), or use another folder: ZOO_HOME=/another/folder zoo pull {names}"
        raise StoreError(what, fix=fix)


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """A file of a plan that is to be fetched."""

    plan: Plan
    remote: Remote
    file: File

    def run(self, folder: Path, arrived: Arrived) -> File:
        """Fetch it."""
        name = self.plan.entry.name
        accept = f"zoo pull {name} --update" if self.plan.known else f"edit {self.plan.by}"
        return fetch(self.remote, Claim(self.file, name, self.plan.by, accept), folder, arrived)


class _Stopped(Exception):
    """The pull was interrupted."""


@dataclass(slots=True)
class _Crew:
    """Threads that fetch files; one file needs none. Leaving the block early, Ctrl-C for instance, stops them all."""

    jobs: Sequence[_Job]
    arrived: Arrived
    folder: Path = field(default_factory=home)
    stop: threading.Event = field(default_factory=threading.Event)
    counting: threading.Lock = field(default_factory=threading.Lock)
    pool: ThreadPoolExecutor | None = None
    futures: dict[_Job, Future[File]] = field(default_factory=dict)

    def __enter__(self) -> _Crew:
        if len(self.jobs) > 1:
            self.pool = ThreadPoolExecutor(FILES)
            self.futures = {job: self.pool.submit(job.run, self.folder, self._count) for job in self.jobs}
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        if self.pool:
            self.pool.shutdown(cancel_futures=True)

    def result(self, job: _Job) -> File:
        """Return the file of a job, once it is here."""
        return self.futures[job].result() if self.pool else job.run(self.folder, self.arrived)

    def _count(self, count: int) -> None:
        if self.stop.is_set():
            raise _Stopped
        with self.counting:
            self.arrived(count)
