"""Why a model works, end to end: every kind of backbone and task, fine-tuned for two steps on a few examples."""

from __future__ import annotations

import pictures
import pytest
import tiny
import torch
import words

import zoo
from zoo.evidence.report import facts
from zoo.evidence.report.explain.explain import explain
from zoo.evidence.report.explain.explanation import Explanation
from zoo.evidence.report.page import why
from zoo.finetune.features import linear_probe

QUICK = {"strategy": "full", "steps": 2, "lr": 0.02, "evals": 1, "valid": 0.4, "quiet": True}
NOT_THERE = "the pretrained weights of the backbone are not in the store"
TEXTS = "the backbone reads texts"


@pytest.fixture(autouse=True)
def one_penalty(monkeypatch):
    """Try one strength of L2 instead of ten: what probes are worth is tested in test_explain.py."""
    monkeypatch.setattr(linear_probe, "PENALTIES", (0.1,))


def legend(found: Explanation) -> list[str]:
    """Return what the lines of the chart of probes by depth are called."""
    return [line.name for line in why._depth(found).legend if line.name]


def explained(name: str, data: list, **fields) -> Explanation:
    model = zoo.load(name, "cpu").finetune(data, **QUICK | fields)
    return explain(facts.collect(model, data))


def served(serve, kind: str) -> str:
    serve(net=tiny.repository(kind))
    return "hf/tiny/net"


def test_a_convolutional_net_without_pretrained_weights(isolated):
    model = zoo.load(pictures.catalogue(isolated, size=24), "cpu")
    model.finetune(pictures.pairs(8), **QUICK | {"strategy": "scratch"})
    found, again = (explain(facts.collect(model, pictures.pairs(8))) for _ in range(2))
    assert (found.stages, found.sentences, found.neighbours) == (again.stages, again.sentences, again.neighbours)
    assert all((a.heat == b.heat).all() for a, b in zip(found.saliency, again.saliency, strict=True))
    assert found.missing == {"similarity": NOT_THERE}
    assert [stage.name for stage in found.stages[1:]] == ["layer1", "layer2", "layer3", "pooled features"]
    assert all(stage.probe is not None and stage.moved is None for stage in found.stages)
    assert {channel.stage for channel in found.channels} == {1, 2, 3, 4}
    assert all(len(channel.patches) == 5 for channel in found.channels)
    assert all(shown.heat.shape == (6, 6) for shown in found.saliency)
    assert found.counts == {"train": 15, "valid": 9, "patches": 15}


def test_a_frozen_backbone_moved_exactly_0_and_its_features_are_the_same(serve):
    found = explained(served(serve, "vit"), pictures.pairs(8), strategy="probe")
    assert found.is_frozen
    assert {stage.moved for stage in found.stages} == {0, None}  # pooled features have no weights
    assert found.missing["stages"] == "it is not certain how to pool the outputs of stage 1"
    assert all(stage.similarity.cka == pytest.approx(1) for stage in found.stages[1:])
    assert all(stage.before == stage.probe for stage in found.stages)
    assert "bit-identical" in found.sentences[0]
    assert legend(found) == ["pretrained"]
    assert found.filters.shape == (32, 3, 8, 8)
    assert {channel.stage for channel in found.channels} == {2, 3, 4}


def test_a_text_encoder_that_moved(serve):
    found = explained(served(serve, "bert"), words.reviews(24))
    assert not found.is_frozen
    assert legend(found) == ["pretrained", "fine-tuned"]
    assert all(0 < stage.moved < 1 for stage in found.stages[:-1])
    assert all(stage.similarity.floor < stage.similarity.cka <= 1 for stage in found.stages)
    assert found.missing == {"filters": TEXTS, "channels": TEXTS}
    shown = found.saliency[0]
    assert (" ".join(word for word, _ in shown.words), shown.item.truth) in words.reviews(24)
    assert shown.blank + sum(share for _, share in shown.words) == pytest.approx(shown.score, abs=0.05)
    near = found.neighbours[0].nearest
    assert [cosine for _, cosine in near] == sorted((cosine for _, cosine in near), reverse=True)
    assert near[0][0].part == "train"


@pytest.mark.real
def test_a_decoder_and_pairs_of_texts(serve):
    data = [((text, "a film"), label) for text, label in words.reviews(24)]
    found = explained(served(serve, "bert"), data, steps=1)
    assert [word for word, _ in found.saliency[0].words][-2:] == ["a", "film"]
    found = explained(served(serve, "gpt2"), words.reviews(24), steps=1)
    assert found.saliency[0].words
    assert found.stages[-1].probe is not None


def test_a_tagger_reads_words(serve):
    data = [
        (text.split(), ["X" if word in words.GOOD else "O" for word in text.split()]) for text, _ in words.reviews(30)
    ]
    found = explained(served(serve, "bert"), data)
    assert found.metric == "macro_f1"
    assert all(stage.probe is not None for stage in found.stages)
    shown = found.saliency[0]
    assert shown.blank + sum(share for _, share in shown.words) == pytest.approx(shown.score, abs=0.05)


def test_numbers(isolated):
    data = [(image, float(number)) for number, (image, _) in enumerate(pictures.pairs(6))]
    found = explained(pictures.catalogue(isolated, size=24), data, strategy="scratch")
    assert (found.saliency[0].towards, found.saliency[0].against) in {("higher", "lower"), ("lower", "higher")}
    assert found.channels


@pytest.mark.real
def test_several_labels(serve):
    data = [(image, [label, "coloured"]) for image, label in pictures.pairs(6)]
    assert explained(served(serve, "resnet"), data, task="multilabel").stages[-1].probe is not None


def test_a_language_model_has_stages_but_no_labels_to_probe_for(serve):
    found = explained(served(serve, "bert"), [text for text, _ in words.reviews(60)], task="masked-lm", steps=1)
    assert "no labels" in found.missing["saliency"]
    assert "labels" in found.missing["probe"]
    assert all(stage.similarity is not None for stage in found.stages)


def test_saliency_is_where_a_planted_shortcut_is(isolated):
    """Grey noise whose only difference between the classes is a square in a corner."""
    data = []
    for number, (image, _) in enumerate(pictures.pairs(24, ("grey",))):
        image = image.copy()
        image[:5, 11:] = (250, 40, 40) if number % 2 else (40, 40, 250)
        data.append((image, "a" if number % 2 else "b"))
    torch.manual_seed(0)
    found = explained(pictures.catalogue(isolated, size=16), data, strategy="scratch", steps=25)
    right = [shown for shown in found.saliency if not shown.wrong]
    assert len(right) == 2
    for shown in right:
        assert divmod(int(shown.heat.argmax()), 6) in {(0, 4), (0, 5), (1, 4), (1, 5)}
