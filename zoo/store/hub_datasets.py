"""Data sets of the Hub: fetched by the `datasets` library, and kept as tables below the store's folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from zoo.errors import DataError
from zoo.store import web
from zoo.store.paths import home

NAME = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(/(?P<config>[^@]+))?(@(?P<revision>.+))?")


def parse(name: str) -> tuple[str, str | None, str | None]:
    """Return repository, configuration and revision of `hf:user/dataset[/config][@revision]`; DataError for others."""
    match = NAME.fullmatch(name)
    if match is None:
        fix = "write hf:user/dataset, hf:user/dataset/config or hf:user/dataset@revision, as its page on the Hub says"
        raise DataError(f"{name!r} is no name of a data set on the Hub", fix=fix)
    return match["repo"], match["config"], match["revision"]


def load(name: str) -> Mapping[str, Any]:
    """Return the parts of a data set of the Hub, each a datasets.Dataset; what was fetched before needs no network.

    Raises DataError if the data set, its configuration or revision is not there, not reachable or not readable.
    """
    repo, config, revision = parse(name)
    import datasets

    folder = home() / "cache" / "datasets"
    with _quiet():
        try:
            builder = datasets.load_dataset_builder(repo, config, revision=revision, cache_dir=str(folder))
            _check_revision(name, revision, builder)
            builder.download_and_prepare()
            found: Mapping[str, Any] = builder.as_dataset()
        except DataError:
            raise
        except Exception as error:  # the library and those below it raise whatever comes
            raise _explain(name, repo, error) from error
    if not found:
        raise DataError(f"{name} has no parts", fix=f"look at its files: https://huggingface.co/datasets/{repo}")
    return found


def _check_revision(name: str, revision: str | None, builder: Any) -> None:
    """Raise DataError if the library, without a connection, has taken the newest that it has for what was asked for."""
    if revision and type(builder).__module__.endswith(".cache.cache") and builder.hash != revision:
        what = f"{name} cannot be reached, and the store holds commit {builder.hash} of it, which may be another"
        raise DataError(what, fix=f"{name.partition('@')[0]}@{builder.hash} is that one; else {_way_online()}")


def _way_online() -> str:
    on = web.forbidden()
    return f"unset {' '.join(on)}" if on else "check network and proxy (and HF_ENDPOINT)"


@contextmanager
def _quiet() -> Iterator[None]:
    """Let the libraries draw no bars and log errors only; and open no connection where the user forbids it."""
    import datasets
    from huggingface_hub import constants
    from huggingface_hub import utils as hub

    loggers = {logger: logger.level for logger in map(logging.getLogger, ("datasets", "huggingface_hub"))}
    bars = not datasets.are_progress_bars_disabled(), not hub.are_progress_bars_disabled()  # type: ignore[attr-defined]
    offline = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    constants.HF_HUB_DISABLE_TELEMETRY = True  # else the client makes a request of its own to learn who runs it
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
    """Return what an error of the library means for the user, and the way on."""
    import datasets

    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(error, ConnectionError | FileNotFoundError):
        cause = cause.__cause__
    said = " ".join((str(cause).strip() or type(cause).__name__).splitlines()[:2])
    fix = f"look at its files: https://huggingface.co/datasets/{repo}"
    if isinstance(error, datasets.exceptions.DatasetNotFoundError):
        fix = "correct the name; or, if it is private or gated: hf auth login"
    elif isinstance(error, ConnectionError):
        fix = _way_online()
    elif isinstance(error, ValueError) and "config" in said.lower():
        fix = f"name one: hf:{repo}/CONFIGURATION"
    return DataError(f"{name} cannot be read: {said}", fix=fix)
