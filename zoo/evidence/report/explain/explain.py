"""Explain a fine-tuned model: what its stages see, what fine-tuning moved, and what its answers rest on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from zoo.data.image_batches import Images
from zoo.evidence.report.explain import contrasts, items, neighbours, patches, saliency, sentences, stages
from zoo.evidence.report.explain.explanation import Explanation, Neighbours
from zoo.evidence.report.explain.filters import first_filters
from zoo.evidence.report.explain.stage_table import stage_table
from zoo.evidence.report.facts import Facts, Part

PICTURES = 128
"""Pictures among which the strongest responses are looked for, at most."""
Found = TypeVar("Found")


def explain(facts: Facts) -> Explanation:
    """Return why a model works, measured on samples of its data; what a backbone does not allow is in `missing`.

    Everything is deterministic but the seconds. Stages are read from the features of the examined examples; 128
    pictures go through the tuned backbone once more for patches, and 9 examples have saliency.
    """
    seconds: dict[str, float] = {}

    def timed(name: str, compute: Callable[[], Found]) -> Found:
        start = time.monotonic()
        result = compute()
        seconds[name] = round(time.monotonic() - start, 2)
        return result

    table = timed("stages", lambda: stage_table(facts))
    shown = timed("pictures", lambda: _of_pictures(facts))
    shown |= timed("saliency", lambda: _of_answers(facts))
    missing = table.missing | {name: found for name, found in shown.items() if isinstance(found, str)}
    counts = table.counts | ({"patches": len(_pictured(facts)[1])} if isinstance(shown["channels"], tuple) else {})
    found = Explanation(
        metric=facts.task.main_metric,
        is_frozen=table.is_frozen,
        stages=table.stages,
        p_tuned=table.p_tuned,
        held=facts.held_out.name if facts.held_out else "",
        counts=counts,
        missing=missing,
        seconds=seconds,
        **{name: found for name, found in shown.items() if not isinstance(found, str)},
    )
    return sentences.added(found, facts)


def _of_pictures(facts: Facts) -> dict[str, Any]:
    """Return filters and channels, or why there are none."""
    part, rows = _pictured(facts)
    if not isinstance(part.whole.inputs, Images):
        reason = "the backbone reads texts"
        return {"filters": reason, "channels": reason}
    return {"filters": first_filters(facts.backbone), "channels": patches.top_patches(facts.backbone, part, rows)}


def _pictured(facts: Facts) -> tuple[Part, list[int]]:
    """Return the part whose pictures are looked at, and which of them."""
    part = facts.parts.get("train") or next(iter(facts.parts.values()))
    return part, stages.sample(len(part), PICTURES, "patches")


def _of_answers(facts: Facts) -> Mapping[str, Any]:
    """Return saliency and neighbours, or why there are none."""
    held = facts.held_out or facts.parts["train"]
    picked = contrasts.chosen(facts.task, held)
    shown = saliency.of_each(facts, held, picked)
    train = facts.parts.get("train")
    if train is None or train is held:
        return {"saliency": shown, "neighbours": "there are no training examples beside the held-out ones"}
    if isinstance(shown, str) and not picked:
        return {"saliency": shown, "neighbours": shown}
    wrong = [each for each in picked if each.wrong]
    if not wrong:
        return {"saliency": shown, "neighbours": "no answer is wrong"}
    near = neighbours.nearest(train.features, held.features[[each.index for each in wrong]])
    found = [
        Neighbours(
            items.item(held, each.index, each.towards),
            tuple((items.item(train, index), cosine) for index, cosine in row),
        )
        for each, row in zip(wrong, near, strict=True)
    ]
    return {"saliency": shown, "neighbours": tuple(found)}
