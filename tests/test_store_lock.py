"""Lock files: round trip, concurrent writes, and errors with the line of an invalid lock."""

import threading
import tomllib
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storing import sha256

from zoo import store
from zoo.errors import StoreError
from zoo.plugin import File
from zoo.store import lock

TEXT = st.text(max_size=30)
PATH = st.from_regex(r"[a-z]{1,8}(/[a-zé\"' \n\x7f]{1,8})?", fullmatch=True)
FILE = st.builds(File, PATH, st.binary(max_size=4).map(sha256), st.integers(0, 2**62))
RECEIPT = st.builds(lock.Receipt, TEXT, st.none() | TEXT.filter(bool), st.lists(FILE, max_size=3).map(tuple), TEXT)


@settings(deadline=None)
@given(st.text())
def test_tomllib_parses_quoted_strings_back(text):
    assert tomllib.loads(f"{lock.quote(text)} = {lock.quote(text)}") == {text: text}


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(TEXT, RECEIPT, max_size=3))
def test_a_dumped_lock_is_read_back_unchanged(receipts):
    path = store.home() / "any" / "lock.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lock.dump(receipts), encoding="utf-8", newline="\n")
    assert lock.read(path) == receipts


def test_concurrent_records_are_all_kept(tmp_path):
    path = tmp_path / "lock.toml"
    receipt = lock.Receipt("file:///x", None, (File("a", "0" * 64, 1),), "now")
    threads = [threading.Thread(target=lock.record, args=(path, f"n/{i}", receipt)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(lock.read(path)) == [f"n/{i}" for i in range(8)]
    assert sorted(p.name for p in tmp_path.glob("lock*")) == ["lock.toml"]


def test_a_lock_held_by_another_process_raises_after_the_timeout(tmp_path, monkeypatch):
    import filelock

    monkeypatch.setattr(lock, "WAIT", 0.05)
    store.home().mkdir()
    with (
        filelock.FileLock(lock.guard(tmp_path / "lock.toml")),
        pytest.raises(StoreError, match="by another process") as caught,
    ):
        lock.record(tmp_path / "lock.toml", "n/a", lock.Receipt("file:///x", None, (), "now"))
    assert "zoo pull n/a" in caught.value.fix


def test_a_lock_that_is_no_regular_file_raises():
    path = store.home() / "lock.toml"
    path.mkdir(parents=True)
    with pytest.raises(StoreError, match=r"lock\.toml: cannot be read") as caught:
        store.receipt("n/a")
    assert caught.value.fix == f"mv '{path}' '{path}.bad', then pull again"


def test_an_unreadable_lock_raises(monkeypatch):
    path = store.home() / "lock.toml"
    path.parent.mkdir(parents=True)
    path.touch()
    refused = Mock(side_effect=PermissionError(13, "Permission denied"))  # root may read any file
    monkeypatch.setattr("zoo.store.regular_file.read_bytes", refused)
    with pytest.raises(StoreError, match=r"lock\.toml: cannot be read: Permission denied") as caught:
        store.receipt("n/a")
    assert caught.value.fix == f"chmod u+r '{path}'"


GOOD = f'["n/a"]\nsource = "s"\nwhen = "w"\nfiles = [{{ path = "p", sha256 = "{"0" * 64}", bytes = 1 }}]\n'


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (GOOD + "x = = 1\n", 5, "Invalid value"),
        ("\n\nn = 1\n", 3, '["n"]: must be a table'),
        ("\n" + GOOD.replace("when", "then"), 2, "'when' is missing"),
        (GOOD.replace('"s"', "1"), 1, "source, commit and when must be strings"),
        (GOOD.replace('"p"', '"../p"'), 1, "'../p' must be relative and inside the source"),
        (GOOD.replace("0000", "zz"), 1, "sha256 of p must be 64 lower-case hexadecimal digits"),
        (GOOD.replace("bytes = 1", "bytes = -1"), 1, "bytes of p must be a non-negative integer, not -1"),
        ("\udcff", 1, "codec can't decode"),
    ],
)
def test_an_invalid_lock_raises_with_path_and_line(text, line, message):
    path = store.home() / "lock.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(StoreError) as caught:
        store.receipt("n/a")
    assert caught.value.what.startswith(f"{path}:{line}: ")
    assert message in caught.value.what
    assert f"rm '{path}'" in caught.value.fix
