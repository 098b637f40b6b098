"""Streams: shards read in windows train as data in memory does, resume, hold out rows, and name the row at fault."""

from __future__ import annotations

import io
import json
import os
import tarfile
from itertools import islice
from pathlib import Path

import pandas as pd
import pictures
import pytest
import torch
import words
from PIL import Image
from pyarrow import parquet

import zoo
from zoo.data.examples import Columns
from zoo.data.streaming import iterables, opening
from zoo.data.streaming.scan import choose_columns, scan
from zoo.data.streaming.streamed_dataset import StreamedDataset
from zoo.data.streaming.windows import Limits, Reader, Row
from zoo.errors import DataError, RecipeError
from zoo.finetune import streamed

DATA = [pair for group in zip(*(pictures.pairs(8)[i : i + 8] for i in (0, 8, 16)), strict=True) for pair in group]
"""24 images, one of each class in turn."""
ROWS = [(f"text {number}", number % 3) for number in range(60)]
QUICK = {"strategy": "full", "batch_size": 8, "evals": 1, "quiet": True}


@pytest.fixture
def text_backbone(distribution, tmp_path):
    return words.pretrained(distribution, tmp_path / "weights")


def png(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def shards(folder: Path, count: int = 3, per_shard: int = 8) -> str:
    """Write tar shards of DATA; returns their pattern."""
    for shard in range(count):
        files = {}
        for number, (pixels, label) in enumerate(DATA[shard * per_shard : (shard + 1) * per_shard]):
            files |= {f"{number:03}.png": png(pixels), f"{number:03}.cls": label.encode()}
        write_tar(folder / f"train-{shard:02}.tar", files)
    return f"{folder}/train-{{00..{count - 1:02}}}.tar"


def weights(model) -> dict[str, torch.Tensor]:
    return dict(model.module.state_dict())


def equal(one, other) -> bool:
    found, expected = weights(one), weights(other)
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "strategy", ["scratch", *(pytest.param(s, marks=pytest.mark.real) for s in ("lp-ft", "gradual"))]
)
def test_a_stream_that_fits_into_a_window_trains_to_the_bits_of_memory(strategy, pretrained):
    settings = QUICK | {"strategy": strategy, "steps": 5, "valid": 0}
    streamed = zoo.load(pretrained, "cpu").finetune(lambda: iter(DATA), **settings)
    assert equal(streamed, zoo.load(pretrained, "cpu").finetune(DATA, **settings))


def test_tar_shards_train_and_hold_out_rows(pretrained, tmp_path, capsys):
    pattern = shards(tmp_path / "shards")
    model = zoo.load(pretrained, "cpu").finetune(pattern, strategy="full", steps=6, batch_size=8, evals=1)
    said = capsys.readouterr().out
    assert "24 examples in 3 shards" in said
    assert "5 rows of it held out for validation" in said
    assert model.summary.train == 19
    assert model.summary.valid == 5
    assert model.task.labels == ("blue", "green", "red")
    assert not list((tmp_path / "store").glob("cache/**/*.safetensors"))


def test_no_validation_row_is_trained_on(pretrained, tmp_path):
    seen = set()

    def augment(image):
        seen.add(bytes(image.numpy()))
        return image

    zoo.load(pretrained, "cpu").finetune(shards(tmp_path / "s"), steps=12, augment=augment, shuffle_buffer=8, **QUICK)
    assert len(seen) == 19


def test_stopped_stream_resumes_to_the_same_bits(pretrained, tmp_path):
    class Stop:
        def on_step(self, step, loss):
            if step == 4:
                raise SystemExit

    settings = QUICK | {"steps": 7, "save_every": 0, "shuffle_buffer": 8, "augment": "shift"}
    pattern = shards(tmp_path / "s")
    whole = zoo.load(pretrained, "cpu").finetune(pattern, out=tmp_path / "whole", **settings)
    with pytest.raises(SystemExit):
        zoo.load(pretrained, "cpu").finetune(pattern, out=tmp_path / "cut", callbacks=[Stop()], **settings)
    resumed = zoo.load(pretrained, "cpu").finetune(pattern, out=tmp_path / "cut", resume=True, **settings)
    assert equal(whole, resumed)
    assert whole.history == resumed.history


