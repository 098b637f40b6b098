"""`zoo.compare` on real photos, mails and digits: its sentences, and its numbers as JSON.

    python tools/bench/compare.py digits|photos|mails --home FOLDER [--full] [--draws 3] [--sizes 36,144] [--steps 50]

Weights come from the package indexes. Photos are read at 128 px and mails cut to 64 tokens, so that training from
scratch ends within minutes; with --full at 224 px, and to 256 tokens. FOLDER is the store: finished runs are kept
there, a comparison that is stopped goes on. Prints CPU seconds, and writes the picture beside the numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
from pathlib import Path
from typing import Any

import peers  # adds tools and tests to the path
import real_data

SIZES = {"digits": "20,50,100", "photos": "36,144", "mails": "50,200"}
FIELDS: dict[str, dict[str, Any]] = {"mails": {"max_length": 64}}
ROW = """
["lite0/at-128px"]
plugin = "timm"
modality = "image"
source = "file://{folder}"
files = [{{ path = "tf_efficientnet_lite0.in1k.safetensors" }}]
input = {{ size = 128, mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5], interpolation = "bicubic", crop = 0.875 }}
options = {{ arch = "tf_efficientnet_lite0.in1k" }}
"""


def source(name: str, home: Path, full: bool) -> tuple[str, object, float]:
    """Return the backbone, the data and the share of test items of a comparison."""
    peers.pull({"photos": [peers.LITE0], "mails": [peers.MINILM]}.get(name, []), home)
    if name == "digits":
        from zoo.model.demo import digits

        return "native/resnet14.letters", digits(), 0.5
    if name == "photos" and full:
        return peers.LITE0, real_data.photos(), 0.5
    if name == "photos":
        (home / "config").mkdir(exist_ok=True)
        (home / "config" / "zoo.toml").write_text(ROW.format(folder=home))
        os.environ["ZOO_CONFIG_HOME"] = str(home / "config")
        return "lite0/at-128px", real_data.photos(), 0.5
    return peers.MINILM, real_data.mails(), 500 / 6046


def main() -> None:
    """Compare, print the sentences, and write the result beside the store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=list(SIZES))
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--sizes")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    home = given.home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    backbone, data, test = source(given.data, home, given.full)
    from zoo.evidence import curve_plot
    from zoo.evidence.compare import compare

    sizes = [int(size) for size in (given.sizes or SIZES[given.data]).split(",")]
    fields = ({} if given.full else FIELDS.get(given.data, {})) | ({"steps": given.steps} if given.steps else {})
    options = {"draws": given.draws, "test": test, "device": "cpu", "workers": given.workers}
    found = compare(backbone, data, sizes=sizes, **options, **fields)
    curve_plot.plot(found, home / f"{given.data}.png")
    (home / f"{given.data}.json").write_text(json.dumps(found.to_dict(), indent=1))
    for row in found.rows:
        print(f"{row.size:>6,} {row.strategy:<8} {row.mean:.3f} [{row.low:.3f}, {row.high:.3f}]  gap {row.gap:.3f}")
    for sentence in found.sentences:
        print("-", sentence)
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(f"{sum(each.ru_utime + each.ru_stime for each in spent):.0f} s of CPU time, those of an earlier run left out")


if __name__ == "__main__":
    main()
