"""zoo doctor: all checks run, failures come with a fix, and no secrets are printed."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from hub import Hub

from zoo import store
from zoo.cli import doctor, main


@pytest.fixture
def findings():
    def run_checks(*topics):
        found = [finding for finding in doctor.examine() if not topics or finding.topic in topics]
        assert all(finding.fix for finding in found if finding.state != "ok")
        return found

    return run_checks


def test_all_findings_of_a_working_installation_are_ok(findings, serve):
    serve(net={})
    assert {finding.state for finding in findings()} == {"ok"}
    assert {"python", "torch", "device", "store", "plugin", "hub", "features"} <= {each.topic for each in findings()}


def test_output_is_one_line_per_finding_or_a_json_document():
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0
    assert "warn  hub" in result.output  # no hub server runs in tests
    assert "fix:            check network, proxy" in result.output
    document = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).output)
    assert {"topic", "state", "seen", "fix"} == document[0].keys()


def test_broken_plugin_fails_and_remaining_checks_run(distribution):
    distribution("bad", "import no_such_library")
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 1
    assert "fail  plugin" in result.output
    assert "pip install no_such_library" in result.output
    assert "ok    features" in result.output


def test_damaged_lock_fails(findings):
    store.home().mkdir()
    (store.home() / "lock.toml").write_text("[")
    assert [finding.state for finding in findings("store")] == ["fail"]


def test_low_disk_space_warns(findings, monkeypatch):
    usage = doctor.shutil.disk_usage("/")._replace(free=10**6)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    [finding] = findings("store")
    assert (finding.state, finding.fix) == ("warn", "zoo gc   (or: ZOO_HOME=/another/folder)")


def test_sizes_of_the_caches_and_their_limit_are_shown(findings, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE_GB", "5")
    for name in ("decoded/a", "features/b", "features/c"):
        path = store.home() / "cache" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(10**7))
    [finding] = findings("caches")
    assert finding.seen == "decoded 0.01 GB, features 0.02 GB; at most 5.0 GB (ZOO_CACHE_GB)"
    monkeypatch.setenv("ZOO_CACHE_GB", "much")
    assert [finding.state for finding in findings("caches")] == ["fail"]


def test_missing_library_fails(findings, monkeypatch):
    monkeypatch.setattr(doctor, "LIBRARIES", ("no-such-library",))
    [finding] = findings("no-such-library")
    assert (finding.state, finding.fix) == ("fail", "pip install no-such-library")


def test_offline_mode_sends_no_requests(findings, monkeypatch, serve):
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


def test_exception_in_a_check_is_a_finding(findings, monkeypatch):
    monkeypatch.setattr(doctor, "LIBRARIES", None)
    [finding] = findings("versions")
    assert "TypeError" in finding.seen
