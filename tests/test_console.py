"""Console output: lines, durations, and the progress bar on a terminal and in a log."""

from __future__ import annotations

import io

import pytest

from zoo import console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (4.25, "4.2 s"), (59, "59 s"), (70, "1 m 10 s"), (7500, "2 h 5 m")]
)
def test_duration_formats_seconds_minutes_and_hours(seconds, text):
    assert console.duration(seconds) == text


def test_say_prints_a_line_with_its_topic(capsys):
    console.say("data", "9 classes")
    assert capsys.readouterr().out == "data      9 classes\n"


def test_to_and_quiet_apply_only_within_their_blocks(capsys):
    other = io.StringIO()
    with console.to(other):
        console.say("a", "b")
    with console.quiet():
        console.say("c", "d")
    console.say("e", "f")
    assert other.getvalue() == "a         b\n"
    assert capsys.readouterr().out == "e         f\n"


def test_the_bar_on_a_terminal_is_cleared_at_the_end(monkeypatch):
    terminal = Terminal()
    clock = iter(range(100))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))
    with console.to(terminal), console.Bar("tune", 4) as bar:
        bar.advance(2, "loss 0.5")
    shown = terminal.getvalue()
    assert "tune      " + "━" * 12 + "╌" * 12 + " 2/4  loss 0.5  1.0 s left" in shown
    assert shown.endswith(console.CLEAR)


def test_a_log_gets_a_plain_line_every_30_seconds(monkeypatch):
    log = io.StringIO()
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))
    with console.to(log), console.Bar("tune", 8) as bar:
        for _ in range(4):
            bar.advance(note="loss 0.5")
    assert log.getvalue() == "tune      2/8  loss 0.5  2 m 0 s left\ntune      4/8  loss 0.5  1 m 20 s left\n"
