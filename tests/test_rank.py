"""Ranking: the funnel, rank groups, the recommendation, resuming, failures, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pictures
import pytest
from click.testing import CliRunner

import zoo
from zoo.cli import main
from zoo.data.examples import Columns, Examples
from zoo.errors import DataError, NameNotFound, RecipeError, ZooError
from zoo.evidence import candidates, finals, subsets, verdict
from zoo.evidence.candidates import Limits
from zoo.evidence.verdict import Row
from zoo.finetune.features import feature_cache
from zoo.jobs.job import Answer, Job, Result
from zoo.plugin import File

COLOURS = ("blue", "green", "red", "grey")


def noisy(per_class: int = 4) -> list:
    """Return images of colours of which some have the label of another one."""
    pairs = pictures.pairs(per_class, COLOURS)
    return [(image, "red" if index % 5 == 0 else label) for index, (image, label) in enumerate(pairs)]


@pytest.fixture
def catalogue(isolated, pretrained):
    """Add a pre-trained net, two random ones and one without its file to the catalogue; returns their names."""
    rows = f'["tiny/colours"]\nsaved = "{pretrained}"\n'
    rows += '["tiny/lost"]\nplugin = "native"\nmodality = "image"\nsource = "file:///nowhere"\n'
    rows += 'files = [{ path = "model.safetensors" }]\ninput = { size = 16, mean = [0.5], std = [0.5] }\n'
    Path("zoo.toml").write_text(rows + 'options = { arch = "resnet14" }\n')
    return ["tiny/colours", pictures.catalogue(isolated, "a"), pictures.catalogue(isolated, "b", 20), "tiny/lost"]


def test_ranking_of_colours(catalogue, capsys):
    found = zoo.rank(noisy(), catalogue, workers=1)
    by_name = {row.name: row for row in found.rows}
    assert by_name["tiny/lost"] == found.rows[-1]
    assert "nowhere" in by_name["tiny/lost"].error
    measured = found.rows[:-1]
    assert {row.name for row in measured} == set(catalogue) - {"tiny/lost"}
    assert [row.group for row in measured] == sorted(row.group for row in measured)
    for row in measured:
        assert (row.examples, row.round) == (16, 1)
        assert row.low < row.score < row.high
        assert row.ms > 0
        assert np.asarray(row.items).shape == (3, 16)
        assert row.score == pytest.approx(row.mean)
    assert by_name["tiny/b"].gmacs > by_name["tiny/a"].gmacs > 0
    assert found.static_choice == "tiny/colours"
    assert found.metric == "accuracy"
    assert 0 < found.expected <= measured[0].score + 0.02
    said = capsys.readouterr().out
    assert "3 backbones on" not in said.splitlines()[0]
    assert "failed    tiny/lost" in said


def test_same_scores_again_from_kept_results(catalogue, capsys):
    first = zoo.rank(noisy(), "tiny/a", workers=1)
    capsys.readouterr()
    assert zoo.rank(noisy(), "tiny/a", workers=1) == first
    assert "from an earlier run" in capsys.readouterr().out


@pytest.mark.parametrize("first", ["rank", "finetune"])
def test_ranking_and_probe_share_the_pass_through_the_backbone(catalogue, monkeypatch, first):
    monkeypatch.setattr(feature_cache, "WORTH", 0)

    def rank() -> None:
        zoo.rank(noisy(), "tiny/colours", workers=1)

    def finetune() -> None:
        zoo.load("tiny/colours", "cpu").finetune(noisy(), strategy="probe", quiet=True)

    steps = [rank, finetune] if first == "rank" else [finetune, rank]
    steps[0]()
    passes = []
    monkeypatch.setattr(feature_cache, "extract_features", lambda *_, **__: passes.append(1))
    steps[1]()
    zoo.load("tiny/colours", "cpu").finetune(noisy(), strategy="probe", seed=1, quiet=True)  # another split
    assert not passes


@pytest.mark.real
def test_same_scores_in_worker_processes(catalogue, monkeypatch):
    first = zoo.rank(noisy(12), catalogue[:3], workers=1)
    monkeypatch.setenv("ZOO_HOME", str(Path("elsewhere").absolute()))
    again = zoo.rank(noisy(12), catalogue[:3], workers=2)
    assert [row.items for row in again.rows] == [row.items for row in first.rows]
    assert again.recommended == first.recommended


def test_rounds_halve_the_candidates_but_keep_ties_and_the_static_choice():
    def row(name: str, hits: int) -> Row:
        return Row(name, examples=100, items=[[1.0] * hits + [0.0] * (100 - hits)])

    rows = [row("best", 95), row("tied", 93), row("third", 60), row("worst", 10), row("static", 20), row("bad", 15)]
    assert verdict.better_half(rows, keep="static") == ["best", "tied", "third", "static"]
    alike = [row(f"net{number}", 50 - number) for number in range(8)]
    assert verdict.better_half(alike, keep="net0") == [f"net{number}" for number in range(8)]


def test_funnel_takes_more_examples_each_round(catalogue, monkeypatch, capsys):
    monkeypatch.setattr(subsets, "FEWEST", 8)
    monkeypatch.setattr(subsets, "STEP", 2)
    monkeypatch.setattr(subsets, "PER_CLASS", 2)
    monkeypatch.setattr("zoo.evidence.ranking.FINALISTS", 1)
    found = zoo.rank(noisy(), catalogue[:2], workers=1)
    said = capsys.readouterr().out
    assert "round     1/2  2 backbones on 8 of 16 examples" in said
    assert found.rows[0].round == 2
    assert found.examples == 16


def test_recommended_is_the_static_choice_within_a_standard_error_of_the_best_else_the_best():
    def row(name: str, hits: int, gmacs: float = 1.0) -> Row:
        items = [[1.0] * hits + [0.0] * (400 - hits)]
        return Row(name, hits / 400, examples=400, round=1, gmacs=gmacs, bytes=1, items=items)

    rows = [row("best", 360, 5.0), row("prior", 359, 9.0), row("cheap", 358, 0.5), row("bad", 200, 0.1)]
    failed = Row("broken", error="no", fix="yes")
    found = verdict.conclude([*rows, failed], "prior", "accuracy", is_share=True)
    assert (found.recommended, found.static_choice, found.cheapest) == ("prior", "prior", "cheap")
    assert [row.name for row in found.rows if row.group == 1] == ["best", "prior", "cheap"]
    assert found.detectable == pytest.approx((1.966 + 0.843) * (4 / 401 / 402) ** 0.5, rel=1e-2)  # two added items
    assert [row.name for row in found.rows][-2:] == ["bad", "broken"]
    for static in ("bad", "broken", "best"):
        assert verdict.conclude([*rows, failed], static, "accuracy", is_share=True).recommended == "best"
    with pytest.raises(ZooError, match="broken: no") as caught:
        verdict.conclude([failed], "good", "accuracy", is_share=True)
    assert caught.value.fix == "yes"


def test_as_good_is_within_one_standard_error():
    best = [[1.0] * 90 + [0.0] * 10]
    two_less, one_less = [[1.0] * 88 + [0.0] * 12], [[1.0] * 89 + [0.0] * 11]
    assert not verdict.as_good(two_less, best, is_share=False)
    assert verdict.as_good(one_less, best, is_share=False)
    assert verdict.as_good(best, one_less, is_share=True)


def test_expected_score_of_the_best_corrects_for_having_chosen():
    coins = np.random.default_rng(1).integers(0, 2, (15, 40, 1, 50))  # 15 times 40 models that guess
    best = np.mean([each.mean((1, 2)).max() for each in coins])
    expected = np.mean([verdict.expected_of_best(each.tolist()) for each in coins])
    assert best > 0.62
    assert abs(expected - 0.5) < 0.03
    assert verdict.expected_of_best(coins[0, :1].tolist()) == pytest.approx(coins[0, 0].mean(), abs=0.01)


def final_results(hits: dict[str, list[float]], seconds: float = 1.0) -> dict[str, list[Result]]:
    """Return results of five folds for the hits of each backbone."""
    found = {}
    for name, values in hits.items():
        folds = [list(range(len(values)))[fold::5] for fold in range(5)]
        answers = [Answer({"held": held, "hits": [values[i] for i in held]}, seconds=seconds) for held in folds]
        found[name] = [Result(Job("a:b"), answer) for answer in answers]
    return found


def shares(*hits: int) -> list[list[float]]:
    """Return the scores of 100 items, of which so many are right, for each."""
    return [[1.0] * count + [0.0] * (100 - count) for count in hits]


def test_finals_choose_among_tuned_backbones_and_their_probes():
    probes = dict(zip(("big", "small", "random"), shares(80, 78, 40), strict=True))
    rows = [
        Row(name, sum(hits) / 100, examples=100, round=1, gmacs=cost, bytes=size, items=[hits, hits, hits])
        for (name, hits), cost, size in zip(probes.items(), (5.0, 1.0, 1.0), (9, 9, 0), strict=True)
    ]
    ranking = verdict.conclude(rows, "big", "accuracy", is_share=True)
    assert [row.name for row in finals.finalists(ranking, 2)] == ["big", "small"]
    tuned = dict(zip(probes, shares(96, 81, 50), strict=True))
    found = finals.decide(ranking, rows, final_results(tuned))
    assert (found.recommended, found.strategy) == ("big", "lp-ft")
    assert [(each.name, each.strategy) for each in found.finals[:3]] == [
        *(("big", "lp-ft"), ("small", "lp-ft"), ("big", "probe"))
    ]
    assert {each.strategy for each in found.finals if each.name == "random"} == {"scratch"}
    assert 0.9 < found.expected < 0.97
    assert found.finals[0].low < 0.96 < found.finals[0].high
    assert found.to_dict()["finals"][0]["seconds"] == 5.0
    same = finals.decide(ranking, rows[:2], final_results({"big": shares(79)[0], "small": probes["small"]}))
    assert (same.recommended, same.strategy) == ("big", "probe")  # no better than chance: not tuned
    chance = {"big": [0.0] * 2 + [1.0] * 82 + [0.0] * 16}  # two hits more, on six items they differ
    assert finals.decide(ranking, rows[:1], final_results(chance)).strategy == "probe"
    close = dict(zip(("big", "small"), shares(85, 86), strict=True))
    found = finals.decide(ranking, rows[:2], final_results(close))
    assert found.finals[0].name == "small"
    assert (found.recommended, found.strategy) == ("big", "lp-ft")  # the static choice, within a standard error


def test_finals_that_did_not_end_change_nothing():
    row = Row("net", 0.8, examples=100, round=1, gmacs=1.0, bytes=9, items=shares(80))
    ranking = verdict.conclude([row], "net", "accuracy", is_share=True)
    results = final_results({"net": shares(90)[0]})
    part = finals.decide(ranking, [row], {"net": results["net"][:3]})
    assert (part.recommended, part.strategy) == ("net", None)
    assert part.finals[0].error == "not finished: the budget of time was spent"
    lost = [*results["net"][:4], Result(Job("a:b"), Answer(error="no memory"))]
    assert finals.decide(ranking, [row], {"net": lost}).finals[0].error == "no memory"


def test_finals_of_a_command(catalogue, isolated, monkeypatch):
    monkeypatch.setattr("zoo.finetune.defaults._steps", lambda *_: 2)
    pictures.folder(isolated / "pictures", 5)
    command = ["rank", "pictures", "tiny/colours", "--finals", "2", "--workers", "1"]
    run = CliRunner().invoke(main, command)
    assert run.exit_code == 0, run.output
    assert "final     tiny/colours  fold 5/5" in run.output
    header = next(line for line in run.output.splitlines() if line.startswith("finals ") and "strategy" in line)
    assert header.split() == ["finals", "strategy", "accuracy", "95", "%", "seconds"]
    assert run.output.splitlines()[-1].startswith("zoo finetune tiny/colours pictures --strategy ")
    found = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    assert {each["strategy"] for each in found["finals"]} == {"probe", "lp-ft"}
    assert found["strategy"] in ("probe", "lp-ft")


def test_finals_are_of_classes(catalogue):
    numbers = [(image, float(index)) for index, (image, _) in enumerate(noisy())]
    with pytest.raises(RecipeError, match="finals compare right and wrong answers, and this is regress"):
        zoo.rank(numbers, "tiny/a", finals=2)
    with pytest.raises(RecipeError, match="finals=-1 is not a number of backbones"):
        zoo.rank(noisy(), "tiny/a", finals=-1)


def test_static_order_is_by_accuracy_then_size_and_random_weights_last():
    entries = [zoo.info(name) for name in ("native/resnet14", "native/resnet14.letters", "native/resnet18.tv_in1k")]
    entries += [zoo.info("native/resnet50.tv2_in1k"), zoo.info("hf/openai-community/gpt2")]
    assert [entry.name for entry in candidates.static_order(entries)] == [
        *("native/resnet50.tv2_in1k", "native/resnet18.tv_in1k", "hf/openai-community/gpt2"),
        *("native/resnet14.letters", "native/resnet14"),
    ]
    small = entries[2]
    large = replace(small, name="native/a", input=replace(small.input, size=256))
    smaller = replace(small, name="native/aa", input=replace(small.input, size=64))
    assert candidates.static_order([small, smaller, large]) == [large, small, smaller]
    unknown = replace(entries[-1], name="hf/unknown", params=None, files=(File("a", bytes=4 * 10**9),))
    assert candidates.static_order([entries[-1], unknown])[0] == unknown  # a billion parameters, by their bytes


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(params=1_000), "171,568 parameters, more than 1,000"),
        (Limits(bytes=1_000), "696,616 bytes, more than 1,000"),
        (Limits(license="gpl"), "its licence is mit"),
        (Limits(params=10**9, bytes=10**9, license="MIT"), ""),
    ],
)
def test_limits(isolated, limits, reason):
    assert candidates.excluded(zoo.info("native/resnet14.letters"), limits) == reason


def test_unknown_sizes_are_out_of_a_limit(isolated):
    assert "not known" in candidates.excluded(zoo.info("hf/FacebookAI/roberta-base"), Limits(params=10**10))


def test_slow_backbones_are_ruled_out_by_their_measured_time(catalogue):
    with pytest.raises(ZooError, match=r"ms for an item here, more than 1e-05"):
        zoo.rank(noisy(), catalogue[:1], workers=1, max_ms=1e-5)


def test_budget_that_is_spent_starts_nothing(catalogue):
    with pytest.raises(ZooError, match="the budget of time was spent") as caught:
        zoo.rank(noisy(), catalogue[:2], workers=1, budget=0)
    assert "--budget" in caught.value.fix


def test_refusals(catalogue):
    with pytest.raises(NameNotFound, match="no backbone matches"):
        zoo.rank(noisy(), "nothing/*")
    with pytest.raises(NameNotFound, match="of image and of text backbones"):
        zoo.rank(noisy(), ["tiny/a", "hf/openai-community/gpt2"])
    with pytest.raises(RecipeError, match="no backbone is within the limits: tiny/a"):
        zoo.rank(noisy(), "tiny/a", license="mit")
    with pytest.raises(RecipeError, match="has no labels"):
        zoo.rank(["one text", "another"], "hf/openai-community/gpt2")
    with pytest.raises(DataError):
        zoo.rank([], "tiny/a")


def test_nested_examples_are_a_sample_of_all_at_every_size():
    labels = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    data = Examples(list(range(100)), labels, "letters")
    order = subsets.nested_order(data, classes=True, seed=0)
    assert sorted(order) == list(range(100))
    first = [labels[index] for index in order[:20]]
    assert {name: first.count(name) for name in "abc"} == {"a": 12, "b": 6, "c": 2}
    assert order != subsets.nested_order(data, classes=True, seed=1)


def test_nested_examples_keep_groups_together():
    data = Examples(list(range(60)), ["a", "b"] * 30, "letters", groups=[number // 6 for number in range(60)])
    order = subsets.nested_order(data, classes=True, seed=0)
    assert all(len({index // 6 for index in order[start : start + 6]}) == 1 for start in range(0, 60, 6))


@pytest.mark.parametrize(("count", "classes", "sizes"), [(100, 2, [100]), (300, 3, [75, 300]), (300, 40, [300])])
def test_sizes_of_the_rounds(count, classes, sizes):
    data = Examples(list(range(count)), [f"class {number % classes}" for number in range(count)], "numbers")
    assert subsets.sizes(data) == sizes


def test_large_data_are_ranked_on_a_sample():
    data = Examples(list(range(5_000)), ["a", "b"] * 2_500, "numbers")
    order = subsets.nested_order(data, classes=True, seed=0)
    assert len(order) == subsets.MOST
    assert subsets.sizes(data.at(order)) == [125, 500, 2000]


def test_modality_of_the_data(isolated):
    pictures.folder(isolated / "pictures", 2)
    (isolated / "reviews.csv").write_text("text,label\ngreat fun,good\nso dull,bad\n")
    (isolated / "photos.csv").write_text("image,label\npictures/blue/000.png,blue\npictures/green/002.png,green\n")
    for name, kind in {"pictures": "image", "reviews.csv": "text", "photos.csv": "image"}.items():
        assert subsets.modality(isolated / name, Columns()) == kind
    assert subsets.modality(pictures.pairs(1), Columns()) == "image"
    assert subsets.modality([("great fun", "good"), ("so dull", "bad")], Columns()) == "text"


def test_command_prints_a_table_and_what_it_means_or_json(catalogue, isolated):
    pictures.folder(isolated / "pictures", 4)
    command = ["rank", "pictures", "tiny/colours", "tiny/lost", "--workers", "1"]
    run = CliRunner().invoke(main, command)
    assert run.exit_code == 0, run.output
    header = next(line for line in run.output.splitlines() if line.startswith("backbone"))
    assert header.split() == ["backbone", "group", "accuracy", "95", "%", "MB", "ms", "GMACs", "seconds"]
    assert "Recommended: tiny/colours" in run.output
    assert run.output.splitlines()[-1] == "zoo finetune tiny/colours pictures"
    assert "not ranked: tiny/lost: " in run.output
    found = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    assert {"rows", "recommended", "static_choice"} <= found.keys()
    wanted = {"name", "score", "low", "high", "group", "bytes", "ms", "seconds", "error"}
    assert wanted <= found["rows"][0].keys()
    assert found["rows"][0]["error"] is None
    assert "nowhere" in found["rows"][1]["error"]
    assert found["recommended"] == "tiny/colours"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "soon"], "is not a duration such as"),
        (["--max-bytes", "big"], "is not a size such as"),
        (["--workers", "0"], "is not a whole number above 0"),
    ],
)
def test_command_options_say_what_they_take(isolated, options, message):
    run = CliRunner().invoke(main, ["rank", "pictures", *options])
    assert run.exit_code == 2
    assert message in run.output


def test_command_of_missing_data(isolated):
    run = CliRunner().invoke(main, ["rank", "nowhere", "tiny/a"])
    assert run.exit_code == 1
    assert "nowhere" in run.output
