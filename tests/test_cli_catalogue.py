"""zoo list, info, plugins and pull: output, --json, exit codes, error messages, shell completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from conftest import ROW

from zoo import cli
from zoo.catalogue import registry
from zoo.cli import catalogue
from zoo.errors import NameNotFound


@pytest.fixture
def zoo():
    """Return a function that invokes the CLI in this process."""
    return lambda *args: CliRunner().invoke(cli.main, args)


@pytest.fixture
def birds(isolated):
    """Register two user-defined backbones, one with a local weight file and one without weights."""
    (isolated / "weights").mkdir()
    (isolated / "weights" / "w.safetensors").write_bytes(b"12345")
    source = f'source = "{(isolated / "weights").as_uri()}"\nfiles = [{{ path = "w.safetensors" }}]'
    extra = f'params = 31000000\nlicense = "mit"\npretrained_on = "birds"\n{source}'
    (isolated / "zoo.toml").write_text(f'["mine/robin.v1"]{ROW}{extra}\n["mine/wren"]{ROW}params = 5000\n')
    return isolated


def test_list_prints_aligned_columns_and_a_count(zoo, birds):
    result = zoo("list", "mine/")
    header, robin, wren, count = result.output.splitlines()
    assert result.exit_code == 0
    assert header.split() == [
        "name",
        "params",
        "MB",
        "GMACs",
        "accuracy",
        "input",
        "licence",
        "pulled",
        "pre-trained",
        "on",
    ]
    assert robin.split() == ["mine/robin.v1", "31M", "124", "?", "?", "3", "x", "8", "px", "mit", "birds"]
    assert wren.split()[-2:] == ["(random", "weights)"]
    assert {line.index("3 x 8 px") for line in (robin, wren)} == {header.index("input")}
    assert count == f"2 of {len(registry.rows())} backbones"


def test_list_pulled_shows_only_pulled_backbones_with_sizes(zoo, birds):
    zoo("pull", "robin")
    result = zoo("list", "mine/", "--pulled")
    assert "mine/robin.v1" in result.output
    assert "5 bytes" in result.output
    assert "1 of " in result.output
    assert "mine/wren" not in result.output


def test_list_without_matches_prints_a_count_of_zero(zoo, birds):
    result = zoo("list", "no such thing")
    assert result.output == f"0 of {len(registry.rows())} backbones\n"


def test_list_json_is_an_array_of_entries(zoo, birds):
    first = json.loads(zoo("list", "mine/", "--json").output)[0]
    assert (first["name"], first["plugin"], first["params"], first["pulled"]) == (
        "mine/robin.v1",
        "mine",
        31000000,
        False,
    )


@pytest.mark.parametrize(("limit", "names"), [("6K", ["mine/wren"]), ("0.031B", ["mine/robin.v1", "mine/wren"])])
def test_max_params_accepts_unit_suffixes(zoo, birds, limit, names):
    found = json.loads(zoo("list", "mine/", "--max-params", limit, "--json").output)
    assert [entry["name"] for entry in found] == names


def test_invalid_max_params_is_a_usage_error(zoo):
    result = zoo("list", "--max-params", "many")
    assert result.exit_code == 2
    assert "'many' is not a number such as 500K, 30M or 1.5B" in result.output


def test_narrow_terminal_truncates_only_the_last_column(monkeypatch, capsys):
    monkeypatch.setattr(catalogue.sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(catalogue.sys.stdout, "fileno", lambda: 1)
    monkeypatch.setattr(catalogue.os, "get_terminal_size", lambda fd: os.terminal_size((40, 20)))
    catalogue.print_table([("native/resnet14.letters", "172K", "letters drawn from 1,378 open fonts")])
    assert capsys.readouterr().out == "native/resnet14.letters  172K  letters …\n"


@pytest.mark.parametrize(
    ("count", "text"), [(None, "?"), (12, "12"), (8672, "8.67K"), (11176512, "11.2M"), (1.5e9, "1.5B")]
)
def test_parameter_counts_are_abbreviated(count, text):
    assert catalogue._count_text(count) == text


def test_info_shows_the_details_of_a_backbone(zoo, birds):
    output = zoo("info", "robin").output
    for text in ("mine/robin.v1", "3 x 8 px", "31,000,000", "mit", "birds", "file://", "w.safetensors", "zoo.toml"):
        assert text in output
    assert "no: zoo pull mine/robin.v1" in output


def test_info_json_contains_the_entry(zoo, birds):
    document = json.loads(zoo("info", "robin", "--json").output)
    assert document["name"] == "mine/robin.v1"
    assert document["catalogue"] == str(birds / "zoo.toml")


def test_pull_prints_the_verified_files(zoo, birds):
    result = zoo("pull", "robin", "wren", "--json")
    document = json.loads(result.output)
    assert document["mine/wren"] == {}
    with open(document["mine/robin.v1"]["w.safetensors"], "rb") as file:
        assert file.read() == b"12345"


def test_pull_dry_run_lists_files_and_downloads_nothing(zoo, birds):
    output = zoo("pull", "robin", "wren", "--dry-run").output
    assert "file://" in output
    assert "w.safetensors  5 bytes" in output
    assert "to download: 1 of 1 files, 5 bytes" in output
    assert "nothing to pull: randomly initialised" in output
    assert json.loads(zoo("info", "robin", "--json").output)["pulled"] is False


def test_plugins_shows_state_problem_and_fix(zoo, distribution):
    distribution("good", catalogue=f'["good/a"]{ROW}', name="good-nets", version="3.1")
    distribution("bad", "import no_such_library", name="bad-nets")
    result = zoo("plugins")
    lines = result.output.splitlines()
    assert result.exit_code == 0
    assert next(line for line in lines if line.startswith("good")).split() == [
        "good",
        "good-nets",
        "3.1",
        "1",
        "1",
        "ok",
    ]
    assert next(line for line in lines if line.startswith("bad")).split()[-1] == "broken"
    assert "No module named 'no_such_library'" in result.output
    assert "fix: pip install no_such_library" in result.output


def test_plugins_shows_a_broken_catalogue(zoo, distribution):
    folder = distribution("bad", catalogue="[")
    row = next(row for row in json.loads(zoo("plugins", "--json").output) if row["plugin"] == "bad")
    assert (row["state"], row["rows"], row["catalogue"]) == ("broken", 0, str(folder / "catalogue.toml"))
    assert "catalogue.toml:1" in row["problem"]
    assert "catalogue.toml" in row["fix"]


def test_zoo_error_prints_two_lines_to_stderr_and_exits_1(zoo):
    result = zoo("info", "§§§")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "error: unknown backbone '§§§'; nearest: none\nfix: zoo list\n"


def test_zoo_error_with_json_prints_a_document_to_stdout(zoo):
    result = zoo("info", "§§§", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"error": "unknown backbone '§§§'; nearest: none", "fix": "zoo list"}
    assert result.stderr == ""


@pytest.mark.parametrize("args", [("info",), ("lits",), ("list", "--no-such"), ("list", "--modality", "sound")])
def test_usage_error_exits_2(zoo, args):
    assert zoo(*args).exit_code == 2


def test_unknown_command_is_quoted(zoo):
    assert "'lits'" in zoo("lits").stderr


def test_keyboard_interrupt_exits_130_without_traceback(zoo, monkeypatch):
    @click.command()
    def slow() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(catalogue, "info", slow)
    result = zoo("info")
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"


def test_closed_stdout_prints_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "zoo", "list", "--json"]
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert result.stderr == ""


def test_shell_completion_of_backbone_names(birds):
    done = ShellComplete(cli.main, {}, "zoo", "_ZOO_COMPLETE").get_completions(["info"], "mine/")
    assert [item.value for item in done] == ["mine/robin.v1", "mine/wren"]


def test_shell_completion_ignores_a_broken_catalogue(birds):
    (birds / "zoo.toml").write_text("[")
    assert ShellComplete(cli.main, {}, "zoo", "_ZOO_COMPLETE").get_completions(["info"], "mine/") == []


def test_help_lists_all_commands_with_a_description(zoo):
    result = zoo("--help")
    assert result.exit_code == 0
    lines = result.output.partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in lines if line] == list(cli.COMMANDS)
    assert all(len(line.split()) > 2 for line in lines if line)


def test_version_option(zoo):
    assert zoo("--version").output.startswith("zoo, version ")


def test_zoo_error_string_includes_the_fix():
    assert str(NameNotFound("no such net", fix="zoo list")) == "no such net\nfix: zoo list"
