"""Console output: lines, durations, and the progress bar on a terminal and in a log."""

from __future__ import annotations

import ast
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

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


def test_a_counted_noun_is_singular_for_one_alone():
    assert [console.counted(number, "image") for number in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]


def test_say_prints_a_line_with_its_topic(capsys):
    console.say("data", "9 classes")
    assert capsys.readouterr().out == "data      9 classes\n"


def test_a_long_line_continues_below_itself_on_a_terminal(monkeypatch):
    monkeypatch.setattr(console, "_columns", lambda stream: 40)
    path = "pictures/" + "a" * 60
    for stream in (Terminal(), io.StringIO()):
        with console.to(stream):
            console.say("data", f"{path}: 30 images, 3 classes -> classify, held out by seed")
        shown = stream.getvalue().splitlines()
        if not stream.isatty():
            assert len(shown) == 1
            continue
        assert path in stream.getvalue()  # no word is divided
        assert [line[:10].strip() for line in shown] == ["data", *[""] * (len(shown) - 1)]
        assert all(len(line) < 40 for line in shown if path not in line)


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


ESCAPED = {
    "a\x1b[31mb": r"a\x1b[31mb",
    "a\nb\rc\td": r"a\nb\rc\td",
    "\x00\x7f\x9b": r"\x00\x7f\x9b",
    "\u202egnp\u2066\u200f": r"\u202egnp\u2066\u200f",
    "a\u2028b\u0085c": r"a\u2028b\x85c",
    "zero\u200bwidth\ufeff": r"zero\u200bwidth\ufeff",
    "tag\U000e0041": r"tag\U000e0041",
    "bytes\udcff": r"bytes\udcff",
}


@pytest.mark.parametrize("text", ESCAPED, ids=ascii)
def test_printable_escapes_what_controls_a_terminal_or_hides_text(text):
    assert console.printable(text) == ESCAPED[text]


@pytest.mark.parametrize("text", ["é", "猫 犬", "שלום", "می‌خواهم", "👩‍👩‍👧", "a\u00a0b", "-> … ━"])
def test_printable_keeps_text_of_any_script(text):
    assert console.printable(text) == text


@pytest.mark.parametrize("character", ["x", "\x1b", "\U000e0041"])
def test_printable_leaves_out_the_middle_of_a_long_text(character):
    shown = console.printable(f"first{character * 10**6}last")
    assert len(shown) == console.LONGEST
    assert shown.startswith("first")
    assert shown.endswith("last")


def test_say_line_and_bar_print_foreign_text_as_one_line(monkeypatch, capsys):
    console.say("data", "a\x1b[2J\nb")
    console.line("c\u202e\nd")
    console.document({"label": "\x9b\udcffé"})
    terminal = Terminal()
    clock = iter(range(100))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))
    with console.to(terminal), console.Bar("tune", 4) as bar:
        bar.advance(2, "loss\x1b[2J")
    out = capsys.readouterr().out
    assert out == 'data      a\\x1b[2J\\nb\nc\\u202e\\nd\n{\n "label": "\\u009b\\udcff\\u00e9"\n}\n'
    assert terminal.getvalue().count("\x1b") == 2  # its own


def test_every_command_prints_through_the_console():
    """The functions of zoo.console make foreign text printable; nothing else in zoo writes to a standard stream."""
    root = Path(console.__file__).parent
    for path in set(root.rglob("*.py")) - {root / "console.py", root / "store" / "convert.py"}:
        calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        assert not {"print", "click.echo", "click.secho"} & {ast.unparse(call.func) for call in calls}, path


@pytest.mark.parametrize("stream", [1, 2])
def test_a_closed_stream_is_no_error(stream):
    command = f"{shlex.quote(sys.executable)} -m zoo info native/resnet18.tv_in1k {stream}>&-"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", ["list", "list --json", "info native/resnet18.tv_in1k"])
def test_a_full_stdout_is_an_error_of_two_lines(words):
    command = f"{shlex.quote(sys.executable)} -m zoo {words} > /dev/full"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: standard output cannot be written: No space left")
    assert len(result.stderr.splitlines()) == 2


def test_text_that_the_encoding_of_stdout_lacks_is_escaped():
    environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "zoo", "info", "ü\udcff"]
    result = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert result.returncode == 1
    assert r"unknown backbone '\xfc\udcff'" in result.stderr


def test_a_log_on_a_closed_pipe_ends_no_run():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream, console.to(stream):
        console.say("data", "9 classes")
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)


def test_without_a_stdout_nothing_is_said(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    console.say("data", "12 images")