def test_frozen_stages_of_a_stream_see_more_than_its_first_window(pretrained, monkeypatch):
    """Their activations would be cached of the window that is in memory."""
    served = []
    serve = StreamedDataset.steps
    monkeypatch.setattr(StreamedDataset, "steps", lambda *args: (served.append(step) or step for step in serve(*args)))
    settings = QUICK | {"freeze_stages": 1, "augment": "none", "steps": 3, "valid": 0, "shuffle_buffer": 8}
    zoo.load(pretrained, "cpu").finetune(lambda: DATA, **settings)
    assert sorted(index for _, indices, _ in served for index in indices.tolist()) == list(range(24))


def test_parquet_shards_are_row_groups_with_class_names(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    frame = pd.DataFrame({"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]})
    for name, part in (("train-0", frame[:40]), ("train-1", frame[40:]), ("validation-0", frame[:9])):
        part.to_parquet(folder / f"{name}.parquet", row_group_size=15)
    assert opening.is_stream(folder)
    parts = opening.splits(folder)
    assert {name: [shard.rows for shard in part.shards] for name, part in parts.items()} == {
        "train": [15, 15, 10, 15, 5],
        "validation": [9],
    }
    columns, _ = choose_columns(parts["train"], Columns(), "text")
    found = scan(parts["train"], columns)
    assert (found.counts, set(found.labels), found.totals[1]) == ((15, 15, 10, 15, 5), {0, 1, 2}, 20)
    rows = list(Reader(parts["train"], columns, "text", Limits(1, 1, 1)).shard(3, skip=13))
    assert [(number, row.input, row.name) for number, row in rows] == [
        (13, "text 53", f"{folder}/train-1.parquet:14"),
        (14, "text 54", f"{folder}/train-1.parquet:15"),
    ]


def test_iterable_dataset_of_texts_trains_without_a_scan(text_backbone, capsys):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["good", "bad"])})
    rows = [{"text": text, "label": ["good", "bad"].index(label)} for text, label in words.reviews(40)]
    stream = Dataset.from_list(rows, features=features).to_iterable_dataset(num_shards=4)
    model = zoo.load(text_backbone, "cpu").finetune(
        stream, steps=4, valid=words.reviews(10, 1), **QUICK | {"quiet": False}
    )
    said = capsys.readouterr().out
    assert "scan" not in said
    assert "examples in 4 shards, 2 classes" in said
    assert set(model.task.labels) == {"good", "bad"}


def test_probe_of_a_stream_reads_its_features_from_the_cache(pretrained, tmp_path, capsys):
    pattern = shards(tmp_path / "s")
    settings = QUICK | {"strategy": "probe", "quiet": False, "shuffle_buffer": 8}
    one = zoo.load(pretrained, "cpu").finetune(pattern, **settings)
    assert "19 features computed once" in capsys.readouterr().out
    other = zoo.load(pretrained, "cpu").finetune(pattern, **settings)
    assert "19 features from the feature cache" in capsys.readouterr().out
    assert equal(one, other)
    assert one.metrics["accuracy"] == 1


def test_other_tasks_stream_too(text_backbone):
    reviews = words.reviews(32)
    model = zoo.load(text_backbone, "cpu")
    model.finetune(lambda: [(text, float(len(text))) for text, _ in reviews], steps=3, **QUICK)
    assert model.task.name == "regress"
    model = zoo.load(text_backbone, "cpu")
    model.finetune(lambda: [(text, [label, "x"]) for text, label in reviews], steps=3, **QUICK)
    assert model.task.labels == ("bad", "good", "x")
    model = zoo.load(text_backbone, "cpu")
    model.finetune(lambda: [text for text, _ in reviews], steps=3, task="masked-lm", max_length=8, **QUICK)
    assert model.task.name == "masked-lm"
    tagged = [(text.split(), ["B-X" if word in words.GOOD else "O" for word in text.split()]) for text, _ in reviews]
    streamed, whole = (
        zoo.load(text_backbone, "cpu").finetune(data, task="tag", steps=3, **QUICK | {"valid": 0})
        for data in (lambda: tagged, tagged)
    )
    assert streamed.task.labels == ("O", "B-X")
    assert equal(streamed, whole)


@pytest.mark.parametrize(("how", "valid"), [("weights", 0), ("weights", 0.2), ("logits", 0)])
def test_classes_of_a_stream_are_balanced_by_its_labels(how, valid, pretrained):
    uneven = [pair for index, pair in enumerate(DATA) if pair[1] == "blue" or index < 9]
    settings = QUICK | {"class_balance": how, "steps": 3, "valid": valid}
    streamed, plain = (
        zoo.load(pretrained, "cpu").finetune(lambda: uneven, **settings | more)
        for more in ({"classes": "blue,green,red"}, {"class_balance": "none"})
    )
    assert not equal(streamed, plain)
    if not valid:
        assert equal(streamed, zoo.load(pretrained, "cpu").finetune(uneven, **settings))


