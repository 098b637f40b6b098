"""Journey: watch a run in a terminal of any width, in a log and with Ctrl-C, and set up completion."""

from __future__ import annotations

import io
import itertools
import os
import pty
import re
import signal
import termios
from pathlib import Path
from types import SimpleNamespace

import pictures
import pytest
import torch
from click.testing import CliRunner

import zoo
from zoo import console
from zoo.cli import main
from zoo.data import decode_cache
from zoo.finetune import inference
from zoo.finetune.features import linear_solver

SEQUENCE = re.compile(r"\x1b\[[0-9;]*([A-Za-z])")


@pytest.fixture(autouse=True)
def interrupts():
    """Restore the default SIGINT handler: shells let background processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def second(monkeypatch):
    """Let a second pass between two looks at the clock, so that each step draws the bar."""
    ticks = itertools.count()
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))


class Terminal:
    """A pseudo-terminal of a width; `drawn` are the bars so far, without control sequences."""

    def __init__(self, columns: int) -> None:
        self.master, self.slave = pty.openpty()
        self.stream = open(self.slave, "w", encoding="utf-8")  # noqa: SIM115  # closed by close
        self.resize(columns)

    def resize(self, columns: int) -> None:
        termios.tcsetwinsize(self.slave, (24, columns))

    def shown(self) -> str:
        self.stream.write("\0")
        self.stream.flush()
        found = b""
        while not found.endswith(b"\0"):
            found += os.read(self.master, 65536)
        return found[:-1].decode()

    def drawn(self) -> list[str]:
        return [part.split("\r")[0] for part in self.shown().split(console.CLEAR)[1:]]

    def close(self) -> None:
        self.stream.close()
        os.close(self.master)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    opened = []

    def start(columns):
        opened.append(Terminal(columns))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


@pytest.mark.parametrize("columns", [12, 40, 60, 100, 200])
def test_the_bar_fits_any_width(columns, terminal, second):
    shown = terminal(columns)
    with console.to(shown.stream), console.Bar("tune", 12_000) as bar:
        for _ in range(5):
            bar.advance(1000, "loss 0.512  12.3 examples/s")
    bars = shown.drawn()
    assert max(map(len, bars)) < columns  # in the last column a terminal wraps
    assert ("━" in "".join(bars)) == (columns > 80)
    assert "1,000/12" in bars[0] or columns == 12
    assert bars[-1] == ""


def test_the_bar_follows_a_resize(terminal, second):
    shown = terminal(120)
    with console.to(shown.stream), console.Bar("decode", 10) as bar:
        bar.advance(2, "n" * 50)
        wide = shown.drawn()
        shown.resize(50)
        bar.advance(2, "n" * 50)
        narrow = shown.drawn()
    assert len(wide[0]) > 60
    assert len(narrow[0]) == 49


def test_a_line_replaces_the_bar(terminal, second):
    shown = terminal(100)
    with console.to(shown.stream), console.Bar("tune", 4) as bar:
        bar.advance(2)
        console.say("memory", "out of memory: batches of 8")
    lines = [line.rpartition(console.CLEAR)[2] for line in shown.shown().split("\r\n")]
    assert lines[0] == "memory    out of memory: batches of 8"


def test_no_color_is_honoured_and_a_dumb_terminal_gets_plain_lines(terminal, second, monkeypatch, pretrained):
    monkeypatch.setenv("NO_COLOR", "1")
    shown = terminal(100)
    with console.to(shown.stream):
        zoo.load(pretrained, "cpu").finetune(pictures.pairs(6), strategy="full", steps=3, batch_size=8)
    text = shown.shown()
    assert "tune      ━" in text
    assert "m" not in {found[1] for found in SEQUENCE.finditer(text)}  # no colours
    monkeypatch.setenv("TERM", "dumb")
    with console.to(shown.stream), console.Bar("tune", 100) as bar:
        for _ in range(40):
            bar.advance()
    assert "\x1b" not in (text := shown.shown())
    assert text == "tune      30/100  1 m 10 s left\r\n"


def test_a_terminal_without_block_characters_gets_ascii(second):
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, "ascii", errors="backslashreplace")
    stream.isatty = lambda: True
    with console.to(stream), console.Bar("tune", 4) as bar:
        bar.advance(2)
    assert b"############------------ 2/4" in buffer.getvalue()


def test_a_log_has_no_control_sequences(pretrained, tmp_path):
    data = pictures.folder(tmp_path / "data", 6)
    words = ("--strategy", "full", "--set", "steps=2", "--out", "run", "--device", "cpu")
    result = CliRunner().invoke(main, ["finetune", str(pretrained), str(data), *words])
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert "\r" not in result.output


MOMENTS = {
    "decode": (decode_cache, "pixels"),
    "features": (inference, "head_inputs"),
    "probe": (linear_solver, "solve"),
}


def test_ctrl_c_at_any_moment_leaves_a_run_that_goes_on(pretrained, tmp_path):
    data = pictures.folder(tmp_path / "data", 6)
    words = ["finetune", str(pretrained), str(data), "--strategy", "lp-ft", "--set", "steps=4", "--device", "cpu"]
    for moment, (owner, name) in MOMENTS.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, _interrupting(getattr(owner, name)))
            stopped = CliRunner().invoke(main, [*words, "--out", "run", "--resume"])
        assert stopped.exit_code == 130, (moment, stopped.output)
        assert "interrupted" in stopped.stderr
        assert "Traceback" not in stopped.output
        assert not Path("run").exists()
    for out in ("run", "whole"):
        done = CliRunner().invoke(main, [*words, "--out", out, "--resume"])
        assert done.exit_code == 0, done.output
    states = [zoo.load(folder, "cpu").module.state_dict() for folder in ("run", "whole")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def _interrupting(function):
    """Return a function that sends Ctrl-C to the process at its first call."""
    calls = itertools.count()

    def call(*args, **kwargs):
        if next(calls) == 0:
            signal.raise_signal(signal.SIGINT)
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", 'eval "$(_ZOO_COMPLETE=bash_source zoo)"'),
        ("zsh", 'eval "$(_ZOO_COMPLETE=zsh_source zoo)"'),
        ("fish", "_ZOO_COMPLETE=fish_source zoo | source"),
    ],
)
def test_completion_prints_the_line_to_add(shell, line):
    result = CliRunner().invoke(main, ["completion", shell])
    comment, printed = result.output.splitlines()
    assert comment.startswith("# in ~/.")
    assert printed == line
    script = CliRunner().invoke(main, [], prog_name="zoo", env={"_ZOO_COMPLETE": f"{shell}_source"})
    assert "zoo" in script.output


def test_completion_of_an_unknown_shell_is_a_usage_error():
    result = CliRunner().invoke(main, ["completion", "tcsh"])
    assert result.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in result.output
