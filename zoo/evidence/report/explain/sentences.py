"""Plain sentences about an explanation: only what its numbers show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from zoo.console import counted
from zoo.evidence.report.explain.explanation import Explanation, Probe, Stage
from zoo.evidence.report.facts import Facts
from zoo.evidence.statistics import ALPHA
from zoo.finetune.heads import stages_of
from zoo.tasks.task import LOWER_IS_BETTER

SAME, CHANGED = 0.99, 0.9
"""Debiased CKA from which outputs count as unchanged, and below which as changed."""


def added(found: Explanation, facts: Facts) -> Explanation:
    """Return the explanation with its sentences."""
    parts = (_moved(found, facts), _similar(found), _depth(found, facts), _tuned(found), _neighbours(found))
    return replace(found, sentences=tuple(sentence for part in parts for sentence in part))


def _moved(found: Explanation, facts: Facts) -> Iterator[str]:
    """Say which weights fine-tuning moved."""
    if found.is_frozen:
        yield (
            "The backbone is bit-identical to the pretrained one: the head alone was trained, on features that the "
            "pre-training learnt."
        )
        return
    known = [stage for stage in found.stages if stage.moved is not None]
    if not known:
        return
    most, least = (pick(known, key=lambda stage: stage.moved or 0.0) for pick in (max, min))
    still = [stage for stage in known if stage.moved == 0]
    if len(still) == len(known):
        yield "No weight of the backbone moved, but its buffers did (running statistics of BatchNorm)."
    else:
        kept = f"; {_listed(still)} stayed bit-identical" if still else ""
        lowest = "" if still or most is least else f", least in {_named(least)} ({_share(least.moved)})"
        far = f"by {_share(most.moved)} of their norm"
        yield f"Fine-tuning moved the weights most in {_named(most)}: {far}{lowest}{kept}."


def _similar(found: Explanation) -> Iterator[str]:
    """Say which outputs stayed the same."""
    if found.is_frozen:
        return
    known = [(stage, stage.similarity) for stage in found.stages if stage.similarity is not None]
    if not known:
        return
    same = [stage for stage, similarity in known if similarity.cka >= SAME]
    least, similarity = min(known, key=lambda pair: pair[1].cka)
    if same:
        yield (
            f"The outputs of {_listed(same)} are the same as before fine-tuning, up to rotation and scale (CKA of at "
            f"least {SAME} on {counted(found.counts['similarity'], 'example')})."
        )
    if similarity.cka < CHANGED:
        chance = " That is no more than unrelated features have." if similarity.cka <= similarity.floor else ""
        yield (
            f"{_outputs(least)} changed most: CKA {similarity.cka:.2f}, where unrelated features would have at "
            f"most {similarity.floor:.2f}.{chance}"
        )


def _depth(found: Explanation, facts: Facts) -> Iterator[str]:
    """Say from which depth on the task can be read, and whether the head reads there."""
    last = found.stages[-1].probe if found.stages else None
    probed = [(stage, stage.probe) for stage in found.stages[:-1] if stage.probe is not None]
    if last is None or not probed:
        return
    sign = -1 if found.metric in LOWER_IS_BETTER else 1
    differ = [(stage, probe) for stage, probe in probed if stage.p is not None and stage.p < ALPHA]
    worse = [(stage, probe) for stage, probe in differ if sign * (last.score - probe.score) > 0]
    better = [(stage, probe) for stage, probe in differ if sign * (probe.score - last.score) > 0]
    pooled = f"from the pooled features ({found.metric} {last.score:.3f})"
    reads_stages = bool(stages_of(facts.model.head))
    together = " The head of this model reads several stages together." if reads_stages else ""
    if worse:
        (first, lowest), (deepest, highest) = worse[0], worse[-1]
        until = "" if first is deepest else f" and still {highest.score:.3f} from {_named(deepest)}"
        yield f"A linear probe reads the task best {pooled}: {lowest.score:.3f} from {_named(first)}{until}." + (
            "" if deepest is probed[-1][0] else " From the stages behind, no worse reading can be shown."
        )
    if better:
        best, score = max(better, key=lambda pair: sign * pair[1].score)
        advice = "." if reads_stages else ": a head that reads stages may be better, head_stages=5."
        where = f"{_named(best)} ({score.score:.3f})"
        yield f"A linear probe reads the task better from {where} than {pooled}{advice}{together}"
    if not worse and not better:
        yield f"A linear probe reads the task from any stage as well as {pooled}, as far as can be shown.{together}"


def _tuned(found: Explanation) -> Iterator[str]:
    """Say whether fine-tuning made the pooled features better for the task."""
    last = found.stages[-1] if found.stages else None
    if last is None or last.probe is None or last.before is None or found.p_tuned is None:
        return
    between = f"{found.metric} {_score(last.before)} before, {_score(last.probe)} after"
    if found.p_tuned >= ALPHA:
        yield (
            f"No difference can be shown between what a linear probe reads from the pooled features before and after "
            f"fine-tuning: {between}, p = {found.p_tuned:.2f}."
        )
        return
    sign = -1 if found.metric in LOWER_IS_BETTER else 1
    how = "better" if sign * (last.probe.score - last.before.score) > 0 else "worse"
    yield f"Fine-tuning made the pooled features {how} for the task: {between}, p = {found.p_tuned:.2g}."


def _neighbours(found: Explanation) -> Iterator[str]:
    """Say how many of the worst errors lie among training examples of the class that was answered."""
    if not found.neighbours:
        return
    agreeing = sum(each.nearest[0][0].truth == each.item.answer for each in found.neighbours if each.nearest)
    if agreeing:
        total = len(found.neighbours)
        yield (
            f"Of the {total} worst errors, {agreeing} {'has' if agreeing == 1 else 'have'} a nearest training example "
            "with the label that was wrongly answered."
        )


def _score(probe: Probe) -> str:
    if probe.low is None or probe.high is None:
        return f"{probe.score:.3f}"
    return f"{probe.score:.3f} [{probe.low:.3f}, {probe.high:.3f}]"


def _share(value: float | None) -> str:
    return f"{100 * (value or 0):.2g} %"


def _named(stage: Stage) -> str:
    return "the pooled features" if stage.number is None else f"stage {stage.number}"


def _listed(stages: list[Stage]) -> str:
    """Name stages by number, neighbours as a range: stages 1 to 4, stage 6 and pooled features."""
    numbers = [stage.number for stage in stages if stage.number is not None]
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    named = [f"stage{'s' if len(numbers) > 1 else ''} {', '.join(parts)}"] if parts else []
    named += ["the pooled features" for stage in stages if stage.number is None]
    return " and ".join(named)


def _outputs(stage: Stage) -> str:
    return "The pooled features" if stage.number is None else f"The outputs of stage {stage.number}"
