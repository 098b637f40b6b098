"""The caches of the store: a common size limit, the least recently used entry goes first, one in use stays."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pictures
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo import store
from zoo.cli import main
from zoo.data import decode_cache
from zoo.data.decode_cache import decode, estimate
from zoo.data.examples import Examples
from zoo.data.reading import read
from zoo.errors import StoreError
from zoo.plugin import ImageInput
from zoo.store import cache_file, caches, file_locks

SPEC = ImageInput(8, (0.5,) * 3, (0.5,) * 3)


def add(name: str, size: int, age: int = 0) -> Path:
    """Add an entry of `size` bytes, last used `age` seconds before the others."""
    path = store.home() / "cache" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (1_000_000 - age,) * 2)
    return path


def names() -> list[str]:
    return sorted(each.path.name for each in caches.entries())


def allow(monkeypatch, size: int) -> None:
    monkeypatch.setenv("ZOO_CACHE_GB", str(size / 1e9))


def save(name: str, tensor: torch.Tensor) -> Path:
    path = caches.folder("features") / name
    cache_file.write(path, {"values": tensor})
    return path


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=6),
    st.integers(0, 30),
    st.integers(0, 12),
    st.permutations(range(6)),
)
def test_the_oldest_unused_entries_go_until_the_rest_fits(found, most, needed, ages):
    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.ExitStack() as stack:
        caches.clear()
        allow(monkeypatch, most)
        sizes, unused = {}, []
        for index, (size, used) in enumerate(found):
            path = add(f"a{index % 2}/{index}", size, ages[index])
            sizes[path] = size
            if used:
                file_locks.share(stack.enter_context(path.open("rb")).fileno())
            else:
                unused.append(path)
        unused.sort(key=lambda path: -ages[int(path.name)])
        fits = caches.make_room(needed)
        gone = [path for path in sizes if not path.exists()]
        left = sum(size for path, size in sizes.items() if path not in gone)
        assert fits == (left + needed <= most)
        assert set(gone) == set(unused[: len(gone)])  # the oldest ones, none in use
        if gone:
            assert left + sizes[unused[len(gone) - 1]] + needed > most  # and no more than needed
        if not fits:
            assert gone == [] if needed > most else set(gone) == set(unused)


def test_the_default_limit_is_a_share_of_the_disk_that_is_free_or_cached(monkeypatch):
    usage = caches.shutil.disk_usage("/")._replace(free=3000)
    monkeypatch.setattr(caches.shutil, "disk_usage", lambda path: usage)
    assert caches.limit(1000) == 1000
    add("features/a", 600, age=1)
    add("features/b", 400)
    assert caches.make_room(100)
    assert names() == ["b"]


@pytest.mark.parametrize("text", ["lots", "-1", "nan", "inf"])
def test_an_invalid_limit_raises(monkeypatch, text):
    monkeypatch.setenv("ZOO_CACHE_GB", text)
    with pytest.raises(StoreError, match=f"ZOO_CACHE_GB={text} is not a size in GB") as raised:
        caches.folder("features")
    assert raised.value.fix == "export ZOO_CACHE_GB=20, or unset ZOO_CACHE_GB"


def test_an_entry_larger_than_the_limit_evicts_nothing_and_is_not_kept(monkeypatch):
    add("features/a", 500)
    allow(monkeypatch, 5000)
    save("b", torch.zeros(9000))
    assert names() == ["a"]


def test_reading_an_entry_makes_it_the_most_recently_used(monkeypatch):
    first, second = save("a", torch.zeros(500)), save("b", torch.ones(500))
    for age, path in enumerate((second, first)):
        os.utime(path, (1_000_000 - age,) * 2)
    cache_file.read(first)
    allow(monkeypatch, 6500)
    assert caches.make_room(0)
    save("c", torch.ones(500))
    assert names() == ["a", "c"]


def test_an_entry_is_in_use_as_long_as_a_tensor_shares_its_memory():
    path = save("a", torch.arange(4.0))
    row = cache_file.read(path)["values"][2:]
    assert caches.clear() == 0
    assert row.tolist() == [2.0, 3.0]
    del row
    gc.collect()
    assert caches.clear() > 0
    assert names() == []


USE = """
import sys
from pathlib import Path
from zoo.store import cache_file, caches
kept = cache_file.read(Path(sys.argv[1])) if sys.argv[2] == "file" else caches.hold(Path(sys.argv[1]))
print("ready", flush=True)
input()
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_entry_that_another_process_uses_stays_until_it_is_killed(kind, tmp_path):
    path = save("a", torch.arange(4.0)) if kind == "file" else store.home() / "cache" / "datasets" / "a"
    with subprocess.Popen(
        [sys.executable, "-c", USE, path, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        assert caches.clear() == 0
        assert path.exists()
        process.send_signal(signal.SIGKILL)
    caches.clear()
    assert names() == []


def test_tensors_of_any_dtype_and_shape_are_read_as_written():
    found = {
        "pixels": torch.tensor([1, 2, 3], dtype=torch.uint8),
        "counts": torch.tensor([[5, 6]]),
        "values": torch.randn(2, 3, dtype=torch.float32).bfloat16(),
        "none": torch.empty(0, 4),
    }
    path = caches.folder("features") / "a"
    cache_file.write(path, found)
    again = cache_file.read(path)
    assert again.keys() == found.keys()
    assert all(torch.equal(again[name], tensor) and again[name].dtype == tensor.dtype for name, tensor in found.items())


def zeros(content: bytes) -> bytes:
    """Return a file as a power failure leaves it: of full length, with a page of zeros."""
    return content[:1100] + bytes(len(content) - 1100)


def without_digest(content: bytes) -> bytes:
    return content.replace(b'"sha256"', b'"sha257"')


DAMAGE = {
    "zeros": zeros,
    "a flipped bit": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "another name": lambda content: content.replace(b'"values"', b'"valuez"').replace(b'"pixels"', b'"pixelz"'),
    "cut": lambda content: content[:-1],
    "longer": lambda content: content + b"0",
    "empty": lambda content: b"",
    "noise": lambda content: b"\xff" * 2000,
    "no digest": without_digest,
    "metadata null": lambda content: content[:8] + b'{"__metadata__":null}'.ljust(1016) + content[1024:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_deleted_with_a_message(damage, capsys):
    path = save("a", torch.arange(100.0))
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert cache_file.read(path) is None
    assert not path.exists()
    assert capsys.readouterr().out == f"cache     {path} is damaged: its content is computed again\n"


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_decoded_images_are_decoded_again(tmp_path, damage):
    examples, _ = read(pictures.folder(tmp_path / "pictures", 2))
    cache = store.home() / "cache" / "decoded"
    first = decode(examples, SPEC, cache, skip_bad=False, advance=lambda count: None)
    expected = first.flat.clone()
    del first
    [path] = cache.iterdir()
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    again = decode(examples, SPEC, cache, skip_bad=False, advance=lambda count: None)
    assert torch.equal(again.flat, expected)


WRITE = """
import os, signal
import torch
from zoo.store import cache_file, caches
writer = cache_file.Writer(caches.folder("features") / "a")
writer.append(torch.zeros(1000))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_part_of_a_killed_process_is_deleted_by_the_next_one_and_no_other():
    with cache_file.Writer(caches.folder("features") / "b") as writer:
        subprocess.run([sys.executable, "-c", WRITE], check=False)
        assert len(names()) == 2
        save("c", torch.zeros(3))
        assert names() == [writer.part.name, "c"]
    assert names() == ["c"]


def test_threads_that_write_read_and_evict_at_once_only_lose_time(monkeypatch):
    allow(monkeypatch, 10_000)
    errors = []

    def work(seed: int) -> None:
        try:
            for step in range(30):
                number = (seed * 7 + step) % 5
                found = cache_file.read(caches.folder("features") / str(number))
                if found is None:
                    save(str(number), torch.full((700,), float(number)))
                else:
                    assert torch.equal(found["values"], torch.full((700,), float(number)))
        except Exception as error:  # noqa: BLE001  # raised in the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    gc.collect()
    assert caches.make_room(0)
    assert 0 < sum(each.bytes for each in caches.entries()) <= 10_000


@pytest.fixture
def images(tmp_path):
    data, _ = read(pictures.folder(tmp_path / "data", 2))
    return data


def decoded(data):
    return decode(data, SPEC, caches.folder("decoded"), skip_bad=False, advance=lambda done: None)


@pytest.mark.parametrize("write", range(9))  # room for the header, six images, their shapes; the header
def test_a_full_disk_keeps_decoded_images_in_memory(images, monkeypatch, write):
    expected = decode(images, SPEC, None, skip_bad=False, advance=lambda done: None)
    calls = iter(range(100))

    def fill(file, values):
        if next(calls) == write:
            file.write(values[:5])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file.write(values)

    monkeypatch.setattr(cache_file, "_write", fill)
    found = decoded(images)
    assert torch.equal(found.flat, expected.flat)
    assert found.shapes == expected.shapes
    assert names() == []


def test_a_store_that_cannot_be_written_keeps_decoded_images_in_memory(images):
    expected = decode(images, SPEC, None, skip_bad=False, advance=lambda done: None)
    store.home().write_text("a file, so that no folder can be created")
    assert torch.equal(decoded(images).flat, expected.flat)
    save("a", torch.zeros(3))


def test_decoded_images_are_used_but_not_kept_beyond_the_limit(images, monkeypatch):
    expected = decode(images, SPEC, None, skip_bad=False, advance=lambda done: None)
    allow(monkeypatch, 0)
    assert torch.equal(decoded(images).flat, expected.flat)
    assert names() == []


def test_an_unreadable_image_leaves_no_part(images):
    Path(images.inputs[-1]).write_bytes(b"broken")
    with pytest.raises(Exception, match="not a readable image"):
        decoded(images)
    assert names() == []


def test_scratch_has_no_name_and_needs_room_on_the_disk(monkeypatch):
    found = cache_file.scratch("activations", 10)
    found[3] = 7
    assert found.tolist() == [0, 0, 0, 7, 0, 0, 0, 0, 0, 0]
    assert names() == []
    with pytest.raises(OSError, match=r"No space left|too large"):
        cache_file.scratch("activations", 1 << 60)
    assert names() == []


def test_gc_empties_the_caches_but_not_what_is_in_use():
    add("autotune/a.json", 10)
    add("datasets/b/c.arrow", 10)
    path = save("a", torch.zeros(3))
    found = cache_file.read(path)
    assert CliRunner().invoke(main, ["gc"]).output == "freed 0 bytes\n"
    size = path.stat().st_size
    output = CliRunner().invoke(main, ["gc", "--caches"]).output
    assert output == f"freed 20 bytes\nkept {size / 1e3:.1f} kB of cached data that is in use or read-only\n"
    assert names() == ["a"]
    del found


def test_gc_deletes_no_file_that_a_symbolic_link_leads_to(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    folder = caches.folder("features")
    folder.mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "mine")
    caches.clear()
    assert (tmp_path / "mine" / "file").exists()


def test_images_without_room_are_decoded_for_each_batch(tmp_path, monkeypatch, pretrained, capsys):
    folder = pictures.folder(tmp_path / "pictures", 8)
    (folder / "red" / "bad.png").write_bytes(b"no image")
    settings = {"strategy": "full", "steps": 3, "batch_size": 8, "evals": 1, "skip_bad": True}
    usual = zoo.load(pretrained, "cpu").finetune(folder, **settings)
    caches.clear()
    capsys.readouterr()
    monkeypatch.setattr(decode_cache, "IN_MEMORY", 1_000)
    allow(monkeypatch, 10_000)
    other = zoo.load(pretrained, "cpu").finetune(folder, **settings)
    assert "images are decoded for each batch" in capsys.readouterr().out
    assert not list(caches.folder("decoded").glob("*"))
    assert other.history == usual.history
    assert other.summary.skipped == 1


def test_the_estimate_of_pixels_knows_the_crop_and_the_shape(monkeypatch):
    monkeypatch.setattr(decode_cache, "IN_MEMORY", 1_000)
    wide = Examples([np.zeros((40, 80, 3), np.uint8)] * 40, ["x"] * 40, "data")
    spec = ImageInput(16, (0.5,) * 3, (0.5,) * 3, crop=0.8)
    assert estimate(wide, spec) == 40 * 3 * 20 * 40


def test_many_images_in_memory_are_decoded_into_a_file(monkeypatch):
    monkeypatch.setattr(decode_cache, "IN_MEMORY", 1_000)
    arrays = Examples([np.full((20, 20, 3), n, np.uint8) for n in range(9)], ["x"] * 9, "data")
    found = decoded(arrays)
    assert [int(image[0, 0, 0]) for image in found.images()] == list(range(9))
    assert not list(caches.folder("decoded").glob("*"))
