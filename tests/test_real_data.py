"""tools/real_data.py without network: caching and error messages."""

import sys
from pathlib import Path

import pytest

from zoo.errors import StoreError

TOOLS = Path(__file__).resolve().parents[1] / "tools"


@pytest.fixture
def real_data(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.setenv("ZOO_REAL", str(tmp_path / "cache"))
    import real_data

    return real_data


def test_once_caches_the_result(real_data):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "a.txt").write_text("a")

    assert real_data.once("deb/a", make) == real_data.once("deb/a", make) == real_data.cache() / "deb/a"
    assert (real_data.cache() / "deb/a/a.txt").read_text() == "a"
    assert len(made) == 1


def test_failure_in_once_leaves_no_files(real_data):
    def make(folder):
        (folder / "half.txt").write_text("half")
        raise StoreError("no more", fix="try again")

    with pytest.raises(StoreError):
        real_data.once("a", make)
    assert list(real_data.cache().iterdir()) == []


def test_missing_client_raises(real_data, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreError, match=r"apt-get is not installed") as caught:
        real_data.debian(["fonts-lato"])
    assert "ZOO_REAL" in caught.value.fix


def test_failing_client_raises_with_its_output(real_data, tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('E: no such package')"]
    with pytest.raises(StoreError, match=r"exited 1: E: no such package") as caught:
        real_data._run(command, tmp_path)
    assert caught.value.fix == " ".join(command)


def test_ambiguous_file_pattern_raises(real_data, tmp_path):
    (tmp_path / "one.pth").touch()
    (tmp_path / "two.pth").touch()
    with pytest.raises(StoreError, match=r"expected one \*\.pth in .*, found one\.pth, two\.pth"):
        real_data._only(tmp_path, "*.pth")


def test_mail_text_is_subject_and_body_without_html(real_data):
    raw = "Subject: Win\nReceived: here\nContent-Type: text/html\n\n<p>a  <b>prize</b>\nnow</p>"
    assert real_data._mail_text(raw) == "Win a prize now"


def test_mail_split_is_deterministic_given_the_seed(real_data):
    def make(folder):
        rows = (f'{{"text": "mail {i}", "label": "{"spam" if i % 3 else "ham"}"}}\n' for i in range(1_500))
        (folder / "mails.jsonl").write_text("".join(rows))

    real_data.once("mails", make)
    train, valid = real_data.mail_split()
    assert (len(train), len(valid), len({*train, *valid})) == (400, 1_000, 1_400)
    assert real_data.mail_split() == (train, valid) != real_data.mail_split(1)
