"""Train resnet20 from scratch on the 60,000 images of Fashion-MNIST to check the training loop.

    python tools/fashion_mnist.py --epochs 15 --seed 0

Prints the accuracy on the 10,000 test images after every epoch; the result is that of the last epoch, not the best.
"""

from __future__ import annotations

import argparse
import sys
import time

import own_row
import real_data

# He et al. 2015 (arXiv 1512.03385), section 4.2: SGD at 0.1, flips and shifts; a cosine schedule instead of steps.
RECIPE = {
    "strategy": "scratch",
    "optimizer": "sgd",
    "batch_size": 128,
    "lr": 0.1,
    "weight_decay": 5e-4,
    "warmup_ratio": 0.15,
    "augment": "shift-flip",
    "precision": "bf16",
    "patience": 0,
}


def main() -> int:
    """Train and print the accuracy per epoch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    images, labels, test_images, test_labels = real_data.fashion_mnist()
    mean, std = images.mean() / 255, images.std() / 255
    start = time.monotonic()
    model = own_row.load("native/fashion", own_row.grey("resnet20", round(mean, 4), round(std, 4)))
    train = list(zip(images, labels, strict=True))
    test = list(zip(test_images, test_labels, strict=True))
    model.finetune(train, valid=test, epochs=args.epochs, evals=args.epochs, seed=args.seed, **RECIPE)
    for epoch, row in enumerate(model.history, 1):
        print(f"epoch {epoch:>3}   loss {row['loss']:.4f}   test accuracy {row['valid_accuracy']:.4f}")
    print(f"result      {model.history[-1]['valid_accuracy']:.4f}   {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
