"""Every family on each supported task: fine-tune, evaluate, predict, save, load; source of the table in the docs."""

from __future__ import annotations

from pathlib import Path

import pictures
import pytest
import test_text_model as texts
import tiny
import torch
from hub import Hub
from samples import every_fourth

import zoo

STEPS = {"steps": 3, "batch_size": 8, "evals": 1, "lr": 1e-2}
IMAGES = {
    "classify": pictures.pairs(4),
    "multilabel": [(image, [label, "dark"] if label == "blue" else [label]) for image, label in pictures.pairs(4)],
    "regress": [(image, float(index % 4)) for index, (image, _) in enumerate(pictures.pairs(4))],
}
TEXTS = {task: (data[:24], more) for task, (data, more, _, _) in texts.CASES.items()}
IN_REAL = ("multilabel", "regress")
"""Tasks that read the same features as classify: of most families they are left to `make real`."""
ENCODERS = ("classify", "multilabel", "regress", "tag", "masked-lm")
DECODERS = ("classify", "multilabel", "regress", "tag", "causal-lm")
FAMILIES = {
    **dict.fromkeys(
        ("bert", "distilbert", "roberta", "mpnet", "electra", "albert", "deberta-v2", "modernbert"), ENCODERS
    ),
    **dict.fromkeys(("gpt2", "opt", "gpt_neox", "llama", "qwen2", "qwen3", "gemma2"), DECODERS),
    "t5": ("classify", "multilabel", "regress", "tag"),
    **{kind: tuple(IMAGES) for kind in ("vit", "dinov2", "swin", "convnext", "resnet", "clip_vision_model")},
}
CELLS = [
    pytest.param(
        family, task, marks=[] if family in ("bert", "gpt2", "vit") or task not in IN_REAL else pytest.mark.real
    )
    for family, tasks in FAMILIES.items()
    for task in tasks
]


def test_docs_table_matches_the_tested_families():
    page = (Path(__file__).parents[1] / "docs" / "families.md").read_text()
    header, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")
    ]
    table = {family: tuple(t for t, mark in zip(header[1:], marks, strict=True) if mark) for family, *marks in rows[1:]}
    tested = {f"`hf` {kind}": tasks for kind, tasks in FAMILIES.items()}
    tested |= {f"`timm` {name.partition('.')[0]}": tuple(IMAGES) for name in TIMM} | {
        "`native` resnet14": tuple(IMAGES)
    }
    assert {family: set(tasks) for family, tasks in table.items()} == {f: set(tasks) for f, tasks in tested.items()}


def check(name, task, tmp_path, strategy="full", valid=0.2):
    data, more = (IMAGES[task], {}) if task in IMAGES and zoo.info(name).modality == "image" else TEXTS[task]
    options = {"strategy": strategy, "valid": valid, "out": tmp_path / "saved", **more, **STEPS}
    model = zoo.load(name, "cpu").finetune(data, **options)
    assert model.task.name == task
    again = zoo.load(tmp_path / "saved", "cpu")
    assert again.evaluate(data) == pytest.approx(model.evaluate(data), abs=1e-5)
    inputs = [data[0][0]] if model.entry.modality == "image" else texts.PROMPTS.get(task, ["the film was great"])
    for one, other in zip(again.predict(inputs), model.predict(inputs), strict=True):
        assert one.label == (pytest.approx(other.label, abs=1e-4) if task == "regress" else other.label)
        assert dict(one.top) == pytest.approx(dict(other.top), abs=1e-5)


@pytest.mark.parametrize(("family", "task"), CELLS)
def test_hub_family_finetunes_on_task(family, task, tmp_path, monkeypatch):
    with Hub({"tiny/net": tiny.repository(family)}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        check("hf/tiny/net", task, tmp_path)


TIMM = ("test_vit.r160_in1k", "test_resnet.r160_in1k", "test_efficientnet.r160_in1k", "test_convnext.r160_in1k")


@pytest.fixture(scope="module")
def timm_repositories():
    """Return repositories of timm's tiny test models with random weights."""
    import timm
    from safetensors.torch import save

    torch.manual_seed(0)
    return {f"timm/{name}": {"model.safetensors": save(timm.create_model(name).state_dict())} for name in TIMM}


@pytest.mark.parametrize("task", IMAGES)
@pytest.mark.parametrize("name", every_fourth(TIMM))
def test_timm_family_finetunes_on_task(name, task, timm_repositories, tmp_path, monkeypatch):
    with Hub(timm_repositories) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        check(f"timm/{name}", task, tmp_path)


@pytest.mark.parametrize("name", every_fourth(TIMM))
def test_lora_on_timm_models(name, timm_repositories, tmp_path, monkeypatch):
    with Hub(timm_repositories) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        check(f"timm/{name}", "classify", tmp_path, "lora")


@pytest.mark.parametrize("task", IMAGES)
def test_native_family_finetunes_on_task(task, tmp_path):
    check("native/resnet14.letters", task, tmp_path)


@pytest.mark.parametrize("family", every_fourth(["bert", "gpt2", "llama", "t5", "vit", "swin", "convnext", "resnet"]))
def test_lora_on_hub_families_updates_weights_but_no_biases(family, tmp_path, monkeypatch):
    with Hub({"tiny/net": tiny.repository(family)}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        before = zoo.load("hf/tiny/net", "cpu").backbone.module.state_dict()
        check("hf/tiny/net", "classify", tmp_path, "lora", valid=0)  # else the probe may be what is kept
        after = zoo.load(tmp_path / "saved", "cpu").backbone.module.state_dict()
        changed = [name for name in before if not torch.equal(before[name], after[name])]
        assert before.keys() == after.keys()
        assert changed
        assert not any(name.endswith("bias") for name in changed)
