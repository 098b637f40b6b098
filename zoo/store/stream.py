"""The bytes of a URL in their order, fetched as several ranges at once, with patience for what can be mended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue

from zoo.store.http import Answer, Broken, Line, Refused

CHUNK = 8 << 20
"""Bytes that a connection asks for at once: what a killed pull fetches again, for each connection."""
CONNECTIONS = 8
"""The most connections for one file."""
PATIENCE = 0.05
"""Seconds to wait for a chunk before the network counts as slower than this machine."""
BLOCK = 1 << 20
TRIES = 5
"""Attempts without a byte of progress before giving up."""
PAUSE = 0.5
"""Seconds before the second attempt; each further one waits twice as long."""
LONGEST = 60.0
"""The most seconds to wait because a server asks for it."""


def stream(url: str, headers: Mapping[str, str], start: int = 0, size: int | None = None) -> Generator[memoryview]:
    """Yield the bytes of a URL from `start` on, in order; a piece is valid until the next is asked for.

    `size` is how many bytes there are in all, if that is known. A server that cannot send ranges is read from the
    beginning, on one connection. Raises Broken or Refused, after as much patience as there is a point in.
    """
    line = Line(url, headers)
    try:
        last = None if size is None else max(start, min(start + CHUNK, size) - 1)
        answer = _patiently(line, lambda: line.get(start, CHUNK + start - 1 if last is None else last))
        total = answer.total if size is None else size
        if answer.status == 200 or total is None:
            yield from _whole(line, answer, start)
        elif total - start <= CHUNK:
            yield from _part(line, answer, start, total)
        else:
            yield from _Ranges(url, headers, start, total).pieces(line, answer)
    finally:
        line.close()


def _patiently(line: Line, ask: Callable[[], Answer], tried: int = 0) -> Answer:
    """Ask until there is an answer; waits longer each time, or as long as the server says."""
    while True:
        try:
            return ask()
        except Broken as error:
            line.close()
            tried += 1
            if tried >= TRIES or (error.wait or 0) > LONGEST:
                raise
            time.sleep(PAUSE * 2 ** (tried - 1) if error.wait is None else error.wait)


def _whole(line: Line, answer: Answer, start: int) -> Generator[memoryview]:
    """Yield what follows `start` of a body that comes from its beginning; after a break, it begins again."""
    block = memoryview(bytearray(BLOCK))
    done, position, tried = start, answer.first, 0
    while True:
        try:
            count = line.read(block)
            if count == 0:
                return
        except Broken:
            tried += 1
            if tried >= TRIES:
                raise
            line.close()
            answer = _patiently(line, lambda: line.get(), tried)
            position = answer.first
            continue
        fresh = position + count - done
        position += count
        if fresh > 0:
            tried, done = 0, position
            yield block[count - fresh : count]


def _part(line: Line, answer: Answer, start: int, stop: int) -> Generator[memoryview]:
    """Yield the bytes from `start` to `stop`, of which the answer to the first request is there."""
    into = memoryview(bytearray(stop - start))
    _fill(line, into, start, answer)
    yield into


def _fill(line: Line, into: memoryview, start: int, answer: Answer | None = None) -> None:
    """Read the bytes from `start` on until `into` is full; a connection that breaks goes on from where it was."""
    done, tried = 0, 0
    while done < len(into):
        if answer is None:
            answer = _patiently(line, lambda: line.get(start + done, start + len(into) - 1), tried)  # noqa: B023
            if answer.status != 206:
                raise Refused("sends ranges no more, in the middle of the file", answer.status)
        try:
            count = line.read(into[done : done + BLOCK])
        except Broken:
            line.close()
            tried += 1
            if tried >= TRIES:
                raise
            answer = None
            continue
        if count == 0:
            raise Refused(f"ends at byte {start + done:,}", answer.status)
        done, tried = done + count, 0


@dataclass(slots=True)
class _Ranges:
    """Several threads, each with a connection, that fetch the next chunk nobody has; the caller takes them in order.

    It begins with two, and opens one more whenever the caller has to wait: beyond what the network gives, threads only
    take time from each other. A chunk for each is on its way or waiting to be taken: that is what a kill loses.
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
        """Yield the chunks in order; the first is read from the answer that is already there."""
        count = -(-(self.total - self.start) // CHUNK)
        self._open(count, line, answer)
        self._open(count)
        try:
            for number in range(count):
                if not self._wait(number, PATIENCE) and self.lines < CONNECTIONS:
                    self._open(count)
                self._wait(number)
                chunk = self.ready.pop(number)
                if isinstance(chunk, Exception):
                    raise chunk
                yield memoryview(chunk)[: self._length(number)]
                self.free.put(chunk)
        finally:
            for _ in range(self.lines):
                self.free.put(None)

    def _open(self, count: int, line: Line | None = None, answer: Answer | None = None) -> None:
        """Let one more connection work."""
        with self.changed:
            number, self.taken = self.taken, self.taken + 1
        self.lines += 1
        given = (line or Line(self.url, self.headers), answer, number, count)
        threading.Thread(target=self._work, args=given, daemon=True).start()

    def _wait(self, number: int, seconds: float | None = None) -> bool:
        """Wait until a chunk is there; returns whether it is."""
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
                self._hand(number, chunk)
                chunk = self.free.get()  # memory first: the chunk that is waited for always has its own
                with self.changed:
                    number, self.taken = self.taken, self.taken + 1
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets it in place of the chunk
            self._hand(number, error)
        finally:
            line.close()

    def _hand(self, number: int, what: bytearray | Exception) -> None:
        with self.changed:
            self.ready[number] = what
            self.changed.notify()
