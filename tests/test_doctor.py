"""zoo doctor: every part is looked at, what is broken is named with its fix, and nothing private is printed."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from hub import Hub

from zoo import store
from zoo.cli import doctor, main


@pytest.fixture
def findings():
    def look(*topics):
        found = [finding for finding in doctor.examine() if not topics or finding.topic in topics]
        assert all(finding.fix for finding in found if finding.state != "ok")
        return found

    return look


def test_a_sound_installation_is_ok(findings, serve):
    serve(net={})
    assert {finding.state for finding in findings()} == {"ok"}
    assert {"python", "torch", "device", "store", "plugin", "hub", "features"} <= {each.topic for each in findings()}


def test_the_command_prints_a_line_each_or_one_document():
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0
    assert "warn  hub" in result.output  # nothing listens there in tests
    assert "fix:            check network, proxy" in result.output
    document = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).output)
    assert {"topic", "state", "seen", "fix"} == document[0].keys()


def test_a_broken_plugin_fails_and_the_rest_is_looked_at(distribution):
    distribution("bad", "import no_such_library")
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "fail  plugin" in result.output
    assert "pip install no_such_library" in result.output
    assert "ok    features" in result.output


def test_a_damaged_lock_is_told(findings):
    store.home().mkdir()
    (store.home() / "lock.toml").write_text("[")
    assert [finding.state for finding in findings("store")] == ["fail"]


def test_a_store_without_room_is_told(findings, monkeypatch):
    usage = doctor.shutil.disk_usage("/")._replace(free=10**6)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    [finding] = findings("store")
    assert (finding.state, finding.fix) == ("warn", "zoo gc   (or: ZOO_HOME=/another/folder)")


def test_a_missing_library_is_told(findings, monkeypatch):
    monkeypatch.setattr(doctor, "LIBRARIES", ("no-such-library",))
    [finding] = findings("no-such-library")
    assert (finding.state, finding.fix) == ("fail", "pip install no-such-library")


def test_offline_nothing_is_asked(findings, monkeypatch, serve):
    hub = serve(net={})
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    assert [finding.state for finding in findings("hub")] == ["ok"]
    assert hub.requests == []


def test_secrets_are_not_printed(monkeypatch):
    with Hub({}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setenv("https_proxy", "http://user:password@127.0.0.1:9")
        output = CliRunner().invoke(main, ["doctor"]).output
        assert "hf_secret" not in str(hub.requests)
    assert "with a token" in output
    assert "hf_secret" not in output
    assert "password" not in output


def test_a_look_that_goes_wrong_is_a_finding(findings, monkeypatch):
    monkeypatch.setattr(doctor, "LIBRARIES", None)
    [finding] = findings("versions")
    assert "TypeError" in finding.seen
