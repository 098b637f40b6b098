"""The evidence report: facts, results, page and command, on tiny nets."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pictures
import pytest
import torch
import words
from click.testing import CliRunner
from tokenizers import Tokenizer as Fast
from tokenizers import decoders, models, pre_tokenizers

import zoo
from zoo import tasks
from zoo.cli import main
from zoo.errors import ArtefactError, DataError, RecipeError
from zoo.evidence.comparison import Comparison, Row
from zoo.evidence.report import cost, facts
from zoo.evidence.report.explain.explain import explain
from zoo.evidence.report.page import charts
from zoo.evidence.report.page.render import commands, render
from zoo.evidence.report.results import compared, confidence, mistakes, tokens
from zoo.evidence.report.results.measure import measure
from zoo.model.model import Model
from zoo.plugin import Tokenizer
from zoo.tasks import Mistake


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder of photos and a model fine-tuned on it, with a test share."""
    root = tmp_path_factory.mktemp("report")
    pictures.folder(root / "photos", 12)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("ZOO_HOME", str(root / "store"))
        patch.setenv("ZOO_CONFIG_HOME", str(root / "config"))
        model = zoo.load(pictures.catalogue(root), "cpu")
        model.finetune(root / "photos", strategy="scratch", steps=30, test=0.2, quiet=True)
        model.save(root / "model")
    return root


@pytest.fixture
def model(home, monkeypatch) -> Model:
    monkeypatch.setenv("ZOO_HOME", str(home / "store"))
    return zoo.load(home / "model", "cpu")


def test_facts_make_the_split_of_the_run_again(model):
    found = facts.collect(model)
    counts = {name: len(part) for name, part in found.parts.items()}
    assert counts == {"train": model.summary.train, "valid": model.summary.valid, "test": model.summary.test}
    valid = found.parts["valid"]
    assert model.task.measure(valid.values, valid.targets) == pytest.approx(model.metrics, abs=1e-5)
    assert valid.features.shape == (len(valid), model.backbone.dim)


