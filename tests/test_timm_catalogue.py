"""The catalogue of zoo_timm: names, fields and metrics, and resolution of other names and repositories."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
from zoo_timm import plugin
from zoo_timm.tags import pretrained_on

import zoo
from zoo.catalogue import registry, rows
from zoo.errors import NameNotFound
from zoo.plugin import File, ImageInput
from zoo.weights import loader

ROOT = Path(__file__).parents[1]
CATALOGUE = ROOT / "plugins" / "zoo_timm" / "catalogue.json"
REFRESH = runpy.run_path(str(ROOT / "tools" / "refresh_catalogue.py"))
SAMPLE = [
    "test_vit.r160_in1k",
    "resnet50.a1_in1k",
    "vit_base_patch16_siglip_224.webli",
    "qwen3_vit_88m_enc.qwen3_5_0_8b",
    "vit_base_patch16_sapiens2.fb",
    "volo_d4_448.sail_in1k",
]


def test_the_catalogue_lists_every_name_with_safetensors():
    listed = {name.removeprefix("timm/") for name in rows.read_catalogue(CATALOGUE)}
    others = {n for n in timm.list_models(pretrained=True) if not timm.get_pretrained_cfg(n).hf_hub_id}
    assert listed == set(timm.list_models(pretrained=True)) - others
    assert len(others) == 19


def test_every_row_is_complete():
    for row in zoo.list(plugin="timm"):
        assert row.source.startswith("hf://"), row.name
        assert (row.files, row.tasks) == ((File("model.safetensors"),), ("classify", "multilabel", "regress"))
        assert row.dim
        assert row.params
        assert row.options == {"arch": row.name.removeprefix("timm/")}
    assert set(registry.problems()) == set()


@pytest.mark.parametrize("name", SAMPLE)
def test_refresh_catalogue_reproduces_the_committed_rows(name):
    committed = dict(rows.read_catalogue(CATALOGUE)[f"timm/{name}"])
    measured = committed.pop("metrics", {})
    assert REFRESH["row"](name, {}, {}) == committed
    assert set(measured) <= {"imagenet_top1", "gmacs"}


def test_timm_result_tables_apply_only_to_the_input_of_a_row(tmp_path):
    header = "model,img_size,top1,crop_pct,interpolation\n"
    (tmp_path / "x-results-imagenet.csv").write_text(header + "resnet18.a1_in1k,224,71.5,0.950,bicubic\n")
    found = REFRESH["table"](tmp_path, "*results-imagenet.csv", "img_size")
    row = registry.find("timm/resnet18.a1_in1k")
    assert REFRESH["metrics"](row, found, {}) == {"imagenet_top1": 71.5}
    assert REFRESH["metrics"](replace(row, input=replace(row.input, crop=1.0)), found, {}) == {}
    assert REFRESH["metrics"](replace(row, input=replace(row.input, size=288)), found, {}) == {}
    assert REFRESH["metrics"](row, {}, {("resnet18", 224): {"infer_gmacs": "1,001.5"}}) == {"gmacs": 1001.5}


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("a1_in1k", "ImageNet-1k"),
        ("sw_in12k_ft_in1k", "ImageNet-12k → ImageNet-1k"),
        ("in1k_ft_in22k_in1k", "ImageNet-1k → ImageNet-22k → ImageNet-1k"),
        ("mim_in22k_ft_in22k_in1k", "ImageNet-22k → ImageNet-1k"),
        ("ns_jft_in1k_475", "ImageNet-1k + JFT-300M"),
        ("mae_in1k_ft_in1k", "ImageNet-1k"),
        ("dinov3_lvd1689m", "LVD-1689M"),
        ("metaclip_400m", "MetaCLIP-400M"),
        ("fb", None),
        ("", None),
    ],
)
def test_pretraining_datasets_are_parsed_from_a_tag(tag, expected):
    assert pretrained_on(tag) == expected


def unexpected_look(source: str):
    raise AssertionError(f"looked at {source}")


def test_an_unknown_name_resolves_to_none():
    assert plugin.resolve("resnet18", unexpected_look) is None
    assert plugin.resolve("resnet18.a9_in1k", unexpected_look) is None


def test_weights_without_safetensors_raise_name_not_found():
    with pytest.raises(NameNotFound, match=r"only as https://\S+\.pth, which is not a \.safetensors file") as caught:
        plugin.resolve("gcvit_tiny.in1k", unexpected_look)
    assert "zoo.toml" in caught.value.fix


def repository(folder: Path, config: dict) -> Callable:
    """Return a `look` function for a repository as created by push_to_hf_hub()."""
    (folder / "config.json").write_text(json.dumps(config))

    files = {name: File(name) for name in ("config.json", "model.safetensors", "README.md")}
    found = SimpleNamespace(files=files, fetch=lambda *paths: {path: folder / path for path in paths})
    return lambda source: found if source == "hf://someone/birds" else unexpected_look(source)


def test_a_repository_in_timm_format_resolves_to_a_row(tmp_path):
    pretrained_cfg = {"input_size": [3, 160, 160], "mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2], "license": "mit"}
    config = {
        "architecture": "test_vit",
        "num_classes": 7,
        "pretrained_cfg": pretrained_cfg,
        "model_args": {"depth": 2},
    }
    row = plugin.resolve("someone/birds", repository(tmp_path, config))
    assert (row.name, row.source, row.license) == ("timm/someone/birds", "hf://someone/birds", "mit")
    assert row.input == ImageInput(160, (0.4, 0.4, 0.4), (0.2, 0.2, 0.2), "bicubic", 0.875)
    assert row.options == {"arch": "test_vit", "args": {"depth": 2}}
    assert [file.path for file in row.files] == [
        "config.json",
        "model.safetensors",
    ]  # config.json is needed to resolve the row offline
    assert len(loader._build(plugin, row, {}, "meta").module.blocks) == 2


def test_another_repository_resolves_to_none(tmp_path):
    assert plugin.resolve("someone/birds", repository(tmp_path, {"model_type": "bert"})) is None
