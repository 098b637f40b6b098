"""Load a ResNet-50 from one local safetensors file: zoo against timm, in one process, in turn."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from timing import alternate, table

ROUNDS = 9
ROW = """
["bench/resnet50"]
plugin = "native"
modality = "image"
source = "file://{folder}"
files = [{{ path = "model.safetensors" }}]
input = {{ size = 224, mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225], crop = 0.875 }}
options = {{ arch = "resnet50" }}
"""


def main() -> None:
    """Write random weights once, check that both sides hold them, then time both."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["ZOO_HOME"] = f"{folder}/store"
        file = Path(folder) / "model.safetensors"
        save_file(timm.create_model("resnet50.tv_in1k").state_dict(), file)
        Path("zoo.toml").write_text(ROW.format(folder=folder))
        import zoo

        def ours() -> torch.nn.Module:
            return zoo.load("bench/resnet50", "cpu").backbone.module

        def theirs() -> torch.nn.Module:
            overlay = {"file": str(file)}
            model = timm.create_model(
                "resnet50.tv_in1k", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0
            )
            return model.eval()

        images = torch.randn(2, 3, 64, 64)
        with torch.inference_mode():
            error = float((ours()(images).pooled - theirs()(images)).abs().max())
        print(f"largest difference of the features: {error:.2e}")
        table(alternate({"zoo": ours, "timm": theirs}, ROUNDS), "zoo")


if __name__ == "__main__":
    main()
