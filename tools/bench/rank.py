"""Rank against exhaustive tuning: regret of the recommended backbone, cost, and whether the tie group holds the best.

    python tools/bench/rank.py FOLDER [--tasks photos emoji] [--steps N] [--report]

Twelve image backbones: EfficientNet-Lite0 (ImageNet) at two sizes, the letters net, small nets pre-trained here by zoo
on Fashion-MNIST, digits and photos, and random ones. Six text backbones: MiniLM, its first layers, a small one
pre-trained here, random ones. Tasks of few examples. All are tuned on each task with the default recipe (300 steps,
random weights 500) or N steps, which is the truth; `zoo rank` sees the training examples alone and finds no cached
features. FOLDER keeps each tuned backbone (truth.jsonl) and each ranking (rankings.jsonl): a stopped run goes on.
--report prints what is there, as the rule of `zoo.evidence.verdict` decides now. One thread; CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rank_sets
import rank_texts
from rank_sets import TOOLS

from zoo.evidence import verdict
from zoo.evidence.verdict import Ranking, Row

SPLITS = 200
"""Random halves of the test items: on one the best backbone is chosen, on the other it is measured."""
REGRETS = ("regret", "fair", "of_first", "of_group", "of_static", "of_all")
TASKS = (*rank_sets.TASKS, *rank_texts.TASKS)
KEPT = ("name", "score", "low", "high", "examples", "round", "bytes", "params", "ms", "gmacs", "seconds", "items")
"""Fields of a ranking's rows that decide."""
Truth = Mapping[str, Mapping[str, Any]]


def of(task: str) -> Any:
    """Return the module that a task is of: images or texts."""
    return rank_texts if task in rank_texts.TASKS else rank_sets


def tune(task: str, backbone: str, steps: int | None) -> dict[str, Any]:
    """Fine-tune a backbone on a task; returns its hits on the test examples, 0 or 1, and the CPU seconds."""
    import zoo

    sets = of(task)
    train, test = sets.examples(task)
    start = cpu()
    model = zoo.load(backbone, "cpu")
    strategy = "scratch" if backbone in sets.RANDOM else "lp-ft"
    model.finetune(train, valid=0, strategy=strategy, steps=steps, quiet=True)
    spent = cpu() - start
    report = model.measure(test)
    hits = report.task.item_scores(report.outputs.values, report.outputs.targets)
    return {"hits": [int(hit) for hit in hits.tolist()], "seconds": round(spent, 1)}


