"""Isolation of broken plugins: all others are listed, found and loaded, and the broken one is reported with a fix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import crowd
import pytest

import zoo
from zoo.catalogue import discovery, isolated_import, plugins, registry
from zoo.cli import main
from zoo.errors import PluginError
from zoo.testing import isolation
from zoo.testing.rules import Broken

NOISE = "import os\nprint('to stdout')\nos.write(1, b'to the file descriptor')\nos.system('echo from a child')\n"
CODES = {
    **crowd.BROKEN,
    "base": "class Odd(BaseException): pass\nraise Odd('odd')",
    "half": "x = 1",
    "class": "class plugin:\n    api = 1",
    "group": "raise ExceptionGroup('two', [ValueError(), TypeError()])",
}
CATALOGUES = {
    "broken JSON": "{",
    "no table": "[1, 2]",
    "rows that are none": '{"bad/a": 3}',
    "a row without input": '{"bad/a": {"modality": "image"}}',
    "wrong types": '{"bad/a": {"modality": 1, "input": []}}',
    "a name of another plugin": json.dumps({"timm/resnet50.a1_in1k": crowd.ROW}),
    "an alias of another plugin": json.dumps({"bad/a": {**crowd.ROW, "aliases": ["native/resnet18.tv_in1k"]}}),
    "one alias for two": json.dumps({name: {**crowd.ROW, "aliases": ["bad/x"]} for name in ("bad/a", "bad/b")}),
    "deep": "[" * 100_000,
}


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.startswith("crowd_")]:
        del sys.modules[name]


@pytest.fixture
def others():
    """After the test, check that the first-party plugins still work."""
    yield
    assert registry.find("native/resnet18.tv_in1k").plugin == "native"
    assert zoo.info("resnet50.a1_in1k").name == "timm/resnet50.a1_in1k"
    assert len(zoo.list(plugin="timm")) > 1000
    assert plugins.load("native").api == 1


def command(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run zoo in a subprocess with the plugins of `site` installed."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    return subprocess.run(
        [sys.executable, "-m", "zoo", *words], env=environ, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("case", CODES)
def test_a_plugin_that_fails_at_import_raises_only_when_loaded(site, others, case):
    crowd.install(site, "bad", CODES[case])
    assert registry.find("bad/a").dim == 4  # rows are read without importing the plugin
    with pytest.raises(PluginError) as caught:
        zoo.load("bad/a")
    assert "crowd-bad 1.0" in caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize("case", CATALOGUES)
def test_an_invalid_catalogue_is_skipped_and_reported(site, others, case):
    crowd.install(site, "bad", text=CATALOGUES[case])
    assert zoo.list(plugin="bad") == []
    assert registry.problems()["bad"].fix


def test_a_catalogue_that_is_not_utf8_is_skipped(site, others):
    crowd.install(site, "bad")
    (site / "crowd_bad" / "catalogue.json").write_bytes(b"\xff\xfe\x00")
    assert zoo.list(plugin="bad") == []


def test_output_of_a_plugin_stays_out_of_a_json_document(site):
    crowd.install(site, "loud", NOISE + crowd.CODE)
    result = command(site, "plugins", "--json")
    table = {row["plugin"]: row for row in json.loads(result.stdout)}
    assert table["loud"]["state"] == "ok"
    assert all(word in result.stderr for word in ("to stdout", "to the file descriptor", "from a child"))


def test_list_and_info_import_no_plugin(site):
    crowd.install(site, "slow", "import time; time.sleep(3600)")
    assert "slow/a" in command(site, "list", "slow/").stdout
    assert "slow/a" in command(site, "info", "slow/a").stdout
    assert command(site, "info", "native/resnet18.tv_in1k").returncode == 0


def test_a_plugin_that_hangs_or_crashes_at_import_is_reported(site, monkeypatch, capsys):
    crowd.install(site, "hangs", "import time; time.sleep(3600)")
    crowd.install(site, "crashes", "import os; os.abort()")
    crowd.install(site, "leaves", "import os; os._exit(0)")
    crowd.install(
        site, "stays", "import threading, time; threading.Thread(target=time.sleep, args=(3600,)).start()" + crowd.CODE
    )
    crowd.install(site, "zz")
    names = ["crashes", "hangs", "leaves", "stays", "zz"]
    monkeypatch.setattr(isolated_import, "LIMIT", 4.0)
    found = isolated_import.apis(names)
    assert [name for name, api in found.items() if api == 1] == ["stays", "zz"]
    assert "crowd-hangs 1.0, crowd_hangs:plugin): its import takes more than 4 seconds" in found["hangs"].what
    assert "its import ends the process with exit code -6" in found["crashes"].what
    assert "its import ends the process with exit code 0" in found["leaves"].what
    assert found["hangs"].fix == "pip uninstall crowd-hangs"


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import os; os._exit(0)", "its import ends the process with exit code 0"),
        ("import os; os.kill(os.getpid(), 11)", "its import ends the process with exit code -11"),
        ("import os\nif os.fork(): os._exit(0)\nimport time; time.sleep(60)", "ends the process with exit code 0"),
        (crowd.CODE.replace("api = 1", "api = property(lambda self: exit(0))"), "cannot be used: SystemExit: 0"),
    ],
    ids=["exit", "crash", "fork", "api"],
)
def test_trials_turn_the_end_of_the_process_into_an_error(site, code, problem):
    crowd.install(site, "bad", code)
    with plugins.trials(), pytest.raises(PluginError) as caught:
        plugins.load("bad")
    assert problem in caught.value.what
    assert "crowd-bad" in caught.value.fix


def test_a_trial_is_repeated_only_if_the_plugin_or_a_distribution_changes(site, tmp_path):
    count = f"open({str(tmp_path / 'count')!r}, 'a').write('x')\n"
    crowd.install(site, "fine", count + crowd.CODE)
    counts = []
    for change in ("", "edit", "", "install"):
        if change == "edit":
            (site / "crowd_fine" / "more.py").write_text("")
        elif change == "install":
            crowd.install(site, "other")
        plugins._load.cache_clear()
        discovery._installed.cache_clear()
        sys.modules.pop("crowd_fine", None)
        with plugins.trials():
            assert plugins.load("fine").api == 1
        counts.append((tmp_path / "count").read_text().count("x"))
    assert counts == [2, 4, 5, 7]  # imports here and in the subprocess


def test_first_party_plugins_need_no_trial(monkeypatch):
    monkeypatch.setattr(isolated_import, "apis", None)
    plugins._load.cache_clear()
    with plugins.trials():
        assert plugins.load("native").api == 1


def test_a_plugin_that_forks_goes_on_in_one_process(site, tmp_path):
    crowd.install(site, "forks", "import os; os.fork()\n" + crowd.CODE)
    code = f"from zoo.catalogue import plugins; plugins.load('forks'); open({str(tmp_path / 'o')!r}, 'a').write('x')"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True, timeout=60)
    assert (tmp_path / "o").read_text() == "x"


def test_an_answer_that_a_plugin_forges_is_an_error(site):
    crowd.install(site, "bad")
    for line in (b"{}", b"[]", b"\xff", b'{"api": "x"}', b'{"what": 1}'):
        assert "its import writes to" in isolated_import._parsed("bad", line).what


def test_a_subprocess_that_does_not_end_breaks_the_rule(monkeypatch):
    monkeypatch.setattr(isolation, "TIMEOUT", 0.5)
    with pytest.raises(Broken, match=r"has not finished after 0\.5 seconds"):
        isolation._run_python("import os, time; os.fork(); time.sleep(60)")


def test_a_broken_zoo_toml_is_a_note(site, isolated, capsys):
    (isolated / "zoo.toml").write_text('["mine/a"]\nsaved = "gone"\n')
    for words in (["list", "native/"], ["list", "native/", "--json"], ["plugins"]):
        main(words, standalone_mode=False)
        out, err = capsys.readouterr()
        assert "native" in out
        assert err.startswith("note: ")
        assert "zoo.json does not exist; fix: delete the row in" in err


def test_five_broken_plugins_among_twenty_are_reported_and_the_others_listed(site, others, monkeypatch, capsys):
    crowd.crowd(site, rows=2000)
    found = {entry.plugin for entry in zoo.list()}
    assert {"huge", *(f"fine{index}" for index in range(14)), *crowd.BROKEN} < found
    assert len(zoo.list(plugin="huge")) == 2000
    main(["plugins", "--json"], standalone_mode=False)
    table = {row["plugin"]: row for row in json.loads(capsys.readouterr().out)}
    assert {name for name, row in table.items() if row["state"] == "broken"} == set(crowd.BROKEN)
    assert all(row["fix"] and row["problem"] for row in table.values() if row["state"] == "broken")
    assert table["huge"]["rows"] == 2000
