"""Pretrain the bundled backbone, a small ResNet, on synthetic letters; write its weights and catalogue row.

    python tools/pretrain_embedded.py
    python tools/pretrain_embedded.py --train 20800 --epochs 1 --out /tmp/trial

Trains with `finetune(strategy="scratch")` on the letters of tools/letters.py. The printed accuracy is measured once,
after training, on letters of unseen font families, which are not used for any choice.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path

import letters
import own_row
from safetensors.torch import save

import zoo

NAME = "native/resnet14.letters"
FILE = "resnet14.letters.safetensors"
LIMIT = 1_000_000
"""Maximum file size in bytes: the file is part of the package."""
MEAN, STD = 0.3, 0.33
"""Pixel statistics of the letters; those of scanned digits are 0.31 and 0.32."""
WEIGHTS = Path(__file__).resolve().parents[1] / "plugins" / "zoo_native" / "weights"
RECIPE = {
    "strategy": "scratch",
    "batch_size": 128,
    "lr": 4e-3,
    "weight_decay": 0.05,
    "label_smoothing": 0.1,
    "augment": "none",  # the letters are already shifted randomly
    "precision": "bf16",
}


def pairs(images: object, labels: object) -> list[tuple[object, str]]:
    """Return (image (28, 28), letter) pairs."""
    return [(image, letters.LETTERS[label]) for image, label in zip(images, labels, strict=True)]


def accuracies(model: zoo.Model, held: list[tuple[object, str]]) -> dict[str, float]:
    """Return the accuracy in percent over 52 classes, and case-insensitive over 26."""
    found = [prediction.label for prediction in model.predict([image for image, _ in held])]
    truth = [label for _, label in held]
    either = [(a.lower(), b.lower()) for a, b in zip(found, truth, strict=True)]
    return {
        "unseen_fonts_top1": share(zip(found, truth, strict=True)),
        "unseen_fonts_top1_either_case": share(either),
    }


def share(pairs: object) -> float:
    """Return the percentage of equal pairs."""
    same = [a == b for a, b in pairs]
    return round(100 * sum(same) / len(same), 2)


def write(model: zoo.Model, folder: Path) -> dict[str, object]:
    """Save the backbone as float32 safetensors; return the entry of the file for the row."""
    state = {key: tensor.cpu().contiguous() for key, tensor in model.backbone.module.state_dict().items()}
    content = save(state, {"format": "pt"})
    if len(content) > LIMIT:
        raise SystemExit(f"{FILE} would have {len(content):,} bytes, more than {LIMIT:,}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_bytes(content)
    return {"path": FILE, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def row(model: zoo.Model, data: letters.Letters, file: dict[str, object], metrics: dict[str, float]) -> str:
    """Return the catalogue row as TOML."""
    bare = own_row.grey("resnet14", MEAN, STD)
    return own_row.table(
        NAME,
        {
            "modality": bare["modality"],
            "source": "package://backbone-zoo/zoo_native/weights",
            "files": [file],
            "dim": model.backbone.dim,
            "params": sum(parameter.numel() for parameter in model.backbone.module.parameters()),
            "license": bare["license"],
            "pretrained_on": f"{len(data.images):,} letters drawn from {data.fonts:,} open fonts, 52 classes",
            "tasks": bare["tasks"],
            "metrics": metrics,
            "input": bare["input"],
            "options": bare["options"],
        },
    )


def main() -> int:
    """Train, evaluate, write the file and print the row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=208_000, help="number of training images")
    parser.add_argument("--held", type=int, default=10_400, help="number of held-out images")
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder for the file")
    args = parser.parse_args()
    data = letters.load(args.train, args.held, args.seed)
    start = time.monotonic()
    model = own_row.load("native/letters", own_row.grey("resnet14", MEAN, STD))
    model.finetune(pairs(data.images, data.labels), valid=0, epochs=args.epochs, seed=args.seed, **RECIPE)
    metrics = accuracies(model, pairs(data.held_images, data.held_labels))
    file = write(model, args.out)
    print(
        f"# {args.epochs:g} epochs, seed {args.seed}, {time.monotonic() - start:.0f} s; unseen: {data.held_fonts} fonts"
    )
    print(row(model, data, file, metrics), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