def cpu() -> float:
    """Return the CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def truth(task: str, names: Sequence[str], steps: int | None, file: Path) -> Truth:
    """Return hits and seconds of each backbone tuned on a task; those in the file are not tuned again."""
    rows = [row for row in lines(file) if (row["task"], row["steps"]) == (task, steps)]
    found = {row["backbone"]: row for row in rows}
    for name in names:
        if name not in found:
            row = {"task": task, "backbone": name, "steps": steps, **tune(task, name, steps)}
            found[name] = row
            append(file, row)
            print(f"tuned {task:<11} {name:<24} {np.mean(row['hits']):.3f}", file=sys.stderr, flush=True)
    return {name: found[name] for name in names}


def ranked(task: str, names: Sequence[str], home: Path) -> dict[str, Any]:
    """Rank the backbones on a task without anything cached; returns what it found and the CPU seconds."""
    from zoo.console import quiet
    from zoo.evidence.ranking import rank

    shutil.rmtree(home / "cache", ignore_errors=True)
    start = cpu()
    with quiet():
        found = rank(of(task).examples(task)[0], list(names), workers=1, device="cpu")
    return {
        "task": task,
        "static": found.static_choice,
        "seconds": round(cpu() - start, 1),
        "rows": [{key: getattr(row, key) for key in KEPT} for row in found.rows],
    }


def decided(found: Mapping[str, Any]) -> Ranking:
    """Return what a kept ranking recommends."""
    rows = [Row(**row) for row in found["rows"]]
    return verdict.conclude(rows, found["static"], "accuracy", is_share=True)


def compared(found: Ranking, tuned: Truth) -> dict[str, Any]:
    """Return the regrets of a ranking in points, against the best tuned backbone: of the one that it recommends, of its
    first one, the best of group 1, the static choice, and the mean of all; with standard errors.

    "regret" is against the backbone that is best on the test items themselves, whose score is optimistic; "fair" is
    against the one that is best on a random half of them, measured on the other half.
    """
    hits = {name: np.array(row["hits"], dtype=float) for name, row in tuned.items()}
    best = max(hits, key=lambda name: hits[name].mean())
    chosen = {"regret": found.recommended, "of_first": found.rows[0].name, "of_static": found.static_choice}
    regrets = {key: 100 * (hits[best].mean() - hits[name].mean()) for key, name in chosen.items()}
    against_static = 100 * (hits[found.recommended] - hits[found.static_choice])
    difference = 100 * (hits[best] - hits[found.recommended])
    group = [row.name for row in found.rows if row.group == 1]
    top = max(hits[name].mean() for name in group)
    return {
        **regrets,
        "error": standard_error(difference),
        "of_group": 100 * (hits[best].mean() - top),
        "fair": fair_regret(hits, found.recommended),
        "over_static": against_static.mean(),
        "over_static_error": standard_error(against_static),
        "of_all": 100 * (hits[best].mean() - np.mean([each.mean() for each in hits.values()])),
        "best": best,
        "holds": best in group,
        "group": len(group),
        "tune_seconds": sum(row["seconds"] for row in tuned.values()),
    }


def standard_error(values: np.ndarray[Any, Any]) -> float:
    """Return the standard error of a mean."""
    return float(values.std(ddof=1) / len(values) ** 0.5)


def fair_regret(hits: Mapping[str, np.ndarray[Any, Any]], chosen: str) -> float:
    """Return the mean regret in points against the backbone that is best on a random half, on the other half."""
    names, matrix = list(hits), np.stack(list(hits.values()))
    chance, found = np.random.default_rng(0), []
    for _ in range(SPLITS):
        order = chance.permutation(matrix.shape[1])
        half, other = order[: len(order) // 2], order[len(order) // 2 :]
        best = matrix[:, half].mean(1).argmax()
        found.append(matrix[best, other].mean() - matrix[names.index(chosen), other].mean())
    return 100 * float(np.mean(found))


def lines(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSONL file; none without one."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def append(file: Path, row: Mapping[str, Any]) -> None:
    """Append a row to a JSONL file."""
    with file.open("a") as out:
        out.write(json.dumps(row) + "\n")


def prepare(folder: Path, tasks: Sequence[str]) -> dict[Any, list[str]]:
    """Prepare the backbones of some tasks; returns the names of images and of texts, by module."""
    found = {sets: sets.prepare(folder) for sets in {of(task): None for task in tasks}}
    (folder / "zoo.toml").write_text("\n".join(rows for _, rows in found.values()))
    return {sets: names for sets, (names, _) in found.items()}


def report(folder: Path, steps: int | None) -> None:
    """Print a row for each task that was tuned and ranked, and the means."""
    tuned = [row for row in lines(folder / "truth.jsonl") if row["steps"] == steps]
    latest = {row["task"]: row for row in lines(folder / "rankings.jsonl")}
    print("regret in points of test accuracy against the best of all tuned backbones")
    print("task        recommended ± s.e.  fair  best score  best of group 1  static  mean of all  holds (size)  CPU s")
    rows = []
    for task, found in latest.items():
        of_task = {row["backbone"]: row for row in tuned if row["task"] == task}
        if set(of_task) != {row["name"] for row in found["rows"]}:
            continue
        ranking = decided(found)
        row = found | compared(ranking, of_task)
        rows.append(row)
        held = f"{'yes' if row['holds'] else 'no'} ({row['group']})"
        regret = f"{row['regret']:.1f} ± {row['error']:.1f}"
        others = (f"{row[key]:.1f}" for key in REGRETS[1:])
        cost = f"{row['seconds']:.0f} of {row['tune_seconds']:.0f}"
        print(f"{task:<12}{regret:>17}", *(f"{each:>9}" for each in others), f"{held:>9}  {cost}")
        over = f"{row['over_static']:+.1f} ± {row['over_static_error']:.1f}"
        print(f"            recommended {ranking.recommended}, {over} over static; best {row['best']}")
    if rows:
        print("mean:", ", ".join(f"{key} {np.mean([row[key] for row in rows]):.2f}" for key in REGRETS))
        cost = sum(row["seconds"] for row in rows) / sum(row["tune_seconds"] for row in rows)
        print(f"best in group 1: {sum(row['holds'] for row in rows)} of {len(rows)}; cost: {cost:.3f} of tuning all")


def main() -> None:
    """Tune, rank and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    folder = given.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["ZOO_HOME"] = str(folder / "store")
    os.environ.setdefault("ZOO_REAL", str(TOOLS.parent / ".real"))
    os.chdir(folder)
    if not given.report:
        prepared = prepare(folder, given.tasks)
        for task in given.tasks:
            names = prepared[of(task)]
            if task not in {row["task"] for row in lines(folder / "rankings.jsonl")}:
                append(folder / "rankings.jsonl", ranked(task, names, folder / "store"))
            truth(task, names, given.steps, folder / "truth.jsonl")
    report(folder, given.steps)


if __name__ == "__main__":
    main()