def test_data_in_memory_has_to_be_given_again(home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setenv("ZOO_HOME", str(home / "store"))
    data = pictures.pairs(8)
    model = zoo.load("tiny/net", "cpu").finetune(data, strategy="scratch", steps=2, quiet=True)
    with pytest.raises(DataError, match="was in memory"):
        facts.collect(model)
    assert set(facts.collect(model, data).parts) == {"train", "valid"}


def test_training_data_is_never_the_test_part(home, monkeypatch):
    monkeypatch.chdir(home)
    data = pictures.pairs(4)
    model = zoo.load("tiny/net", "cpu").finetune(data, strategy="scratch", steps=1, quiet=True)
    model.training = {"request": {}}  # as in a folder that records no split
    with pytest.raises(DataError, match="cannot be divided as it was then"):
        facts.collect(model, data)


def test_changed_data_is_refused_and_other_data_is_the_test_part(model, home, tmp_path):
    other = pictures.folder(tmp_path / "other", 4, seed=5)
    found = facts.collect(model, other)
    assert list(found.parts) == ["train", "valid", "test"]
    assert len(found.parts["test"]) == 12
    model.training["split"]["data"] = str(other)
    with pytest.raises(DataError, match="is not, or no longer, the data"):
        facts.collect(model)


def test_the_test_part_of_a_folder_is_the_test_part(home, tmp_path, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setenv("ZOO_HOME", str(home / "store"))
    for seed, (name, count) in enumerate((("train", 6), ("valid", 3), ("test", 4))):
        pictures.folder(tmp_path / "parts" / name, count, seed=seed)
    model = zoo.load("tiny/net", "cpu").finetune(tmp_path / "parts", strategy="scratch", steps=1, quiet=True)
    assert {name: len(part) for name, part in facts.collect(model).parts.items()} == {
        "train": 18,
        "valid": 9,
        "test": 12,
    }


def test_a_model_that_diverged_is_refused(model):
    model.head.weight.data.fill_(float("nan"))
    with pytest.raises(RecipeError, match="NaN or infinity"):
        facts.collect(model)


def test_a_folder_cannot_be_written_to(model, tmp_path):
    with pytest.raises(ArtefactError, match="is a folder"):
        zoo.report(model, out=tmp_path)
    with pytest.raises(ArtefactError, match="does not exist"):
        zoo.report(model, out=tmp_path / "no" / "report.html")


def test_results_are_those_of_the_run(model):
    found = measure(facts.collect(model))
    assert (found.part, found.count, found.metric) == ("test", model.summary.test, "accuracy")
    assert found.metrics == pytest.approx(model.tested, abs=1e-5)
    assert [(score.name, score.part) for score in found.scores] == [
        ("this model", "test"),
        ("this model", "valid"),
        ("this model", "train"),
        ("majority class", "test"),
    ]
    assert sum(map(sum, found.confusion.counts)) == found.count
    assert found.mistakes.count == found.count - sum(found.confusion.counts[i][i] for i in range(3))
    assert found.curve.chosen == model.training["step"]


def test_reliability_of_known_answers():
    sure, right = torch.tensor([0.95] * 10 + [0.65] * 10), torch.tensor([1] * 9 + [0] + [1] * 4 + [0] * 6).bool()
    found = confidence.reliability(sure.double(), right)
    assert [(each.count, each.accuracy) for each in found.bins] == [(10, 0.4), (10, 0.9)]
    assert found.error == pytest.approx(0.5 * 0.25 + 0.5 * 0.05)
    low, high = found.interval
    assert 0 <= low < found.error < high < 0.35
    right = torch.rand(2_000, generator=torch.Generator().manual_seed(0)) < 0.7
    assert confidence.reliability(torch.full((2_000,), 0.7), right).interval[0] == 0


def test_coverage_sends_the_least_sure_to_a_person():
    sure, right = torch.linspace(0.5, 1, 20), torch.tensor([0, 0, 1, 0] + [1] * 16).bool()
    found = confidence.coverage(sure, right)
    assert (found.referred, found.caught, found.wrong) == (2, 2, 3)
    assert found.accuracy == pytest.approx(17 / 18)
    assert found.points[-1] == (1.0, 17 / 20)
    assert confidence.coverage(sure[:4], right[:4]) is None


def test_calibration_before_is_of_the_unscaled_outputs():
    values, targets = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]), torch.tensor([0, 1, 1])
    found = confidence.calibrated(
        tasks.make("classify", ["a", "b"]),
        values,
        targets,
        {"calibration": {"temperature": 2.0, "before": 0.3, "after": 0.2}},
    )
    sure = [float(scale.softmax(0)[0]) for scale in (torch.tensor([4.0, 0.0]), torch.tensor([2.0, 0.0]))]
    assert [found.before.bins[0].probability, found.after.bins[0].probability] == pytest.approx(sure)


def test_shown_mistakes_hold_one_of_each_pair(monkeypatch):
    monkeypatch.setattr(mistakes, "MAX_MISTAKES", 3)
    found = [Mistake(i, "x", truth, answer, 0.9, 9 - i) for i, (truth, answer) in enumerate(["ab"] * 5 + ["ac", "bc"])]
    assert [one.index for one in mistakes._of_every_kind(found)] == [0, 5, 6]


def test_axis_ticks_are_round_numbers():
    assert charts.ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert charts.ticks(-3.0, 12.0) == [0, 5, 10]
    assert charts.ticks(2.0, 2.0) == [2.0]