def test_labels_in_one_text_are_held_out_one_by_one():
    rows = [(0, number, Row(number, label, "")) for number, label in enumerate(("red|blue", "red", "blue", "red|blue"))]
    kept = streamed._keeping_one_of_each(rows, {"red": 3, "blue": 3}, "multilabel")
    assert [number for _, number, _ in kept] == [0, 1, 2]


def damaged(folder: Path) -> dict[str, tuple[object, str]]:
    """Return data with a fault each, and what the error names."""
    good = {"a.png": png(DATA[0][0]), "a.cls": b"blue", "b.png": png(DATA[1][0]), "b.cls": b"red"}
    cut = write_tar(folder / "cut.tar", good)
    cut.write_bytes(cut.read_bytes()[:3200])
    unlabelled = write_tar(folder / "unlabelled.tar", good | {"c.png": png(DATA[2][0])})
    broken = write_tar(folder / "broken.tar", good | {"c.png": b"no image", "c.cls": b"red"})
    other = write_tar(folder / "other.tar", good | {"c.png": good["a.png"], "c.cls": b"violet"})
    no_tar = folder / "no.tar"
    no_tar.write_bytes(b"x" * 2000)
    return {
        "cut short": (cut, f"{cut}, row 2 (b),"),
        "without label": (unlabelled, f"{unlabelled}:c has no value in label"),
        "broken image": (broken, f"{broken}:c"),
        "unknown class": (other, f"{other}:c: the data has labels that this model does not know: violet"),
        "no tar": (no_tar, f"{no_tar}, row 1 (its first),"),
        "missing": (folder / "x-{0..1}.tar", "x-0.tar does not exist"),
    }


def test_damaged_parquet_and_compressed_tar_name_the_row(text_backbone, tmp_path):
    good = tmp_path / "good.parquet"
    frame = pd.DataFrame({"text": [text for text, _ in words.reviews(40)], "label": ["good", "bad"] * 20})
    frame.to_parquet(good, row_group_size=20, compression="gzip")
    content = bytearray(good.read_bytes())
    begin = parquet.read_metadata(good).row_group(1).column(0).data_page_offset
    content[begin + 40 : begin + 80] = bytes(40)
    rotten, cut, packed = tmp_path / "rotten.parquet", tmp_path / "cut.parquet", tmp_path / "cut.tar.gz"
    rotten.write_bytes(content)
    cut.write_bytes(good.read_bytes()[:-100])
    files = {
        f"{n}.{end}": value for n in range(30) for end, value in (("txt", os.urandom(40).hex().encode()), ("cls", b"a"))
    }
    packed.write_bytes(write_tar(tmp_path / "whole.tar.gz", files).read_bytes()[:-300])
    for data, said in ((rotten, f"{rotten}, row 21,"), (cut, f"{cut}"), (packed, f"{packed}, row ")):
        with pytest.raises(DataError, match=r"cannot be read|is damaged") as caught:
            zoo.load(text_backbone, "cpu").finetune(data, stream=True, steps=2, **QUICK)
        assert said in caught.value.what
        assert caught.value.fix


def test_faults_name_the_shard_and_the_row(pretrained, tmp_path):
    for name, (data, said) in damaged(tmp_path / "bad").items():
        with pytest.raises(DataError) as caught:
            zoo.load(pretrained, "cpu").finetune(data, classes="blue,red", steps=2, valid=0, **QUICK)
        assert said in caught.value.what, name
        assert caught.value.fix


def test_unreadable_images_of_a_stream_are_skipped(pretrained, tmp_path):
    data, _ = damaged(tmp_path / "bad")["broken image"]
    model = zoo.load(pretrained, "cpu").finetune(data, steps=2, valid=0, skip_bad=True, **QUICK)
    assert set(model.task.labels) == {"blue", "red"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"groups": "x"}, "groups='x' needs all examples at once"),
        ({"folds": 3}, "folds=3 needs all examples at once"),
        ({"test": 0.2}, "test=0.2 needs all examples at once"),
        ({"class_balance": "sampler"}, 'class_balance="sampler" draws from all examples'),
        ({"valid": 1.5}, "valid=1.5 is not a share"),
    ],
)
def test_what_streams_do_not_support_says_so(options, said, pretrained):
    with pytest.raises((DataError, RecipeError), match="^" + said.replace("(", r"\(")):
        zoo.load(pretrained, "cpu").finetune(lambda: DATA, steps=2, **QUICK | options)


