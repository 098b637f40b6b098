"""Hub datasets: load them with the `datasets` library and cache them in the store's folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from zoo.errors import DataError, ZooError
from zoo.store import caches, web

NAME = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(/(?P<config>[^@]+))?(@(?P<revision>.+))?")


def parse(name: str) -> tuple[str, str | None, str | None]:
    """Split `hf:user/dataset[/config][@revision]` into repository, config and revision. Raises DataError if invalid."""
    match = NAME.fullmatch(name)
    if match is None:
        fix = "write hf:user/dataset, hf:user/dataset/config or hf:user/dataset@revision, as on its Hub page"
        raise DataError(f"{name!r} is not a valid name of a Hub dataset", fix=fix)
    return match["repo"], match["config"], match["revision"]


def load(name: str) -> Mapping[str, Any]:
    """Return the splits of a Hub dataset by name, each a datasets.Dataset; cached datasets need no network.

    Raises DataError if the dataset, its configuration or its revision does not exist, or cannot be reached or read.
    """
    repo, config, revision = parse(name)
    import datasets

    folder = caches.folder("datasets") / repo.replace("/", "--")
    caches.hold(folder)
    with _configured():
        try:
            builder = datasets.load_dataset_builder(repo, config, revision=revision, cache_dir=str(folder))
            _check_revision(name, revision, builder)
            builder.download_and_prepare()
            found: Mapping[str, Any] = builder.as_dataset()
            caches.make_room(0)
        except ZooError:
            raise
        except Exception as error:  # datasets and its dependencies raise many unrelated types
            raise _explain(name, repo, error) from error
    if not found:
        raise DataError(f"{name} has no splits", fix=f"look at its files: https://huggingface.co/datasets/{repo}")
    return found


def stream(name: str) -> dict[str, tuple[Any, str]]:
    """Return the splits of a Hub dataset by name, each a datasets.IterableDataset and what identifies its content.

    Nothing is kept on disk, and reading needs a connection. Raises DataError as `load` does.
    """
    repo, config, revision = parse(name)
    import datasets

    with _configured():
        try:
            builder = datasets.load_dataset_builder(repo, config, revision=revision)
            found: Any = builder.as_streaming_dataset()
        except ZooError:
            raise
        except Exception as error:  # datasets and its dependencies raise many unrelated types
            raise _explain(name, repo, error) from error
    return {part: (rows, f"{repo}/{builder.config.name}@{builder.hash}") for part, rows in found.items()}


def _check_revision(name: str, revision: str | None, builder: Any) -> None:
    """Raise DataError if `datasets`, being offline, fell back to a cached commit other than the requested revision."""
    if revision and type(builder).__module__.endswith(".cache.cache") and builder.hash != revision:
        what = f"{name} cannot be reached, and the cached commit {builder.hash} may be a different revision"
        raise DataError(what, fix=f"use {name.partition('@')[0]}@{builder.hash}, or {_connection_fix()}")


def _connection_fix() -> str:
    on = web.forbidden()
    return f"unset {' '.join(on)}" if on else "check network and proxy (and HF_ENDPOINT)"


@contextmanager
def _configured() -> Iterator[None]:
    """Disable progress bars, telemetry and non-critical logs of the libraries; set offline mode if requested."""
    import datasets
    from huggingface_hub import constants
    from huggingface_hub import utils as hub

    loggers = {logger: logger.level for logger in map(logging.getLogger, ("datasets", "huggingface_hub"))}
    bars = not datasets.are_progress_bars_disabled(), not hub.are_progress_bars_disabled()  # type: ignore[attr-defined]
    offline = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    constants.HF_HUB_DISABLE_TELEMETRY = True  # else huggingface_hub sends an additional telemetry request
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        datasets.disable_progress_bars()
        hub.disable_progress_bars()  # type: ignore[attr-defined]
        if web.forbidden():
            datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = offline
        if bars[0]:
            datasets.enable_progress_bars()
        if bars[1]:
            hub.enable_progress_bars()  # type: ignore[attr-defined]
        for logger, level in loggers.items():
            logger.setLevel(level)


def _explain(name: str, repo: str, error: Exception) -> DataError:
    """Convert an exception of `datasets` to a DataError with a fix."""
    import datasets

    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(error, ConnectionError | FileNotFoundError):
        cause = cause.__cause__
    message = " ".join((str(cause).strip() or type(cause).__name__).splitlines()[:2])
    fix = f"look at its files: https://huggingface.co/datasets/{repo}"
    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        fix = "correct the name; or, if it is private or gated: hf auth login"
    elif isinstance(error, ConnectionError):
        fix = _connection_fix()
    elif isinstance(error, ValueError) and "config" in message.lower():
        fix = f"specify one: hf:{repo}/CONFIGURATION"
    return DataError(f"{name} cannot be read: {message}", fix=fix)
