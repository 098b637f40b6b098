"""Console output: log lines with a topic, and a progress bar on a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TextIO

_stream: TextIO | None = None
"""Output stream; None means the current sys.stdout."""
_quiet = os.environ.get("RANK", "0") != "0"
"""In distributed training only rank 0 prints."""
CLEAR = "\r\x1b[2K"
MEGABYTES = (1e6, " MB")


@contextmanager
def to(stream: TextIO) -> Iterator[None]:
    """Redirect output to `stream` within the block (commands with --json reserve stdout for the document)."""
    global _stream
    before, _stream = _stream, stream
    try:
        yield
    finally:
        _stream = before


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress output within the block."""
    global _quiet
    before, _quiet = _quiet, True
    try:
        yield
    finally:
        _quiet = before


def say(topic: str, text: str) -> None:
    """Print one line: a topic of at most nine letters, then the text."""
    if not _quiet:
        print(f"{topic:<9} {text}", file=_stream or sys.stdout, flush=True)


def duration(seconds: float) -> str:
    """Format a duration in seconds for display: 4.2 s, 1 m 10 s, 2 h 5 m."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} m"


class Bar:
    """A progress bar on a terminal; otherwise one plain line every 30 seconds, so that logs stay readable."""

    def __init__(self, topic: str, total: int, unit: tuple[float, str] = (1, "")) -> None:
        self.topic, self.total, self.unit, self.done = topic, total, unit, 0
        self.start = self.drawn = time.monotonic()
        self.stream = _stream or sys.stdout
        self.live = not _quiet and self.stream.isatty()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            print(CLEAR, end="", file=self.stream, flush=True)

    def advance(self, by: int = 1, note: str = "") -> None:
        """Add `by` to the count; redraw at most every 0.1 seconds (every 30 if not on a terminal)."""
        self.done += by
        now = time.monotonic()
        if now - self.drawn < (0.1 if self.live else 30):
            return
        self.drawn = now
        share = min(1.0, self.done / max(1, self.total))
        left = duration((now - self.start) * (1 - share) / share) if share else "?"
        scale, name = self.unit
        count = f"{self.done / scale:,.0f}/{self.total / scale:,.0f}{name}"
        text = "  ".join(filter(None, (count, note, f"{left} left")))
        if self.live:
            filled = round(24 * share)
            print(
                f"{CLEAR}{self.topic:<9} {'━' * filled}{'╌' * (24 - filled)} {text}",
                end="",
                file=self.stream,
                flush=True,
            )
        else:
            say(self.topic, text)
