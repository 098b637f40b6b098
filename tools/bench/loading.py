"""Benchmark loading models from a local safetensors file: zoo against timm, alternating in one process."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from timing import alternate, table
from torch import nn

ROUNDS = 9
NETS = {
    "native": {"resnet50": "resnet50.tv_in1k"},
    "timm": {
        "vit_base_patch16_224": "vit_base_patch16_224.augreg_in1k",
        "resnet50": "resnet50.tv_in1k",
        # with non-persistent buffers: position indices, masks, rotary frequencies
        "swin_base_patch4_window7_224": "swin_base_patch4_window7_224.ms_in1k",
        "eva02_base_patch14_224": "eva02_base_patch14_224.mim_in22k",
    },
}
"""Plugin -> arch of the row -> timm name."""
ROW = """
["bench/{plugin}-{arch}"]
plugin = "{plugin}"
modality = "image"
source = "file://{folder}"
files = [{{ path = "{arch}.safetensors" }}]
input = {{ size = 224, mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225], crop = 0.875 }}
options = {{ arch = "{arch}" }}
"""


def main() -> None:
    """For each model, save random weights, compare the features of both sides and time them."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["ZOO_HOME"] = f"{folder}/store"
        pairs = [(plugin, arch, name) for plugin, nets in NETS.items() for arch, name in nets.items()]
        rows = (ROW.format(plugin=plugin, arch=arch, folder=folder) for plugin, arch, _ in pairs)
        Path("zoo.toml").write_text("".join(rows))
        for plugin, arch, name in pairs:
            save_file(timm.create_model(name).state_dict(), f"{arch}.safetensors")
            compare(plugin, arch, name)


def compare(plugin: str, arch: str, name: str) -> None:
    """Print loading times and the maximum difference of features for a model."""
    import zoo

    def ours() -> nn.Module:
        return zoo.load(f"bench/{plugin}-{arch}", "cpu").backbone.module

    def theirs() -> nn.Module:
        overlay = {"file": f"{arch}.safetensors"}
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0).eval()

    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        error = float((ours()(images).pooled - theirs()(images)).abs().max())
    print(f"\n{plugin}/{arch}: maximum difference of features {error:.2e}")
    table(alternate({"zoo": ours, "timm": theirs}, ROUNDS), "zoo")


if __name__ == "__main__":
    main()
