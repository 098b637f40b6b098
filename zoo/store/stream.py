"""Stream a URL in order while downloading several byte ranges concurrently, with retries."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue

from zoo.store.http import Answer, Broken, Line, Refused

CHUNK = 8 << 20
"""Bytes per range request; an interrupted pull downloads up to this much again per connection."""
CONNECTIONS = 8
"""Maximum connections per file."""
PATIENCE = 0.05
"""Seconds to wait for a chunk before opening another connection."""
BLOCK = 1 << 20
TRIES = 5
"""Attempts without progress before giving up."""
PAUSE = 0.5
"""Delay in seconds before the first retry; doubles with each further one. A cut body is requested again at once."""
LONGEST = 60.0
"""Maximum Retry-After in seconds that is honoured; a longer one is an error."""
UNBOUNDED = "sends neither a size nor a hash, so that a file that is cut off could not be told from a complete one"


def stream(
    url: str, headers: Mapping[str, str], start: int = 0, size: int | None = None, *, checked: bool = False
) -> Generator[memoryview]:
    """Yield the bytes of a URL from `start` on, in order; a piece is valid until the next one is requested.

    `size` is the total size in bytes, if known. A body that does not mark its end is refused unless the caller has
    its size or hash `checked`. Without range support the body is read from the beginning on one connection. Raises
    Broken when all retries have failed, Refused for failures that a retry does not fix.
    """
    line = Line(url, headers)
    try:
        last = None if size is None else max(start, min(start + CHUNK, size) - 1)
        answer = _retry(line, lambda: line.get(start, CHUNK + start - 1 if last is None else last))
        total = answer.total if size is None else size
        if answer.status == 200 or total is None:
            yield from _whole(line, answer, start, checked=checked or size is not None)
        elif total - start <= CHUNK:
            yield from _part(line, answer, start, total)
        else:
            yield from _Ranges(url, headers, start, total).pieces(line, answer)
    finally:
        line.close()


def _retry(line: Line, request: Callable[[], Answer], tried: int = 0) -> Answer:
    """Repeat a request while it raises Broken, with exponential backoff or the delay requested by the server."""
    while True:
        try:
            return request()
        except Broken as error:
            line.close()
            tried += 1
            if tried >= TRIES or (error.wait or 0) > LONGEST:
                raise
            time.sleep(PAUSE * 2 ** (tried - 1) if error.wait is None else error.wait)


def _pause(tried: int) -> None:
    """Wait before a body that broke is requested again: not at all if it was the first time since the last byte."""
    if tried > 1:
        time.sleep(PAUSE * 2 ** (tried - 2))


def _whole(line: Line, answer: Answer, start: int, *, checked: bool) -> Generator[memoryview]:
    """Yield the bytes from `start` on without range requests: read from byte 0, and start over after a failure."""
    block = memoryview(bytearray(BLOCK))
    done, position, tried = start, answer.first, 0
    while True:
        if not checked and not (answer.status == 200 and answer.ends):
            raise Refused(UNBOUNDED, answer.status)
        try:
            count = line.read(block)
            if count == 0:
                return
        except Broken:
            tried += 1
            if tried >= TRIES:
                raise
            line.close()
            _pause(tried)
            answer = _retry(line, lambda: line.get(), tried)
            position = answer.first
            continue
        fresh = position + count - done
        position += count
        if fresh > 0:
            tried, done = 0, position
            yield block[count - fresh : count]


def _part(line: Line, answer: Answer, start: int, stop: int) -> Generator[memoryview]:
    """Yield the bytes from `start` to `stop` as one piece; `answer` is the response to the first request."""
    into = memoryview(bytearray(stop - start))
    _fill(line, into, start, answer)
    yield into


def _fill(line: Line, into: memoryview, start: int, answer: Answer | None = None) -> None:
    """Read the bytes from `start` on until `into` is full; a failed connection resumes at the last byte received."""
    done, tried = 0, 0
    while done < len(into):
        if answer is None:
            answer = _retry(line, lambda: line.get(start + done, start + len(into) - 1), tried)  # noqa: B023
            if answer.status != 206:
                raise Refused("stopped supporting range requests during the download", answer.status)
        try:
            count = line.read(into[done : done + BLOCK])
        except Broken:
            line.close()
            tried += 1
            if tried >= TRIES:
                raise
            _pause(tried)
            answer = None
            continue
        if count == 0:
            raise Refused(f"ended early at byte {start + done:,}", answer.status)
        done, tried = done + count, 0


@dataclass(slots=True)
class _Ranges:
    """Worker threads with one connection each that download chunks; the caller consumes the chunks in order.

    Starts with two workers and adds one whenever the caller has to wait, because workers beyond the network's
    bandwidth only slow each other down. Each worker holds one chunk at most, so a kill loses one chunk per worker.
    """

    url: str
    headers: Mapping[str, str]
    start: int
    total: int
    ready: dict[int, bytearray | Exception] = field(default_factory=dict)
    free: SimpleQueue[bytearray | None] = field(default_factory=SimpleQueue)
    changed: threading.Condition = field(default_factory=threading.Condition)
    taken: int = 0
    lines: int = 0

    def pieces(self, line: Line, answer: Answer) -> Generator[memoryview]:
        """Yield the chunks in order; the first worker continues the given connection and its open response."""
        count = -(-(self.total - self.start) // CHUNK)
        self._start_worker(count, line, answer)
        self._start_worker(count)
        try:
            for number in range(count):
                if not self._wait(number, PATIENCE) and self.lines < CONNECTIONS:
                    self._start_worker(count)
                self._wait(number)
                chunk = self.ready.pop(number)
                if isinstance(chunk, Exception):
                    raise chunk
                yield memoryview(chunk)[: self._length(number)]
                self.free.put(chunk)
        finally:
            for _ in range(self.lines):
                self.free.put(None)

    def _start_worker(self, count: int, line: Line | None = None, answer: Answer | None = None) -> None:
        """Start one more worker thread."""
        with self.changed:
            number, self.taken = self.taken, self.taken + 1
        self.lines += 1
        arguments = (line or Line(self.url, self.headers), answer, number, count)
        threading.Thread(target=self._work, args=arguments, daemon=True).start()

    def _wait(self, number: int, seconds: float | None = None) -> bool:
        """Wait until a chunk is ready or the timeout expires; returns whether it is ready."""
        with self.changed:
            return self.changed.wait_for(lambda: number in self.ready, seconds)

    def _length(self, number: int) -> int:
        return min(CHUNK, self.total - self.start - number * CHUNK)

    def _work(self, line: Line, answer: Answer | None, number: int, count: int) -> None:
        chunk: bytearray | None = bytearray(CHUNK)
        try:
            while chunk is not None and number < count:
                into = memoryview(chunk)[: self._length(number)]
                _fill(line, into, self.start + number * CHUNK, answer)
                answer = None
                self._publish(number, chunk)
                chunk = self.free.get()  # take a buffer before a number: the chunk the caller waits for always has one
                with self.changed:
                    number, self.taken = self.taken, self.taken + 1
        except Exception as error:  # noqa: BLE001  # any failure is raised in the caller's thread
            self._publish(number, error)
        finally:
            line.close()

    def _publish(self, number: int, result: bytearray | Exception) -> None:
        with self.changed:
            self.ready[number] = result
            self.changed.notify()
