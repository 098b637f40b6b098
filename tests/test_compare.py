"""zoo compare: draws, sizes, sentences, resumption, and the command; trained nets are tiny."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pictures
import pytest
from click.testing import CliRunner
from commands import run

import zoo
from zoo.cli import main
from zoo.cli.compare import parse_sizes
from zoo.data.examples import Examples
from zoo.errors import DataError, RecipeError, ZooError
from zoo.evidence import learning_curve, sentences
from zoo.evidence.comparison import Comparison, Pair, Row
from zoo.jobs import job as jobs
from zoo.model.demo import digits

FAST = {"steps": 2, "evals": 1, "augment": "none"}
LETTERS = "native/resnet14.letters"


def examples(labels):
    return Examples(list(range(len(labels))), labels, "test")


def test_draws_are_nested_random_and_have_every_class():
    pool = examples(["a"] * 60 + ["b"] * 30 + ["c"] * 3)
    small, large = learning_curve.draw(pool, 9, 0, "classify"), learning_curve.draw(pool, 60, 0, "classify")
    assert set(small) < set(large)
    assert len(set(large)) == 60
    assert learning_curve.draw(pool, 9, 1, "classify") != small
    counts = [[pool.labels[i] for i in drawn].count(label) for drawn in (small, large) for label in "abc"]
    assert counts[:3] == [4, 3, 2]
    assert counts[3:] == pytest.approx([38, 19, 3], abs=1)
    assert {pool.labels[i] for i in learning_curve.draw(pool, 3, 0, "classify")} == {"a", "b", "c"}


def test_draws_of_several_labels_have_all_of_them():
    pool = examples([("a",)] * 50 + [("a", "b"), ()] + [("c",)])
    for seed in range(5):
        assert {51 - 1, 52} <= set(learning_curve.draw(pool, 3, seed, "multilabel"))
    assert learning_curve.draw(examples([(0.5, 1), (1.5, 1), (2.5, 1)]), 2, 0, "regress") == [1, 2]


def test_the_curve_crosses_a_score_between_points_and_at_most_at_twice_the_last():
    curve = [(10, 0.2), (20, 0.4), (40, 0.6)]
    assert sentences.crossing(curve, 0.1) == 10
    assert sentences.crossing(curve, 0.5) == pytest.approx(20 * 2**0.5)
    assert sentences.crossing(curve, 0.7) == pytest.approx(40 * 2**0.5)
    assert sentences.crossing(curve, 0.81) is None
    assert sentences.crossing([(10, 0.5), (20, 0.4)], 0.6) is None
    assert sentences.crossing([(10, 0.5)], 0.6) is None


def row(strategy, size, mean, *, gap=0.1, std=0.02, chosen=None):
    found = {chosen or strategy: 5}
    return Row("net", strategy, size, 5, mean, mean - 0.05, mean + 0.05, 0.04, std, mean + gap, gap, found, 1.0)


def pair(a, b, size, difference, *, half=0.05, p=1e-6):
    return Pair(a, b, size, difference, difference - half, difference + half, p, p, 0.07)


def comparison(scratch, auto, *, metric="accuracy", p=1e-6, half=0.05, pool=40):
    sizes = (10, 20, 40)[: len(scratch)]
    rows = [row("scratch", n, mean) for n, mean in zip(sizes, scratch, strict=True)]
    rows += [row("auto", n, mean) for n, mean in zip(sizes, auto, strict=True)]
    pairs = [pair("scratch", "auto", n, s - a, p=p, half=half) for n, s, a in zip(sizes, scratch, auto, strict=True)]
    return Comparison("classify", metric, "data", pool, 100, 0, tuple(rows), tuple(pairs))


def test_sentences_where_transfer_pays():
    said = list(sentences.of(comparison([0.2, 0.4, 0.6], [0.5, 0.7, 0.8])))
    assert said[0] == (
        "transfer pays here: auto against scratch is +20.0 points at 40 examples (95 % interval +15.0 to +25.0, "
        "p < 0.001), +30.0 points at 20, +30.0 points at 10"
    )
    assert said[1] == (
        "scratch would need about 2.8 times the data: some 28 examples for what auto reaches with 10 (0.500); "
        "measured up to 40"
    )
    assert "scratch 10.0 points, auto 10.0 points" in said[2]
    assert "another draw of 20 training examples moves the score of auto by 2.0 points" in said[3]
    assert "the choice of 100 test items moves it by ±4.0 points" in said[3]


def test_sentences_extrapolate_to_twice_the_data_at_most():
    extrapolated = list(sentences.of(comparison([0.2, 0.4, 0.6], [0.7, 0.7, 0.8])))[1]
    assert "about 5.7 times the data: some 57 examples" in extrapolated
    assert extrapolated.endswith("measured up to 40 and extrapolated")
    beyond = list(sentences.of(comparison([0.2, 0.3, 0.4], [0.9, 0.9, 0.9])))[1]
    assert beyond == (
        "scratch would need more than 4.0 times the data: 40 examples do not reach what auto reaches with 10 (0.900), "
        "nor does its trend at 80"
    )
    unlike = comparison([0.2, 0.3, 0.4], [0.9, 0.9, 0.9])
    only_last = replace(
        unlike, pairs=tuple(replace(pair, low=-1.0, high=1.0) for pair in unlike.pairs[:2]) + unlike.pairs[2:]
    )
    assert (
        "scratch would need more data: with 40 it scores 0.400, auto 0.900; its trend does not reach that at 80"
        in sentences.of(only_last)
    )
    alone = comparison([0.2], [0.9])
    assert "scratch would need more data: with 10 it scores 0.200, auto 0.900; more were not measured" in sentences.of(
        alone
    )


def test_sentences_where_nothing_can_be_shown_or_transfer_does_harm():
    unclear = list(sentences.of(comparison([0.7, 0.8, 0.8], [0.71, 0.81, 0.82], p=0.3)))
    assert unclear[0] == (
        "no difference can be shown between auto and scratch at 40 examples: +2.0 points (95 % interval -3.0 to +7.0, "
        "p = 0.300); a true difference of 7.0 points would be found in 80 % of such comparisons"
    )
    assert not any("pays" in each or "times the data" in each for each in unclear)
    wide = list(sentences.of(comparison([0.5, 0.5, 0.5], [0.7, 0.7, 0.7], half=0.3)))
    assert wide[0].startswith("no difference can be shown")  # p alone is of other items, not of other draws
    assert "p < 0.001); beyond chance with these training examples, but others may turn it; a true" in wide[0]
    worse = list(sentences.of(comparison([0.7, 0.8, 0.9], [0.5, 0.6, 0.7])))
    assert worse[0].startswith("transfer does harm here: auto against scratch is -20.0 points at 40 examples")
    assert not any("times the data" in each for each in worse)


def test_a_comparison_too_small_for_any_difference_says_so():
    far = pair("auto", "scratch", 10, 0.2, half=1.0)
    assert sentences.of_pair(replace(far, detectable=1.3), "accuracy", "at 10 examples").endswith(
        "so few items or draws cannot show any difference reliably"
    )


def test_lower_is_better_for_errors():
    said = list(sentences.of(comparison([5.0, 4.0, 3.0], [3.5, 3.0, 2.5], metric="mae")))
    assert said[0].startswith("transfer pays here: auto against scratch is -0.5 (mae) at 40 examples")
    assert "about 2.8 times the data" in said[1]


@pytest.fixture
def compare(isolated):
    """Return a function that compares two strategies on tiny pictures."""
    data = pictures.folder(isolated / "pictures", 8)
    given = {"strategies": ["scratch", "probe"], "sizes": [0.5, 1], "draws": 2, "workers": 1, "device": "cpu", **FAST}
    return lambda **more: zoo.compare(LETTERS, data, **given | more)


def test_comparison_is_reproducible_and_goes_on_where_it_was_stopped(compare, monkeypatch):
    real, done = learning_curve.measure, []

    def stopped(*args, **arguments):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(arguments["place"])
        return real(*args, **arguments)

    monkeypatch.setattr(learning_curve, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        compare()
    assert len(list(jobs.folder().glob("*.json"))) == 3
    monkeypatch.setattr(learning_curve, "measure", real)
    found = compare()
    assert len(list(jobs.folder().glob("*.json"))) == 8
    assert (found.pool, found.test, found.sizes, found.metric) == (12, 12, (6, 12), "accuracy")
    assert [(each.strategy, each.size) for each in found.rows] == [
        ("scratch", 6),
        ("scratch", 12),
        ("probe", 6),
        ("probe", 12),
    ]
    assert all(each.low <= each.mean <= each.high and each.draws == 2 for each in found.rows)
    assert [(each.a, each.b, each.size) for each in found.pairs] == [("scratch", "probe", 6), ("scratch", "probe", 12)]
    for path in jobs.folder().glob("*.json"):
        if '"scratch"' in path.read_text():
            path.unlink()
    again = compare()
    assert [each.mean for each in again.rows] == [each.mean for each in found.rows]
    assert again.pairs == found.pairs


def test_gap_is_that_of_the_examples_trained_on(compare):
    found = compare(draws=1, sizes=[12])
    result = json.loads(
        next(path for path in jobs.folder().glob("*.json") if '"probe"' in path.read_text()).read_text()
    )
    probe = found.row(LETTERS, "probe", 12)
    assert probe.mean == pytest.approx(np.mean(result["value"]["scores"]))
    assert probe.gap == pytest.approx(result["value"]["train"] - probe.mean)
    assert probe.draws_std is None
    assert "one draw" in found.sentences[-1]


def test_command_prints_table_and_sentences_and_writes_picture_and_json(isolated):
    pictures.folder(isolated / "pictures", 6)
    arguments = ["compare", LETTERS, "pictures", "--strategies", "scratch,probe", "--sizes", "1", "--draws", "1"]
    arguments += ["--workers", "1", "--device", "cpu", *(f"--set={k}={v}" for k, v in FAST.items())]
    shown = run(*arguments)
    lines = shown.splitlines()
    assert lines[0].startswith(
        "compare   pictures: 9 training examples, 9 test items -> classify, accuracy; 1 draw of 9"
    )
    assert any(line.split()[:2] == ["9", "probe"] for line in lines)
    assert "gap: training minus test score" in shown
    assert lines[-1] == "compare-pictures.png, compare-pictures.json"
    assert Path("compare-pictures.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in Path().iterdir()) == [
        "compare-pictures.json",
        "compare-pictures.png",
        "pictures",
    ]
    document = json.loads(Path("compare-pictures.json").read_text())
    assert set(document) >= {"rows", "pairs", "sentences"}
    assert set(document["rows"][0]) >= {"backbone", "strategy", "size", "draws", "mean", "low", "high", "gap"}
    assert set(document["pairs"][0]) >= {"a", "b", "difference", "low", "high", "p"}
    printed = json.loads(run(*arguments, "--json"))
    assert {**printed, "out": None} == {**document, "out": None}


def test_own_test_part_of_the_data_is_the_test_items(isolated):
    pictures.folder(isolated / "data/train", 4)
    pictures.folder(isolated / "data/test", 2, seed=1)
    source = learning_curve.Data(isolated / "data")
    found = learning_curve.design(source, zoo.info(LETTERS), [1], 1, 0)
    assert (len(found.pool), len(found.test)) == (12, 6)
    shared = learning_curve.design(learning_curve.Data(isolated / "data", 0.25), zoo.info(LETTERS), [1], 1, 0)
    assert (len(shared.pool), len(shared.test)) == (9, 3)
    iterator = iter(pictures.pairs(4))
    assert len(learning_curve.design(learning_curve.Data(iterator), zoo.info(LETTERS), [1], 1, 0).test) == 6


def test_near_duplicates_of_test_items_are_counted(isolated):
    pairs = pictures.pairs(4)
    found = zoo.compare(LETTERS, [*pairs, *pairs], strategies=["probe"], sizes=[1], draws=1, device="cpu", workers=1)
    assert found.leaked > 0
    assert found.sentences[-1].startswith(f"{found.leaked} of 12 test items have a near-duplicate among the training")


@pytest.mark.parametrize("task", ["regress", "multilabel"])
def test_several_numbers_or_labels_are_compared(isolated, task):
    pairs = list(enumerate(pictures.pairs(8)))
    labels = {"regress": lambda i, _: (i % 7 + 0.5, i + 0.25), "multilabel": lambda i, name: [name, "odd"][: 1 + i % 2]}
    data = [(image, labels[task](i, name)) for i, (image, name) in pairs]
    found = zoo.compare(LETTERS, data, strategies=["probe"], sizes=[8], draws=1, device="cpu", workers=1, task=task)
    assert found.metric == {"regress": "mae", "multilabel": "example_f1"}[task]
    assert found.rows[0].low < found.rows[0].mean < found.rows[0].high


def test_wrong_arguments_are_explained(isolated):
    data = pictures.folder(isolated / "pictures", 4)
    for arguments, error, what in (
        ({"sizes": [1000]}, DataError, "size 1000 is more than the 6 examples that there are beside the test items"),
        ({"sizes": [2]}, DataError, "size 2 is 2 examples: fewer than needed to have each label, 3"),
        ({"sizes": [-1]}, RecipeError, "size -1 is neither a share up to 1 nor a number"),
        ({"sizes": [7.5]}, RecipeError, "size 7.5 is neither"),
        ({"sizes": []}, RecipeError, "no sizes"),
        ({"draws": 0}, RecipeError, "draws=0 is not a whole number above 0"),
        ({"strategies": ["magic"]}, RecipeError, "magic"),
        ({"strategies": []}, RecipeError, "no strategies"),
        ({"test": 1.5}, DataError, "test=1.5 is not a share"),
    ):
        with pytest.raises(error, match=what):
            zoo.compare(LETTERS, data, device="cpu", workers=1, **arguments)
    with pytest.raises(RecipeError, match="no backbone"):
        zoo.compare([], data)
    net = pictures.catalogue(isolated)
    with pytest.raises(ZooError, match=rf"{net}, probe, 6 examples, draw 1: ") as raised:
        zoo.compare(net, data, strategies=["probe"], sizes=[1], draws=1, device="cpu", workers=1)
    assert "scratch" in raised.value.fix
    assert "fix: --sizes 1/8" in run("compare", LETTERS, data, "--sizes", "x", code=1)
    assert "does not exist\nfix: mkdir -p no" in run("compare", LETTERS, data, "--out", "no/where", code=1)
    assert CliRunner().invoke(main, ["compare", LETTERS, "nowhere"]).exit_code == 1


@pytest.mark.real
def test_two_processes_give_the_bits_of_one_and_transfer_pays_on_digits():
    given = {"strategies": ["scratch", "probe"], "sizes": [20], "draws": 3, "device": "cpu", "steps": 30}
    found = zoo.compare(LETTERS, digits(), workers=2, test=400 / 1797, **given)
    for path in jobs.folder().glob("*.json"):
        path.unlink()
    again = zoo.compare(LETTERS, digits(), workers=1, test=400 / 1797, **given)
    assert [(row.mean, row.low, row.high, row.train) for row in found.rows] == [
        (row.mean, row.low, row.high, row.train) for row in again.rows
    ]
    assert found.pairs == again.pairs
    assert found.sentences[0].startswith("transfer pays here: probe against scratch is +")


def test_sizes_are_shares_or_numbers():
    assert parse_sizes("1/8, 0.5,1,200") == [0.125, 0.5, 1, 200]
