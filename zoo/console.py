"""Console output: printable text, log lines with a topic, results, and a progress bar on a terminal."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TextIO

from zoo.errors import ZooError

_stream: TextIO | None = None
"""Output stream; None means the current sys.stdout."""
_quiet = os.environ.get("RANK", "0") != "0"
"""In distributed training only rank 0 prints."""
_drawn: TextIO | None = None
"""Terminal on which a progress bar is drawn at present; a line printed there replaces it."""
CLEAR = "\r\x1b[2K"
BAR = 24
"""Length of a progress bar in characters; on a narrow terminal it is shorter, or left out."""
NARROW = 30
"""Columns below which lines are left to the terminal."""
MEGABYTES = (1e6, " MB")
LONGEST = 900
"""Maximum length of a printed value in characters; the middle of a longer one is left out."""
UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
"""Control, line-breaking, bidirectional and invisible characters, and lone surrogates."""


class StdoutError(ZooError):
    """Standard output cannot be written."""


def printable(text: str, longest: int = LONGEST) -> str:
    """Return text of any origin as one line that is safe on a terminal and in a Markdown file.

    Characters that control a terminal, end a line, or reorder or hide text are escaped: \\x1b, \\n, \\u202e.
    """
    if text.isascii() and text.isprintable() and len(text) <= longest:  # fast: nearly all
        return text
    if len(text) <= longest and not UNPRINTABLE.search(text):
        return text
    shown = UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), _shortened(text, longest))
    return _shortened(shown, longest)


def _shortened(text: str, longest: int) -> str:
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[len(text) - longest + half + 1 :]}"


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
    """Print one line: a topic of at most nine letters, then the text; a stream that is closed or full ends no run.

    On a terminal a long text continues below itself, broken between words. Without a stdout nothing is.
    """
    if not _quiet and (stream := _stream or sys.stdout):
        with suppress(OSError):
            print(f"{_clear(stream)}{_wrapped(stream, f'{topic:<9} {printable(text)}')}", file=stream, flush=True)


def _wrapped(stream: TextIO, text: str) -> str:
    columns = _columns(stream) if _is_terminal(stream) else sys.maxsize
    if columns < NARROW or len(text) < columns:
        return text
    import textwrap

    words = textwrap.TextWrapper(columns - 1, break_long_words=False, break_on_hyphens=False)
    words.subsequent_indent = " " * 10
    return words.fill(text)


def line(text: str = "", *, error: bool = False) -> None:
    """Print a line of a command's result to stdout, or of an error to stderr. Raises StdoutError if it cannot."""
    lines((text,), error=error)


def lines(texts: Iterable[str], *, error: bool = False) -> None:
    """Print lines, in one write: much faster than one by one where the stream is not buffered."""
    text = "".join([f"{printable(text, sys.maxsize)}\n" for text in texts])
    with _writing():
        print(text, end="", file=sys.stderr if error else sys.stdout)


def sentence(text: str) -> None:
    """Print a sentence in lines of at most 100 columns that fit into the terminal."""
    import shutil
    import textwrap

    width = min(100, shutil.get_terminal_size((80, 24)).columns)
    kept = printable(text, 10_000).replace(" %", "\u00a0%")  # a number stays with its unit
    lines(part.replace("\u00a0", " ") for part in textwrap.wrap(kept, width - 1, break_on_hyphens=False))


def document(value: object) -> None:
    """Print one JSON document to stdout; all its characters are ASCII. Raises StdoutError if it cannot."""
    with _writing():
        print(json.dumps(value, indent=1))


def flush() -> None:
    """Write what stdout buffers. Raises BrokenPipeError if nobody reads it, StdoutError if it is full."""
    with _writing():
        sys.stdout.flush()


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _discard()
        if isinstance(error, BrokenPipeError):
            raise
        what = f"standard output cannot be written: {error.strerror}"
        raise StdoutError(what, fix="write to a disk with free space, or to a file with > FILE") from error


def _discard() -> None:
    """Send all later output to the null device, so that Python can flush it at exit."""
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), sys.stdout.fileno())


def open_streams() -> None:
    """Prepare the standard streams of a command: closed ones are null, and any text can be encoded."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)  # the lowest free number: that of the closed stream
            setattr(sys, name, open(handle, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def duration(seconds: float) -> str:
    """Format a duration in seconds for display: 4.2 s, 1 m 10 s, 2 h 5 m."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} m"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun for display: 1 image, 2,000 images."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _clear(stream: TextIO) -> str:
    """Return what removes a bar that is drawn on the stream."""
    global _drawn
    if _drawn is not stream:
        return ""
    _drawn = None
    return CLEAR


def _is_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that understands control sequences."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _columns(stream: TextIO) -> int:
    """Return the present width of a terminal, which changes when its window does."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):  # not a real terminal
        return 80


class Bar:
    """A progress bar on a terminal; otherwise one plain line every 30 seconds, so that logs stay readable.

    The bar takes one line whatever the width of the terminal, and has no colour.
    """

    def __init__(self, topic: str, total: int, unit: tuple[float, str] = (1, "")) -> None:
        self.topic, self.total, self.unit, self.done = topic, total, unit, 0
        self.start = self.drawn = time.monotonic()
        self.stream = _stream or sys.stdout
        self.live = not _quiet and self.stream is not None and _is_terminal(self.stream)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            _clear(self.stream)
            self._draw(CLEAR)

    def advance(self, by: int = 1, note: str = "") -> None:
        """Add `by` to the count; redraw at most every 0.1 seconds (every 30 if not on a terminal)."""
        global _drawn
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
            self._draw(f"{CLEAR}{self._line(share, printable(text))}")
            _drawn = self.stream
        else:
            say(self.topic, text)

    def _line(self, share: float, text: str) -> str:
        """Return topic, bar and text in less than the width of the terminal: in its last column it would wrap."""
        room = _columns(self.stream) - 1
        length = min(BAR, room - len(f"{self.topic:<9}  {text}"))
        if length < 6:  # too short to be read
            whole = f"{self.topic}  {text}"
            return whole if len(whole) <= room else text[:room]
        filled = round(length * share)
        full, empty = "━╌" if _encodes(self.stream, "━╌") else "#-"
        return f"{self.topic:<9} {full * filled}{empty * (length - filled)} {text}"

    def _draw(self, text: str) -> None:
        with suppress(OSError):
            print(text, end="", file=self.stream, flush=True)


def _encodes(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