def test_page_is_one_file_that_escapes_what_it_shows(home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setenv("ZOO_HOME", str(home / "store"))
    names = {"blue": "<script>alert(1)</script>", "green": "a&b", "red": 'c"d'}
    data = [(pixels, names[label]) for pixels, label in pictures.pairs(8)]
    model = zoo.load("tiny/net", "cpu").finetune(data, strategy="scratch", steps=1, valid=0.5, quiet=True)
    found = facts.collect(model, data)
    page = render(found, measure(found))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<script>") == 1
    assert "data:image/png;base64" in page
    assert not re.findall(r'(?:src|href|url\()\s*=?\s*["\']?(?:https?:|//|file:)', page)


def test_the_command_writes_one_document(home, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    monkeypatch.setenv("ZOO_HOME", str(home / "store"))
    out = tmp_path / "page.html"
    ran = CliRunner().invoke(main, ["report", "model", "--out", str(out), "--json"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["out"] == str(out)
    assert out.read_text().startswith("<!doctype html>")
    assert not list(tmp_path.glob(".*"))


def test_finetune_writes_a_report_where_it_is_asked_for(home, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    monkeypatch.setenv("ZOO_HOME", str(home / "store"))
    run = ["finetune", "tiny/net", "photos", "--strategy", "scratch", "--set", "steps=1", "--json"]
    ran = CliRunner().invoke(main, [*run, "--report", "--out", str(tmp_path / "a")])
    assert ran.exit_code == 0, ran.output
    assert Path(json.loads(ran.stdout)["report"]) == tmp_path / "a" / "report.html"
    ran = CliRunner().invoke(main, [*run, "--out", str(tmp_path / "b")])
    assert "report" not in json.loads(ran.stdout)


def test_finetune_in_python_writes_a_report_beside_the_model(home, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    monkeypatch.setenv("ZOO_HOME", str(home / "store"))
    data, recipe = pictures.pairs(4), {"strategy": "scratch", "steps": 1, "quiet": True}
    model = zoo.load("tiny/net", "cpu")
    with pytest.raises(RecipeError, match="report=True writes to the folder of the model, and there is none"):
        model.finetune(data, report=True, **recipe)
    assert model.head is None
    model.finetune(data, out=tmp_path / "run", report=None, **recipe)
    assert not (tmp_path / "run" / "report.html").exists()
    model = zoo.load("tiny/net", "cpu")  # the run is finished: only its report is missing
    model.finetune(data, out=tmp_path / "run", report=True, resume=True, **recipe)
    assert (tmp_path / "run" / "report.html").read_text().startswith("<!doctype html>")
    assert model.report(tmp_path / "again.html", data).out == tmp_path / "again.html"


def test_a_report_is_cheap_after_many_steps(model):
    assert not cost.is_cheap(model)
    model.recipe = replace(model.recipe, steps=1_000)
    assert not cost.is_cheap(model), "steps that were taken count"
    model.history[-1]["step"] = 1_000
    assert cost.is_cheap(model)
    model.recipe = replace(model.recipe, strategy="probe")
    assert not cost.is_cheap(model)


TASKS = {
    "multilabel": (
        [(text, (label, "short") if len(text) < 40 else (label,)) for text, label in words.reviews(40)],
        "Labels",
    ),
    "regress": ([(text, float(len(text))) for text, _ in words.reviews(40)], "answer minus truth"),
    "tag": (
        [
            (text.split(), tuple("B-GOOD" if word in words.GOOD else "O" for word in text.split()))
            for text, _ in words.reviews(40)
        ],
        "Kinds of entities",
    ),
    "causal-lm": ([text for text, _ in words.reviews(120)], "Which tokens surprise it"),
    "masked-lm": ([text for text, _ in words.reviews(120)], "Which tokens surprise it"),
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_its_pictures(task, distribution, isolated):
    data, heading = TASKS[task]
    strategy = (
        {"strategy": "full", "steps": 2, "evals": 2} if task.endswith("-lm") else {"strategy": "probe", "l2": 1.0}
    )
    model = zoo.load(words.pretrained(distribution, isolated / "weights"), "cpu")
    model.finetune(data, task=task, valid=0.3, quiet=True, **strategy)
    found = facts.collect(model, data)
    results = measure(found)
    assert results.metrics == pytest.approx(model.metrics, abs=1e-5)
    assert found.parts["valid"].features.shape[1] == 16
    page = render(found, results)
    assert heading in page
    assert "nan" not in re.findall(r'points="[^"]*"', page)
    if task == "tag":
        assert len(results.mistakes.shown) == 0 or results.mistakes.shown[0].words
        swapped = [(text, ["O" if tag != "O" else "B-GOOD" for tag in tags]) for text, tags in data]
        explained = explain(facts.collect(model, swapped)).saliency
        assert len(explained) == 6
        assert all(each.word in data[each.item.index][0] for each in explained)
    if task.endswith("-lm"):
        assert sum(count for _, _, count in results.surprise.bins) == results.surprise.tokens
        assert any(token.loss is not None for _, tokens in results.surprise.texts for token in tokens)


def test_commands_in_a_sentence_are_code_and_the_rest_is_escaped():
    found = commands('list them: zoo report <m> --fixes f.csv, decide, then: zoo finetune a "x,y"; or <wait>')
    assert found == (
        "list them: <code>zoo report &lt;m&gt; --fixes f.csv</code>, decide, then: "
        "<code>zoo finetune a &#34;x,y&#34;</code>; or &lt;wait&gt;"
    )


def comparison(home: Path, **changed: object) -> Path:
    """Write what `zoo compare` writes, of two strategies at one size."""
    rows = [
        Row("tiny/net", name, 20, 5, mean, mean - 0.1, mean + 0.1, 0.1, 0.02, 1.0, 0.5, {}, 1.0)
        for name, mean in (("scratch", 0.4), ("probe", 0.6))
    ]
    found = Comparison("classify", "accuracy", str(home / "photos"), 29, 7, 0, tuple(rows), (), ("Transfer pays.",))
    path = home / "compare.json"
    path.write_text(json.dumps(found.to_dict() | changed))
    return path


def test_a_comparison_and_another_run_stand_beside_the_model(home, model):
    found = facts.collect(model)
    page = render(found, measure(found, compared.all_compared(found, [comparison(home), home / "model"])))
    rows = re.findall(r'<tr><td>([^<]*)</td><td class="t">([^<]*)</td><td>([^<]*)</td><td>([^<]*)', page)
    assert rows[-3:-1] == [
        ("from scratch", "zoo compare: 20 training examples, 5 draws", "7", "0.400"),
        ("frozen probe", "zoo compare: 20 training examples, 5 draws", "7", "0.600"),
    ]
    assert rows[-1][:2] == ("from scratch", str(home / "model"))
    assert rows[-1][3] == rows[0][3], "the very model, on the same examples"
    assert "Transfer pays." in page


def test_only_comparisons_of_the_same_data_are_shown(home, model, monkeypatch):
    found = facts.collect(model)
    for changed, message in (({"task": "regress"}, "compares tiny/net on"), ({"data": "elsewhere"}, "on elsewhere")):
        with pytest.raises(DataError, match=message):
            compared.all_compared(found, [comparison(home, **changed)])
    (home / "other.json").write_text("{}")
    with pytest.raises(DataError, match="is no comparison of zoo compare: 'rows'"):
        compared.all_compared(found, [home / "other.json"])
    monkeypatch.setitem(model.training["request"], "seed", 1)
    found.parts.pop("test")
    with pytest.raises(DataError, match="did not hold out the same examples"):
        compared.all_compared(found, [home / "model"])


def byte_tokenizer() -> tuple[Fast, Tokenizer]:
    """Return a tokenizer of one token for each byte of UTF-8."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = Fast(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return fast, Tokenizer(fast, pad=0)


def test_pieces_of_a_text_are_what_each_token_adds_and_take_linear_time():
    fast, tokenizer = byte_tokenizer()
    text = "on a day, so cold \u2026 " * 8
    ids = fast.encode(text).ids
    found = tokens.pieces(tokenizer, ids)
    assert len(found) == len(ids)
    assert "".join(found).replace("\ufffd", "") == text.replace("\u2026", "")  # bytes of a character, one by one
    assert tokens.pieces(words.tokenizer(), [5, 6]) == ["great", " lovely"]
    decoded: list[int] = []
    counting = SimpleNamespace(fast=SimpleNamespace(decode=lambda ids, **how: decoded.append(len(ids)) or "x"))
    tokens.pieces(counting, range(1_000))
    assert sum(decoded) <= 20 * 1_000
