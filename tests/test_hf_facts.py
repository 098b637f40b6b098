"""Facts of families.json: equal to those of transformers, which is imported only where they do not suffice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import tiny
from hub import Hub
from zoo_hf import configs, facts, inputs

FAMILIES = facts._table()["families"]
KINDS = [kind for kind in (*tiny.TEXT, *tiny.VISION) if kind in FAMILIES]
PROCESSORS = (
    {},
    {"size": 96},
    {"size": {"shortest_edge": 96}, "crop_size": {"height": 80, "width": 80}, "do_center_crop": True, "resample": 3},
    {"size": {"height": 96, "width": 96}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
    {"do_normalize": False, "do_rescale": False, "image_mean": None, "size": None},
)


def config(kind):
    return json.loads(tiny.repository(kind)["config.json"])


def test_the_tested_architectures_but_one_are_in_the_table():
    assert {*tiny.TEXT, *tiny.VISION} - {*KINDS} == {"vit_mae"}  # becomes a ViT


@pytest.mark.parametrize("kind", KINDS)
def test_facts_of_the_table_are_those_of_transformers(kind):
    given = config(kind)
    for values in (given, {"model_type": kind}, given | {"pad_token_id": 1}):
        found = facts.from_table(values)
        assert found == facts.from_transformers("x", values)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in tiny.VISION])
@pytest.mark.parametrize("values", PROCESSORS)
def test_image_inputs_of_the_table_are_those_of_transformers(kind, values):
    known = facts.from_table(config(kind))
    described = inputs.with_size(known.image_size, values)
    processor = facts.processor(known, described)
    of_transformers = inputs.processor("x", configs.make("x", config(kind), "image"), described)
    found, expected = (inputs.image_input(each, known.channels) for each in (processor, of_transformers))
    assert found == expected


@pytest.mark.parametrize("said", ["ViTFeatureExtractor", "ConvNextImageProcessor", "BitImageProcessorFast"])
def test_a_named_image_processor_replaces_that_of_the_architecture(said):
    known = facts.from_table(config("resnet"))
    values = {"image_processor_type": said, "size": 64}
    of_transformers = inputs.processor("x", configs.make("x", config("resnet"), "image"), values)
    assert facts.processor(known, values).kind == of_transformers.kind
    assert inputs.image_input(facts.processor(known, values), 3) == inputs.image_input(of_transformers, 3)


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "unheard-of"},
        {"model_type": None},
        {"model_type": ["bert"]},
        {"model_type": "bert", "hidden_size": "wide"},
        {"model_type": "bert", "hidden_size": True},
        {"model_type": "bert", "max_position_embeddings": None},
        {"model_type": "bert", "max_position_embeddings": 1.5},
        {"model_type": "bert", "is_encoder_decoder": 0},
        {"model_type": "bert", "vision_config": {}},
        {"model_type": "gpt2", "n_positions": 8, "max_position_embeddings": 9},
        {"model_type": "vit", "num_frames": 8},
        {"model_type": "vit", "image_size": "224"},
        {"model_type": "clip"},
    ],
)
def test_other_configurations_are_left_to_transformers(values):
    assert facts.from_table(values) is None


@pytest.mark.parametrize(
    "values", [{"image_processor_type": "MyImageProcessor"}, {"size": {"side": 3}}, {"crop_size": [1, 2]}]
)
def test_other_image_processors_are_left_to_transformers(values):
    assert facts.processor(facts.from_table(config("vit")), values) is None


@pytest.mark.parametrize(("version", "used"), [("4.57.1", False), ("99.0.0.dev0", True), ("x", False)])
def test_the_table_is_not_used_with_an_older_transformers(version, used, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    table = facts._table.__wrapped__()
    assert bool(table["families"]) is used


def test_length_is_the_smallest_limit():
    known = SimpleNamespace(kind="roberta", positions=514, pad=1)
    assert facts.length(known, {}, {}) == 512
    assert facts.length(known, {"model_max_length": 10**30}, {"max_seq_length": 128}) == 128


@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_a_new_pull_does_not_import_transformers_or_torch(kind):
    code = "import sys; from zoo.cli import main; main(sys.argv[1:], standalone_mode=False); print(*sys.modules)"
    with Hub({"tiny/net": tiny.repository(kind)}) as hub:
        environ = {**os.environ, "HF_ENDPOINT": hub.url}
        for command in ("info", "pull", "info"):
            argv = [sys.executable, "-c", code, command, "hf/tiny/net"]
            done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=True)
            assert not {"torch", "transformers", "numpy"} & {*done.stdout.splitlines()[-1].split()}
