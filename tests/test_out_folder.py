"""Output folders: one process at a time, any name, no finished training lost."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
from pathlib import Path

import pictures
import pytest

import zoo
from zoo.errors import ArtefactError, RecipeError, ZooError
from zoo.finetune import strategies
from zoo.finetune.runtime import workers
from zoo.model import artefact
from zoo.store import out_folder

DATA = pictures.pairs(4)
PROBE = {"strategy": "probe", "l2": 0.1}


@pytest.fixture
def during(monkeypatch):
    """Return a function whose argument is called after the training, before the model is saved."""

    def install(action):
        run = strategies.run

        def wrapped(*arguments):
            outcome = run(*arguments)
            action()
            return outcome

        monkeypatch.setattr(strategies, "run", wrapped)

    return install


def test_second_run_to_one_folder_raises_at_once(pretrained, tmp_path):
    raised, out = [], tmp_path / "m"

    def check():
        with pytest.raises(ArtefactError) as caught:
            out_folder.check_free(out)
        raised.append(caught.value)

    with out_folder.claim(out):
        thread = threading.Thread(target=check)
        thread.start()
        thread.join()
    assert "another process trains or saves to" in raised[0].what
    assert f"--out {out}-2" in raised[0].fix
    assert list(tmp_path.iterdir()) == [tmp_path / "work"]


def test_lock_ends_with_its_process(tmp_path):
    def hold(out: Path) -> None:
        with out_folder.claim(out):
            (out_folder.working(out) / "saved").mkdir()
            os._exit(1)

    child = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path / "m",))
    child.start()
    child.join()
    assert (tmp_path / "m.unfinished" / "saved").exists()
    with out_folder.claim(tmp_path / "m"):
        assert not (tmp_path / "m.unfinished" / "saved").exists()
    assert not (tmp_path / "m.unfinished").exists()


def test_two_names_of_one_folder_share_the_lock(tmp_path):
    (tmp_path / "link").symlink_to("m")
    with out_folder.claim(tmp_path / "link"):
        assert out_folder.working(tmp_path / "m").exists()
        assert not out_folder.is_claimed(tmp_path / "m")  # by this thread


def test_files_of_the_user_in_the_working_folder_are_kept(pretrained, tmp_path):
    (tmp_path / "m.unfinished").mkdir()
    (tmp_path / "m.unfinished" / "notes.txt").write_text("mine")
    zoo.load(pretrained, "cpu").finetune(DATA, out=tmp_path / "m", **PROBE)
    assert [path.name for path in (tmp_path / "m.unfinished").iterdir()] == ["notes.txt"]


def test_model_is_saved_beside_a_folder_that_was_created_meanwhile(pretrained, tmp_path, during):
    def interfere():
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "thesis.txt").write_text("mine")

    during(interfere)
    with pytest.raises(ArtefactError, match=r"created by another program.*saved to .*m-2\nfix: zoo predict"):
        zoo.load(pretrained, "cpu").finetune(DATA, out=tmp_path / "m", **PROBE)
    assert zoo.load(tmp_path / "m-2", "cpu").predict(DATA[0][0]).label == "blue"
    assert not (tmp_path / "m.unfinished").exists()


def test_model_is_saved_though_its_parent_was_removed_meanwhile(pretrained, tmp_path, during):
    def interfere():
        shutil.rmtree(tmp_path / "runs")

    during(interfere)
    zoo.load(pretrained, "cpu").finetune(DATA, out=tmp_path / "runs" / "m", **PROBE)
    assert artefact.is_saved(tmp_path / "runs" / "m")


def test_files_of_the_backbone_are_copied_before_the_training(serve, tmp_path, during):
    import tiny
    import words

    serve(bert=tiny.repository("bert"))
    model = zoo.load("hf/tiny/bert", "cpu")
    during(lambda: [path.unlink() for path in model.files.values()])
    model.finetune(words.reviews(8), out=tmp_path / "m", **PROBE)
    assert (tmp_path / "m" / "tokenizer.json").exists()


def test_existing_empty_folder_keeps_its_identity_and_mode(pretrained, tmp_path):
    out = tmp_path / "mounted"
    out.mkdir(mode=0o700)
    before = out.stat()
    zoo.load(pretrained, "cpu").finetune(DATA, out=out, **PROBE)
    assert (out.stat().st_ino, out.stat().st_mode) == (before.st_ino, before.st_mode)
    assert artefact.is_saved(out)


@pytest.mark.parametrize(("umask", "folder", "file"), [(0o077, 0o700, 0o600), (0o002, 0o775, 0o664)])
def test_saved_folder_honours_the_umask(pretrained, tmp_path, umask, folder, file):
    before = os.umask(umask)
    try:
        zoo.load(pretrained, "cpu").finetune(DATA, out=tmp_path / "m", **PROBE)
    finally:
        os.umask(before)
    assert (tmp_path / "m").stat().st_mode & 0o777 == folder
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "m").iterdir()} == {file}


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\nb", b"\x1b[31m", b"n" * 244])
def test_model_with_any_name_loads(pretrained, tmp_path, name):
    out = tmp_path / os.fsdecode(name)
    zoo.load(pretrained, "cpu").finetune(DATA, out=out, **PROBE)
    assert zoo.load(out, "cpu").predict(DATA[0][0]).label == "blue"
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "\x1b" not in card


@pytest.mark.parametrize("name", ["n" * 246, "a\0b"])
def test_impossible_name_raises_before_the_training(pretrained, tmp_path, name):
    with pytest.raises(ArtefactError, match=r"cannot be created: .*\nfix: --out"):
        zoo.load(pretrained, "cpu").finetune(DATA, out=tmp_path / name, **PROBE)


def test_label_that_could_not_be_loaded_raises_before_the_training(pretrained, tmp_path, during):
    during(lambda: pytest.fail("trained"))
    data = [(pixels, 10**4200 if name == "red" else 1) for pixels, name in DATA]
    with pytest.raises(ZooError, match=r"could not be loaded: .*\nfix: rename the labels"):
        zoo.load(pretrained, "cpu").finetune(data, task="classify", out=tmp_path / "m", **PROBE)
    assert list(tmp_path.iterdir()) == [tmp_path / "work"]


@pytest.mark.parametrize("label", [10**21, os.fsdecode(b"caf\xe9")])
def test_odd_labels_are_saved(pretrained, tmp_path, label):
    data = [(pixels, label if name == "red" else 1 if isinstance(label, int) else name) for pixels, name in DATA]
    zoo.load(pretrained, "cpu").finetune(data, task="classify", out=tmp_path / "m", **PROBE)
    assert label in zoo.load(tmp_path / "m", "cpu").task.labels


def test_second_thread_that_trains_raises(pretrained):
    raised = []
    model = zoo.load(pretrained, "cpu")
    before = workers.threads()

    def train():
        with pytest.raises(RecipeError) as caught:
            model.finetune(DATA, **PROBE)
        raised.append(caught.value)

    with workers.one_thread_each():
        thread = threading.Thread(target=train)
        thread.start()
        thread.join()
        with workers.one_thread_each():  # of the same thread
            assert workers.threads() == before
    assert "another thread of this process trains" in raised[0].what
    assert workers.threads() == before
    assert workers._allotted is None
    model.finetune(DATA, **PROBE)


def test_parallel_workers_have_their_threads_whatever_others_set(monkeypatch):
    import torch

    monkeypatch.setattr(workers, "_allotted", 2)
    iterator = workers.parallel(lambda _: torch.get_num_threads(), range(2))
    other = threading.Thread(target=torch.set_num_threads, args=(3,))
    before = torch.get_num_threads()
    try:
        other.start()
        other.join()
        assert list(iterator) == [1, 1]
    finally:
        torch.set_num_threads(before)
