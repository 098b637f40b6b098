"""tools/bench/small_data.py without data: draws, resuming, paired gains, the page made from the results."""

from __future__ import annotations

import json
import math
import shlex
import sys
from pathlib import Path

import pictures
import pytest
import small_data
import small_report
import small_sets
import small_sides

import zoo

ROOT = Path(__file__).parents[1]


def row(draw, side, accuracy, size=2, name="photos"):
    return {"set": name, "weights": "w", "size": size, "draw": draw, "side": side, "accuracy": accuracy}


@pytest.fixture
def letters(monkeypatch):
    """A data set of 2 classes with 10 and 30 different texts, and a duplicate."""
    texts = {"few": [f"few {i}" for i in range(10)] + ["FEW  1"], "many": [f"many {i}" for i in range(30)]}
    monkeypatch.setitem(small_sets.SETS, "made", small_sets.SmallSet("text", "", "", "", lambda: texts))
    small_sets.split.cache_clear()
    yield small_sets.split("made")
    small_sets.split.cache_clear()


def test_test_examples_are_not_in_the_pool_and_duplicates_are_left_out(letters):
    pool = {text for texts in letters.pool.values() for text in texts}
    test = {text for text, _ in letters.test}
    assert not pool & test
    assert len(pool | test) == 40


def test_draws_are_seeded_and_take_what_there_is(letters):
    assert letters.draw(3, seed=0) == letters.draw(3, seed=0) != letters.draw(3, seed=1)
    counts = [label for _, label in letters.draw(10, seed=0)]
    assert (counts.count("few"), counts.count("many")) == (5, 10)
    assert len(letters.draw(None, seed=0)) == 20
    assert [letters.has(size) for size in (2, 5, 10, 20)] == [True, True, False, False]


def test_gain_is_paired_by_draw():
    found = [row(draw, "logistic", base) for draw, base in enumerate((0.5, 0.7, 0.9))]
    found += [row(draw, "probe", base) for draw, base in enumerate((0.52, 0.72, 0.92))] + [row(9, "probe", 0.1)]
    (sides,) = small_report.accuracies(found).values()
    one = small_report.gain(sides, "probe")
    assert (round(one.mean, 6), round(one.error, 6), one.count) == (2, 0, 3)
    assert small_report.gain(sides, "zoo") is None


def test_mean_gain_weighs_data_sets_equally():
    found = [row(0, "logistic", 0.5, name=name) for name in ("photos", "films")]
    found += [row(0, "probe", 0.6), row(0, "probe", 0.9, name="films")]
    found += [{**row(0, side, value), "weights": "v"} for side, value in (("logistic", 0.5), ("probe", 0.8))]
    one = small_report.mean_gains(found, "probe")[2]
    assert round(one.mean, 6) == 30  # of 20 (10 and 30) and 40
    assert math.isnan(one.error)


def test_a_line_of_the_picture_is_over_the_same_data_sets():
    found = []
    for name, sizes in {"photos": (2, 5, 10, 50), "emoji": (2, 5, 10), "digits": (2,)}.items():
        found += [row(0, side, 0.5, size, name) for size in sizes for side in ("logistic", "probe")]
    means = small_report.same_sets(found, "probe", "image")
    assert {size: one.count for size, one in means.items()} == {2: 2, 5: 2, 10: 2}
    assert small_report.same_sets(found, "zoo", "image") == {}


def test_loss_beyond_chance_is_listed():
    found = [row(draw, "logistic", 0.5) for draw in range(5)]
    found += [row(draw, "probe", 0.4 + draw / 1000) for draw in range(5)]
    assert small_report.losses(found).startswith("- zoo, probe below logistic: photos, `w`, 2 a class: -9.8")
    assert small_report.losses(found[:5]) == "- none"


def test_known_runs_are_skipped_and_a_cut_line_is_not_known(tmp_path):
    path = tmp_path / "results.jsonl"
    whole = json.dumps(row(0, "probe", 0.5))
    path.write_text(f"{whole}\n{whole[:-9]}")
    assert small_data.known(path) == {small_sides.Cell("photos", "w", 2, 0, "probe")}


def test_probe_selects_nothing_on_validation_data(isolated):
    train, test = pictures.pairs(4), pictures.pairs(6, seed=1)
    seen = zoo.load("native/resnet14.letters", "cpu").finetune(train, valid=test, strategy="probe", quiet=True)
    apart = zoo.load("native/resnet14.letters", "cpu").finetune(train, valid=0, test=test, strategy="probe", quiet=True)
    assert seen.metrics == apart.tested
    assert (seen.head.weight == apart.head.weight).all()


def test_shared_features_are_those_of_a_run_alone(isolated):
    train = pictures.pairs(4)
    alone = zoo.load("native/resnet14.letters", "cpu").finetune(train, valid=0, strategy="probe", quiet=True)
    with small_sides.shared_features():
        zoo.load("native/resnet14.letters", "cpu").finetune(train[:5], valid=0, strategy="probe", quiet=True)
        shared = zoo.load("native/resnet14.letters", "cpu").finetune(train, valid=0, strategy="probe", quiet=True)
    assert (shared.head.weight - alone.head.weight).abs().max() < 1e-4


def test_page_is_made_from_the_results():
    page = (ROOT / "docs" / "benchmark.md").read_text()
    assert small_report.page(small_report.rows(small_data.RESULTS), page) == page
    assert page.count("<!-- end -->") == 5


def test_commands_of_the_page_are_understood(monkeypatch):
    block = (ROOT / "docs" / "benchmark.md").read_text().partition("```sh\n")[2].partition("```")[0]
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert [line[:2] for line in lines][-1] == ["make", "bench-small"]
    assert "bench-small:" in (ROOT / "Makefile").read_text()
    did = []
    monkeypatch.setattr(small_data, "run", did.append)
    monkeypatch.setattr(small_report, "write", did.append)
    for line in lines[:-1]:
        monkeypatch.setattr(sys, "argv", line[1:])
        small_data.main()
    assert len(did) == 2
