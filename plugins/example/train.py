"""Train acme/mixer_nano on the handwritten digits of scikit-learn and save the weights in the package.

Run once by the author of the plugin: `python train.py`. Prints the values for the row in catalogue.toml.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path

from sklearn.datasets import load_digits

import zoo

WEIGHTS = Path(__file__).parent / "acme_zoo" / "weights" / "model.safetensors"


def main() -> None:
    """Train on 1,500 digits, evaluate on the other 297, and copy the weights."""
    data = load_digits()
    images = (data.images * 15.9375).astype("uint8")  # 0 to 16 -> 0 to 255, 8 x 8 pixels
    pairs = list(zip(images, data.target.tolist(), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        model = zoo.load("acme/mixer_nano").finetune(pairs[:1500], strategy="scratch", out=Path(folder) / "model")
        accuracy = model.evaluate(pairs[1500:])["accuracy"]
        WEIGHTS.parent.mkdir(exist_ok=True)
        shutil.copyfile(Path(folder) / "model" / "model.safetensors", WEIGHTS)
    content = WEIGHTS.read_bytes()
    print(f"sha256 = {hashlib.sha256(content).hexdigest()}, bytes = {len(content)}, digits_top1 = {100 * accuracy:.1f}")


if __name__ == "__main__":
    main()
