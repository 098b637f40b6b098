"""Write the catalogue of the timm plugin: a row for every pretrained name of the installed timm.

    python tools/refresh_catalogue.py [FOLDER]

FOLDER holds timm's result tables, results-imagenet.csv and benchmark-infer-*.csv (under any prefix): a row gets the
ImageNet accuracy and the cost that they give for its very input. Names that timm has no .safetensors for are left out
and printed.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from zoo_timm import entries

from zoo.catalogue.rows import row_from_entry
from zoo.errors import NameNotFound
from zoo.plugin import Entry, ImageInput

CATALOGUE = Path(__file__).parents[1] / "plugins" / "zoo_timm" / "catalogue.json"
Table = Mapping[tuple[str, int], Mapping[str, str]]


def table(folder: Path | None, pattern: str, size: str) -> Table:
    """Return the rows of the CSV file that matches a pattern, by model and image size; none without a folder."""
    if folder is None:
        return {}
    (path,) = folder.glob(pattern)
    with path.open(encoding="utf-8", newline="") as file:
        return {(row["model"], int(row[size])): row for row in csv.DictReader(file)}


def metrics(entry: Entry, accuracies: Table, costs: Table) -> dict[str, float]:
    """Return what the tables say of a row: accuracy in percent, 10^9 multiplications an image, both at its input."""
    image = entry.input
    assert isinstance(image, ImageInput)
    name = entry.name.removeprefix("timm/")
    found = {}
    accuracy = accuracies.get((name, image.size))
    if accuracy and (float(accuracy["crop_pct"]), accuracy["interpolation"]) == (image.crop, image.interpolation):
        found["imagenet_top1"] = float(accuracy["top1"])
    if cost := costs.get((name.partition(".")[0], image.size)):
        found["gmacs"] = float(cost["infer_gmacs"].replace(",", ""))
    return found


def row(name: str, accuracies: Table, costs: Table) -> dict[str, object]:
    """Return the catalogue's row of a pretrained name; NameNotFound if its weights cannot be loaded safely."""
    entry = entries.pretrained(name)
    assert entry is not None
    facts = row_from_entry(entry)
    measured = metrics(entry, accuracies, costs)
    return {key: value for key, value in facts.items() if key not in ("name", "plugin")} | (
        {"metrics": measured} if measured else {}
    )


def main() -> None:
    """Write the catalogue, one row a line, and print what was left out."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    accuracies = table(folder, "*results-imagenet.csv", "img_size")
    costs = table(folder, "*benchmark-infer-*.csv", "infer_img_size")
    lines, left_out = [], []
    for name in entries.names():
        try:
            line = json.dumps(row(name, accuracies, costs), ensure_ascii=False)
        except NameNotFound:
            left_out.append(name)
        else:
            lines.append(f'"timm/{name}": {line}')
    CATALOGUE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{CATALOGUE}: {len(lines)} rows; left out, for want of .safetensors: {len(left_out)}", *left_out, sep="\n")


if __name__ == "__main__":
    main()
