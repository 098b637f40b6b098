"""Export a saved model to every format: largest difference, and milliseconds an item against zoo's own predict.

    python tools/bench/export.py MODEL DATA

Both sides answer the same items one at a time, from the file or the text on: run.py in a process without zoo, zoo's
predict in this one directly afterwards. A format that cannot express the model has its reason.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import zoo
from zoo import console
from zoo.data.reading import read_one
from zoo.errors import ExportError
from zoo.export import formats

ITEMS = 32


def main() -> None:
    """Print a line for each format."""
    model = zoo.load(Path(sys.argv[1]), "cpu")
    read = read_one(sys.argv[2], modality=model.entry.modality)
    step = max(1, len(read) // ITEMS)
    items = [read.inputs[i] for i in range(0, len(read), step)][:ITEMS]
    model.predict(items[:1])
    print(f"{'format':<22} {'difference':>10} {'ms':>8} {'zoo ms':>8} {'ratio':>6}")
    for form in (*formats.LIBRARIES, *formats.GRAPHS):
        with tempfile.TemporaryDirectory() as folder, console.quiet():
            try:
                found = model.export(form, Path(folder, form), items)
            except ExportError as error:
                print(f"{form:<22} {error.what}")
                continue
            start = time.perf_counter()
            for item in items:
                model.predict([item])
            ms = 1000 * (time.perf_counter() - start) / len(items)
        print(f"{form:<22} {found.max_difference:10.1e} {found.ms:8.1f} {ms:8.1f} {found.ms / ms:6.2f}", flush=True)


if __name__ == "__main__":
    main()
