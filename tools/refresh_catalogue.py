"""Generate the catalogue of the timm plugin: a row per pretrained model of the installed timm.

    python tools/refresh_catalogue.py [FOLDER]

FOLDER contains timm's result tables, *results-imagenet.csv and *benchmark-infer-*.csv, which add ImageNet accuracy and
GMACs to rows with the same input. Models without .safetensors are omitted and printed.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from timm.models import get_pretrained_cfg
from zoo_timm import entries

from zoo.catalogue.rows import row_from_entry
from zoo.errors import NameNotFound
from zoo.plugin import Entry, ImageInput

CATALOGUE = Path(__file__).parents[1] / "plugins" / "zoo_timm" / "catalogue.json"
Table = Mapping[tuple[str, int], Mapping[str, str]]


def table(folder: Path | None, pattern: str, size: str) -> Table:
    """Return the rows of the CSV file that matches a pattern, by (model, image size); {} without a folder."""
    if folder is None:
        return {}
    (path,) = folder.glob(pattern)
    with path.open(encoding="utf-8", newline="") as file:
        return {(row["model"], int(row[size])): row for row in csv.DictReader(file)}


def metrics(entry: Entry, accuracies: Table, costs: Table) -> dict[str, float]:
    """Return top-1 accuracy in percent and GMACs per image of a row, if the tables have its input."""
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


def aliases(name: str) -> dict[str, list[str]]:
    """Return the alias of a name whose tag is timm's default: resnet50.a1_in1k is timm/resnet50, as in timm itself."""
    architecture, _, tag = name.partition(".")
    default = get_pretrained_cfg(architecture)
    return {"aliases": [f"timm/{architecture}"]} if tag and default is not None and default.tag == tag else {}


def row(name: str, accuracies: Table, costs: Table) -> dict[str, object]:
    """Return the catalogue row of a pretrained name; raises NameNotFound if it has no .safetensors."""
    entry = entries.pretrained(name)
    assert entry is not None
    facts = row_from_entry(entry)
    measured = metrics(entry, accuracies, costs)
    kept = {key: value for key, value in facts.items() if key not in ("name", "plugin")}
    return kept | aliases(name) | ({"metrics": measured} if measured else {})


def main() -> None:
    """Write the catalogue, one row per line, and print omitted names."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    accuracies = table(folder, "*results-imagenet.csv", "img_size")
    costs = table(folder, "*benchmark-infer-*.csv", "infer_img_size")
    lines, omitted_names = [], []
    for name in entries.names():
        try:
            line = json.dumps(row(name, accuracies, costs), ensure_ascii=False)
        except NameNotFound:
            omitted_names.append(name)
        else:
            lines.append(f'"timm/{name}": {line}')
    CATALOGUE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(
        f"{CATALOGUE}: {len(lines)} rows; omitted without .safetensors: {len(omitted_names)}", *omitted_names, sep="\n"
    )


if __name__ == "__main__":
    main()
