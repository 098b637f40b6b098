"""Recommended backbones: the lists, their facts, and names that fit several backbones."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

import zoo
from zoo.catalogue import recommended, rows
from zoo.cli import main
from zoo.errors import CatalogueError, NameNotFound

MEMBERS = [each for members in recommended.lists().values() for each in members]
MOST = {"small-image": 12e6, "base-image": 32e6, "large-image": 105e6, "small-text": 35e6, "base-text": 150e6}


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name)
def test_facts_of_a_recommendation_are_those_of_its_row(isolated, member):
    entry = zoo.info(member.name)
    assert entry.name == member.name
    assert member.list.endswith(entry.modality)
    assert entry.params is None or entry.params <= MOST[member.list[1:]]
    assert entry.license in ("apache-2.0", "mit", "bsd-3-clause")
    if found := re.match(r"([\d.]+) %", member.reason):
        assert float(found[1]) == round(entry.metrics["imagenet_top1"], 1)
    if found := re.search(r"([\d.]+) GMACs", member.reason):
        assert float(found[1]) == entry.metrics["gmacs"]
    assert member.source.startswith("https://") or member.source == "README.md"


def test_every_list_has_members_once():
    assert list(recommended.lists()) == [f"@{name}" for name in MOST]
    assert len({each.name for each in MEMBERS}) == len(MEMBERS)


def test_lists_as_patterns(isolated):
    small = [each.name for each in recommended.find("@small-image")]
    assert [entry.name for entry in zoo.list("@small-image")] == small
    assert [entry.name for entry in zoo.list("@image")][: len(small)] == small
    assert [entry.name for entry in zoo.list(recommended=True)] == [each.name for each in MEMBERS]
    assert {entry.modality for entry in zoo.list("@text")} == {"text"}
    assert [entry.name for entry in zoo.list("@recommended", modality="text")] == [e.name for e in zoo.list("@text")]


def test_unknown_list_names_the_known_ones(isolated):
    with pytest.raises(NameNotFound, match="@small-image, @base-image"):
        zoo.list("@tiny")


def test_list_command_shows_reasons(isolated):
    shown = CliRunner().invoke(main, ["list", "@small-image"]).output
    for each in recommended.find("@small-image"):
        assert f"{each.reason} [{each.source}]" in shown
    found = json.loads(CliRunner().invoke(main, ["list", "--recommended", "--json"]).output)
    assert [row["name"] for row in found] == [each.name for each in MEMBERS]
    assert "@small-image: for digits" in CliRunner().invoke(main, ["info", "native/resnet14.letters"]).output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("members = 3", "must have members, a list"),
        ("other = []", "must have members, a list"),
        ('members = [{ name = "a/b" }]', "is not a name with a reason and a source"),
        ("members = [3]", "is not a name with a reason and a source"),
    ],
)
def test_invalid_list(tmp_path, monkeypatch, text, message):
    path = tmp_path / "registry.toml"
    path.write_text(f'["@small-image"]\n{text}\n')
    monkeypatch.setattr(recommended, "core_path", lambda: path)
    with pytest.raises(CatalogueError, match=message):
        recommended.lists()


def test_lists_are_no_rows(tmp_path):
    path = tmp_path / "zoo.toml"
    path.write_text('["@small-image"]\nmembers = []\n')
    assert rows.read_catalogue(path) == {}
    assert rows.read_lists(path) == {"@small-image": []}


def test_architecture_alone_is_the_default_tag_as_in_timm(isolated):
    from timm.models import get_pretrained_cfg

    for name in ("resnet50", "vit_base_patch16_224", "convnext_tiny"):
        assert zoo.info(f"timm/{name}").name == f"timm/{name}.{get_pretrained_cfg(name).tag}"
    assert zoo.info("timm/resnet50@main").source == "hf://timm/resnet50.a1_in1k@main"


def test_short_name_of_several_lists_the_recommended_and_the_default_first(isolated):
    with pytest.raises(NameNotFound) as caught:
        zoo.info("convnext_tiny")
    assert caught.value.what.startswith(
        "'convnext_tiny' is ambiguous: timm/convnext_tiny.in12k_ft_in1k (recommended, 84.2 %, 27.8M, apache-2.0), "
    )
    assert caught.value.what.endswith("9 in all")
    with pytest.raises(NameNotFound) as caught:
        zoo.info("resnet50")
    listed = re.findall(r"(\S+) \(([\d.]+) %", caught.value.what)
    assert next(name for name, _ in listed) == "timm/resnet50.a1_in1k"
    others = [float(top1) for _, top1 in listed[1:]]
    assert others == sorted(others, reverse=True)
    assert caught.value.fix.startswith("use a full name: zoo info timm/resnet50.a1_in1k")
