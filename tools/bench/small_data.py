"""Benchmark transfer from few examples: zoo against a logistic regression on the same frozen features, and peers.

python tools/bench/small_data.py [--sets …] [--weights …] [--sizes …] [--draws …] [--sides …]
python tools/bench/small_data.py --report

Every side sees the same draws of training examples, and is measured on the same test examples. Each run is a line of
the results file; those that it holds are skipped, so a killed benchmark continues. `--report` writes docs/benchmark.md
and its picture from the file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import peers
import small_peers
import small_report
import small_sets
import small_sides
from small_sides import Cell

LETTERS = "native/resnet14.letters"
PULLED = (peers.LITE0, peers.LITE1, peers.LITE2, peers.MINILM)
SMALL_IMAGES = ("fashion", "digits")
SIZES: tuple[int | None, ...] = (2, 5, 10, 20, 50, None)
RESULTS = Path(__file__).with_suffix(".jsonl")


def weights_of(name: str) -> Sequence[str]:
    """Return the backbones that a data set is measured with."""
    if small_sets.SETS[name].modality == "text":
        return (peers.MINILM,)
    return (peers.LITE0, LETTERS) if name in SMALL_IMAGES else (peers.LITE0, peers.LITE1, peers.LITE2)


def cells(asked: argparse.Namespace) -> Iterator[Cell]:
    """Yield the runs asked for, all of a data set and its weights together."""
    for name in asked.sets:
        for weights in (found for found in weights_of(name) if any(part in found for part in asked.weights)):
            for size in asked.sizes:
                if size is None or small_sets.split(name).has(size):
                    for draw in range(asked.draws if size else 1):  # there is one choice of all
                        yield from (Cell(name, weights, size, draw, side) for side in asked.sides)


def known(path: Path) -> set[Cell]:
    """Return the runs that a results file holds."""
    fields = [field.name for field in dataclasses.fields(Cell)]
    return {Cell(**{name: row[name] for name in fields}) for row in small_report.rows(path)}


def run(asked: argparse.Namespace) -> None:
    """Run what the results file does not hold."""
    small_sides.prepare(PULLED)
    done = known(asked.results)
    for cell in cells(asked):
        if cell in done or not small_peers.suits(cell):
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        if cell.side in small_peers.SIDES:
            found = dict(small_peers.process(cell))
        else:
            found = dict(small_sides.SIDES[cell.side](cell))
            found |= {"cpu": round(time.process_time() - cpu, 2), "wall": round(time.perf_counter() - wall, 2)}
        row = dataclasses.asdict(cell) | {"n": len(cell.train), **found, "accuracy": round(found["accuracy"], 5)}
        with asked.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(*row.values(), flush=True)


def _size(text: str) -> int | None:
    return None if text == "all" else int(text)


def main() -> None:
    sides = [*small_sides.SIDES, *small_peers.SIDES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=small_sets.SETS, default=list(small_sets.SETS), metavar="SET")
    parser.add_argument("--weights", nargs="+", default=[""], help="parts of the names of backbones")
    parser.add_argument("--sizes", nargs="+", type=_size, default=SIZES, help="examples of each class, or all")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--sides", nargs="+", choices=sides, default=list(small_sides.SIDES), metavar="SIDE")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="write docs/benchmark.md and its picture")
    parser.add_argument("--cell", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.cell:
        small_sides.prepare(PULLED)
        small_peers.answer(Cell(**asked.cell))
    elif asked.report:
        small_report.write(small_report.rows(asked.results))
    else:
        run(asked)
        print(small_report.gains(small_report.rows(asked.results)))


if __name__ == "__main__":
    main()