def test_an_iterator_cannot_be_streamed(pretrained):
    with pytest.raises(DataError, match="can be read once only"):
        zoo.load(pretrained, "cpu").finetune(iter(DATA), stream=True, steps=2, **QUICK)


def test_classes_are_for_streams(pretrained):
    with pytest.raises(RecipeError, match="classes= is for streams"):
        zoo.load(pretrained, "cpu").finetune(DATA, classes="a,b", **QUICK)


def test_numbers_are_sampled_evenly(monkeypatch):
    monkeypatch.setattr("zoo.data.streaming.scan.MOST_NUMBERS", 10)
    source = iterables.of_function(lambda: [("a", float(n)) for n in range(300)], "numbers")
    found = scan(source, Columns(("input",), "label", task="regress"))
    assert list(islice(found.labels, 3)) == [0.0, 32.0, 64.0]
    assert found.rows == 300


def test_small_streams_are_read_as_a_whole(pretrained, tmp_path, monkeypatch):
    pattern = shards(tmp_path / "s")
    model = zoo.load(pretrained, "cpu")
    assert model.evaluate(pattern) == model.evaluate(DATA)
    ranked, expected = (zoo.rank(data, ["native/resnet14.letters"]).rows[0] for data in (pattern, DATA))
    assert ranked.score == expected.score
    given = {"strategies": ["probe"], "sizes": [1.0], "draws": 1, "device": "cpu", "workers": 1}
    compared, expected = (zoo.compare("native/resnet14.letters", data, **given) for data in (pattern, DATA))
    assert [row.mean for row in compared.rows] == [row.mean for row in expected.rows]
    written = [model.report(tmp_path / f"{type(data).__name__}.html", data) for data in (pattern, DATA)]
    assert written[0].findings == written[1].findings
    monkeypatch.setattr("zoo.data.streaming.in_memory.MOST", 20)
    for read in (model.evaluate, lambda data: zoo.rank(data, ["native/resnet14.letters"])):
        with pytest.raises(DataError, match="has more than 20 examples") as caught:
            read(pattern)
        assert "give some of its shards" in caught.value.fix


def test_data_that_is_no_stream_says_what_to_do(pretrained, tmp_path):
    (tmp_path / "x.csv").write_text("image,label\na,b\n")
    (tmp_path / "red").mkdir()
    for data in (tmp_path / "x.csv", tmp_path / "red"):
        with pytest.raises(DataError, match="cannot be streamed") as caught:
            zoo.load(pretrained, "cpu").finetune(data, stream=True, **QUICK)
        assert "leave out stream (--stream)" in caught.value.fix


def test_columns_of_json_and_texts_in_tar_shards(text_backbone, tmp_path):
    files = {}
    for number, (review, label) in enumerate(words.reviews(24)):
        facts = json.dumps({"stars": label, "id": number})
        files |= {f"a/{number}.txt": review.encode(), f"a/{number}.json": facts.encode()}
    data = write_tar(tmp_path / "reviews.tar.gz", files)
    model = zoo.load(text_backbone, "cpu").finetune(data, label="stars", steps=3, **QUICK)
    assert model.task.labels == ("bad", "good")


@pytest.mark.real
def test_dry_run_of_a_stream(pretrained, tmp_path):
    plan = zoo.load(pretrained, "cpu").plan(shards(tmp_path / "s"), strategy="full", steps=3, batch_size=8)
    assert plan.step > 0


def test_one_class_is_not_enough(pretrained):
    with pytest.raises(DataError, match="has one class only, 'blue'; classification needs two"):
        zoo.load(pretrained, "cpu").finetune(lambda: [pair for pair in DATA if pair[1] == "blue"], steps=2, **QUICK)


def test_classes_of_the_command_line_are_numbers_where_labels_are(pretrained):
    numbered = [(pixels, ("blue", "green", "red").index(label)) for pixels, label in DATA]
    model = zoo.load(pretrained, "cpu").finetune(lambda: numbered, classes="0,1,2", steps=2, valid=0, **QUICK)
    assert model.task.labels == (0, 1, 2)
