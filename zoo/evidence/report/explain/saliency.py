"""Saliency: what in a picture or a text makes the model answer as it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data import texts
from zoo.data.datasets import LabelledDataset
from zoo.data.texts import Texts
from zoo.evidence.report.explain import items, word_saliency
from zoo.evidence.report.explain.attribution import occlusion
from zoo.evidence.report.explain.contrasts import Contrast
from zoo.evidence.report.explain.explanation import Saliency
from zoo.evidence.report.explain.word_saliency import Spans
from zoo.evidence.report.facts import Facts, Part
from zoo.finetune import setup
from zoo.finetune.freezing import eval_mode
from zoo.finetune.network import Network
from zoo.finetune.runtime.workers import parallel
from zoo.model import answers


def of_each(facts: Facts, part: Part, contrasts: Sequence[Contrast]) -> tuple[Saliency, ...] | str:
    """Return the saliency of examples of a part, or why there is none; in float32."""
    if not contrasts:
        return (
            "no answer is wrong"
            if facts.task.labelled
            else "a language model has no labels, so that no answer is wrong"
        )
    network, _ = answers.network(facts.model)
    with eval_mode(network, gradients=True):
        if not isinstance(part.whole.inputs, Texts):
            return tuple(parallel(lambda each: _of_image(network, part, each), contrasts, facts.model.device))
        found = {word_saliency.word_embedding(facts.backbone.module, _inputs(facts, part, each)) for each in contrasts}
        name = found.pop()
        if name is None or found:  # XLNet transposes the token ids, Longformer pads them
            return "no embedding of the backbone takes the token ids as they are"
        spans = [_spans(facts, part, each) for each in contrasts]  # one by one: a tokenizer has state
        jobs = list(zip(contrasts, spans, strict=True))
        modules = network, facts.backbone.module.get_submodule(name)
        return tuple(parallel(lambda job: _of_text(facts, part, modules, *job), jobs, facts.model.device))


def _of_image(network: Network, part: Part, contrast: Contrast) -> Saliency:
    device = next(network.parameters()).device
    batch = LabelledDataset(part.whole.inputs).batch(torch.tensor([part.chosen[contrast.index]])).to(device)
    assert isinstance(batch.inputs, Tensor)
    weight = contrast.weight.to(device)
    heat = occlusion(lambda images: network(images) @ weight, batch.inputs[0])
    return _saliency(part, contrast, {"heat": heat.cpu().numpy()})


def _of_text(
    facts: Facts, part: Part, modules: tuple[Network, nn.Module], contrast: Contrast, spans: Spans
) -> Saliency:
    network, embedding = modules
    inputs, weight = _inputs(facts, part, contrast), contrast.weight.to(facts.model.device)
    first = [span and span[0] for span in spans].index(contrast.word) if contrast.word is not None else None

    def score(tokens: dict[str, Tensor]) -> Tensor:
        outputs: Tensor = network(tokens)
        return (outputs if first is None else outputs[:, first]) @ weight

    assert facts.backbone.tokenizer is not None
    blank = word_saliency.masked(inputs["input_ids"], spans, facts.backbone.tokenizer)
    shares, base, error = word_saliency.of_tokens(score, embedding, inputs, blank)
    text = part.whole.examples.inputs[part.chosen[contrast.index]]
    words = word_saliency.by_word(text, spans, shares)
    word = "" if contrast.word is None else text[contrast.word]
    return _saliency(part, contrast, {"words": words, "blank": base, "error": error, "word": word})


def _inputs(facts: Facts, part: Part, contrast: Contrast) -> dict[str, Tensor]:
    batch = LabelledDataset(part.whole.inputs).batch(torch.tensor([part.chosen[contrast.index]])).to(facts.model.device)
    assert isinstance(batch.inputs, dict)
    return batch.inputs


def _spans(facts: Facts, part: Part, contrast: Contrast) -> Spans:
    how = setup.preprocessing(facts.backbone, facts.recipe)
    assert how.tokenizer is not None
    text = part.whole.examples.inputs[part.chosen[contrast.index]]
    return texts.token_spans(text, how.tokenizer, length=how.length, truncation=how.truncation)


def _saliency(part: Part, contrast: Contrast, found: dict[str, Any]) -> Saliency:
    outputs = part.values[contrast.index]
    row = outputs if contrast.word is None else outputs[contrast.word]
    shown = items.item(part, contrast.index, contrast.towards)
    return Saliency(shown, contrast.towards, contrast.against, float(row @ contrast.weight), contrast.wrong, **found)
