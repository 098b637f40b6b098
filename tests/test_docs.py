"""Documentation: commands and Python code in the docs run, relative links exist."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pictures
import pytest
import timm
import tiny
import torch
import words
from click.testing import CliRunner
from hub import Hub
from safetensors.torch import save

import zoo
from zoo.cli import main
from zoo.finetune import recipe as recipes

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def commands(page: str) -> list[list[str]]:
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_make_targets_in_the_docs_exist():
    named = [line[1] for line in commands(README) if line[0] == "make"]
    assert named == ["demo", "test"]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    contributing = [line[1] for line in commands((ROOT / "CONTRIBUTING.md").read_text())]
    assert set(named + contributing) <= set(targets)


def test_readme_commands(isolated):
    pictures.folder(isolated / "pictures", 6)
    pictures.folder(isolated / "more-pictures", 3, seed=1)
    run = [line for line in commands(README) if line[0] == "zoo"]
    assert len(run) == 7
    for line in run:
        result = CliRunner().invoke(main, line[1:])
        assert result.exit_code == 0, (line, result.output)


def test_readme_python(isolated, capsys):
    (code,) = blocks(README, "python")
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["features"].shape == (1, 64)
    assert "'accuracy': 0.9" in capsys.readouterr().out


def test_catalogue_page_rows_are_valid(isolated):
    row, saved = blocks((ROOT / "docs" / "catalogue.md").read_text(), "toml")
    zoo.load("native/resnet14.letters", "cpu").finetune(pictures.pairs(3), valid=0, out="runs/birds")
    (isolated / "zoo.toml").write_text(row + saved)
    assert zoo.info("acme/owl").params == zoo.info("native/resnet18.tv_in1k").params
    assert zoo.load("mine/birds", "cpu").embed([pictures.array("red", 0)]).shape == (1, 64)


def test_ranking_page(isolated):
    pictures.folder(isolated / "pictures", 3)
    page = (ROOT / "docs" / "ranking.md").read_text()
    (code,) = blocks(page, "python")
    names: dict[str, object] = {}
    exec(compile(code, "docs/ranking.md", "exec"), names)
    assert {row.name for row in names["found"].rows} == {"native/resnet14.letters", "native/resnet14"}
    recommended, *others = commands(page)
    assert recommended == ["zoo", "rank", "pictures/"]  # downloads
    for line in others:
        result = CliRunner().invoke(main, line[1:])
        assert result.exit_code == 0, (line, result.output)


def test_finetuning_page_python(isolated):
    pictures.folder(isolated / "pictures", 6)
    names: dict[str, zoo.Model] = {}
    start, watched, *_ = blocks((ROOT / "docs" / "finetuning.md").read_text(), "python")
    exec(compile(start, "docs/finetuning.md", "exec"), names)
    assert names["model"].recipe.steps == 200
    exec(compile(watched, "docs/finetuning.md", "exec"), names)
    assert "jitter" in recipes.to_dict(names["model"].recipe)["augment"]


def test_finetuning_page_commands(isolated, monkeypatch):
    pictures.folder(isolated / "pictures", 3)
    texts = [f"{text},{label}" for text, label in words.reviews(40)]
    (isolated / "mails.txt").write_text("\n".join(text for text, _ in words.reviews(200)))
    (isolated / "labelled-mails.csv").write_text("\n".join(["text,label", *texts]))
    repositories = {"distilroberta-base": "roberta", "distilgpt2": "gpt2"}
    with Hub({f"distilbert/{name}": tiny.repository(kind) for name, kind in repositories.items()}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for line in commands((ROOT / "docs" / "finetuning.md").read_text()):
            result = CliRunner().invoke(main, [*line[1:], *(["--set", "steps=3"] if line[1] == "finetune" else [])])
            assert result.exit_code == 0, (line, result.output)


def test_data_page_python(isolated):
    pictures.folder(isolated / "pictures", 6)
    (code,) = blocks((ROOT / "docs" / "data.md").read_text(), "python")
    names: dict[str, zoo.Model] = {}
    exec(compile(code, "docs/data.md", "exec"), names)
    assert names["model"].task.labels == ("blue", "green", "red")


def test_scale_page_python(isolated, capsys):
    (code,) = blocks((ROOT / "docs" / "scale.md").read_text(), "python")
    exec(compile(code, "docs/scale.md", "exec"), {})
    assert "examples(): 48 examples, 2 classes -> classify; a stream" in capsys.readouterr().out


def test_evidence_page(isolated, pretrained):
    pictures.folder(isolated / "pictures", 6)
    pictures.folder(isolated / "more-pictures", 3, seed=1)
    for name in "ab":
        shutil.copytree(pretrained, f"runs/{name}")
    page = (ROOT / "docs" / "evidence.md").read_text()
    quick = ["--set", "steps=2", "--workers", "1"]
    for line in commands(page):
        result = CliRunner().invoke(main, [*line[1:], *(quick if line[1] == "compare" else [])])
        assert result.exit_code == 0, (line, result.output)
    (code,) = blocks(page, "python")
    exec(compile(code.replace("steps=20", "steps=2, workers=1"), "docs/evidence.md", "exec"), {})


def test_report_page(isolated):
    pictures.folder(isolated / "pictures", 6)
    pictures.folder(isolated / "more-pictures", 3, seed=1)
    page = (ROOT / "docs" / "report.md").read_text()
    for line in commands(page):
        result = CliRunner().invoke(main, [*line[1:], *(["--set", "steps=2"] if "scratch" in line else [])])
        assert result.exit_code == 0, (line, result.output)
    (code,) = blocks(page, "python")
    names: dict[str, object] = {}
    exec(compile(code, "docs/report.md", "exec"), names)
    assert (isolated / "more.html").stat().st_size < 1_500_000


def test_why_page(isolated, capsys):
    pictures.folder(isolated / "pictures", 6)
    page = (ROOT / "docs" / "why.md").read_text()
    for line in commands(page):
        result = CliRunner().invoke(main, [*line[1:], *(["--set", "steps=2"] if line[1] == "finetune" else [])])
        assert result.exit_code == 0, (line, result.output)
    (code,) = blocks(page, "python")
    exec(compile(code, "docs/why.md", "exec"), {})
    assert "moved the weights most" in capsys.readouterr().out


def test_prediction_page(isolated, pretrained):
    page = (ROOT / "docs" / "prediction.md").read_text()
    shutil.copytree(pretrained, "runs/pictures")
    paths = [str(path) for path in pictures.folder(Path("pictures"), 4).rglob("*.png")]
    Path("pictures/red/008.png").rename("pictures/red/012.png")
    pictures.folder(isolated / "more-pictures", 3, seed=1)
    (isolated / "photos.csv").write_text(
        "\n".join(["path,price", *(f"{path},3" for path in paths if "008" not in path)])
    )
    listed = "\n".join(path for path in paths if "008" not in path)
    for line in commands(page):
        result = CliRunner().invoke(main, line[line.index("zoo") + 1 :], input=listed)
        assert result.exit_code == 0, (line, result.output)
    names: dict[str, torch.Tensor] = {}
    for code in blocks(page, "python"):
        exec(compile(code, "docs/prediction.md", "exec"), names)
    assert torch.allclose(names["logits"].softmax(1), names["shares"])
    assert names["similarity"][0] > 0.999  # of the image with itself


def test_five_minutes(isolated):
    page = (ROOT / "docs" / "index.md").read_text()
    make, use = blocks(page, "python")
    exec(compile(make, "docs/index.md", "exec"), {})
    for line in commands(page)[1:]:
        result = CliRunner().invoke(main, line[1:])
        assert result.exit_code == 0, (line, result.output)
        if line[1] == "evaluate":
            assert "accuracy  0.89" in result.output
    names: dict[str, object] = {}
    exec(compile(use, "docs/index.md", "exec"), names)
    assert names["shares"].shape == (300, 10)
    errors = Path("errors.csv").read_text()
    assert errors.count(",3,9,") == 12


def test_choosing_page_commands(isolated):
    pictures.folder(isolated / "pictures", 3)
    for line in commands((ROOT / "docs" / "choosing.md").read_text()):
        result = CliRunner().invoke(main, line[1:])
        assert result.exit_code == 0, (line, result.output)


def test_a_saved_model_of_timm_is_used_without_zoo(isolated, monkeypatch):
    net = timm.create_model("test_resnet", num_classes=4).eval()
    cfg = {"architecture": "test_resnet", "num_classes": 4, "pretrained_cfg": net.pretrained_cfg}
    files = {"config.json": json.dumps(cfg).encode(), "model.safetensors": save(net.state_dict())}
    with Hub({"timm/test_resnet.r160_in1k": files}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        model = zoo.load("timm/test_resnet.r160_in1k", "cpu")
    model.finetune(pictures.pairs(4), strategy="probe", l2=0.1, views=1, head_stages=0, out="runs/birds")
    names: dict[str, torch.nn.Module] = {}
    (code,) = blocks((ROOT / "docs" / "saved-models.md").read_text(), "python")
    exec(compile(code, "docs/saved-models.md", "exec"), names)
    image = pictures.array("red", 0)
    with torch.no_grad():
        assert torch.allclose(names["network"](model.preprocess(image)), model.logits(image), atol=1e-5)
    page = (ROOT / "docs" / "saved-models.md").read_text()
    keys = re.findall(r"`(\w+)`", "".join(line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")))
    assert sorted(set(keys) & names["manifest"].keys()) == sorted(names["manifest"])


def test_keys_of_json_documents(isolated, pretrained):
    """The keys that docs/json.md names are those that the commands print."""
    rows = [line.split(" | ") for line in (ROOT / "docs" / "json.md").read_text().splitlines() if " | " in line]
    named = {command.strip("| `"): set(re.findall(r"`(\w+)`", text)) for command, text in rows}
    pictures.folder(isolated / "pictures", 4)
    fields = ("--strategy", "probe", "--set", "l2=0.1", "--out", "runs/a")
    tuned = document("finetune", pretrained, "pictures", *fields, "--folds", "2", "--test", "0.3", "--report")
    assert set(tuned) == named["zoo finetune"]
    assert set(document("finetune", pretrained, "pictures", "--dry-run")) == named["zoo finetune --dry-run"]
    (saved,) = document("runs")
    assert set(saved) == set(document("info", "runs/a")) == named["zoo info FOLDER"]
    measured = document("evaluate", "runs/a", "pictures", "--confusion", "--errors", "e.csv")
    assert set(measured) == named["zoo evaluate"]
    found = document("report", "runs/a")
    assert set(found).union(*found["findings"]) <= named["zoo report"]
    ranked = document("rank", "pictures", "native/resnet14", "--workers", "1")
    assert set(ranked) | set(ranked["rows"][0]) == named["zoo rank"]
    (answer,) = document("predict", "runs/a", next(Path("pictures/red").iterdir()))
    Path("broken.png").write_text("no image")
    (error,) = document("predict", "runs/a", "broken.png", code=1)
    assert set(answer) | set(error) == named["zoo predict"]
    assert set(document("predict", "runs/a", "pictures", "--out", "a.csv")) == named["zoo predict --out`, `zoo embed"]
    assert named["zoo list"] <= set(document("list", "letters")[0])
    assert set(document("plugins")[0]) == named["zoo plugins"]
    assert set(document("doctor")[0]) == named["zoo doctor"] - {"ok", "warn", "fail"}
    assert {"pulled", "catalogue"} <= set(document("info", "native/resnet14.letters"))
    assert set(document("info", "native/nothing", code=1)) == {"error", "fix"}


def test_every_command_with_json_is_documented():
    page = (ROOT / "docs" / "json.md").read_text()
    with_json = [
        name
        for name in main.list_commands(None)
        if any("--json" in option.opts for option in main.get_command(None, name).params)
    ]
    assert len(with_json) > 10
    assert [name for name in with_json if f"`zoo {name}" not in page] == []


def document(*arguments: object, code: int = 0):
    """Return the JSON document of a command."""
    result = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"[\w-]+\.md", (ROOT / "tools" / "mkdocs.yml").read_text())
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_export_page_commands(isolated, pretrained):
    shutil.copytree(pretrained, "runs/pictures")
    for line in commands((ROOT / "docs" / "export.md").read_text()):
        result = CliRunner().invoke(main, line[1:])
        assert result.exit_code == 0, (line, result.output)
    assert Path("runs/pictures-safetensors/verified.json").exists()


def test_plugin_guide_example_passes_the_conformance_kit(distribution):
    page = (ROOT / "docs" / "plugins.md").read_text()
    announcement, rows = blocks(page, "toml")
    code, test = blocks(page, "python")
    ((plugin, target),) = re.findall(r'^(\w+) = "(\w+):plugin"$', announcement, flags=re.MULTILINE)
    distribution(plugin, code, rows, package=target)
    names: dict[str, object] = {}
    exec(compile(test, "docs/plugins.md", "exec"), names)
    names["test_every_row_keeps_the_contract"]()
    (entry,) = zoo.list("owl/")
    assert zoo.load(entry.name, "cpu").finetune(pictures.pairs(4), valid=0, steps=2).task.labels == (
        "blue",
        "green",
        "red",
    )


def test_skip_connection_snippets_match_the_source():
    source = (ROOT / "plugins" / "zoo_native" / "resnet.py").read_text()
    for block in blocks((ROOT / "docs" / "skip-connections.md").read_text(), "python"):
        assert block in source


@pytest.mark.parametrize("page", [*sorted(p.name for p in (ROOT / "docs").glob("*.md")), "README.md"])
def test_relative_links_exist(page):
    path = ROOT / page if page == "README.md" else ROOT / "docs" / page
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_public_names_are_sorted_and_exist():
    assert zoo.__all__ == sorted(zoo.__all__)
    assert [name for name in zoo.__all__ if not hasattr(zoo, name)] == []
