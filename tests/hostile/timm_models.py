"""Hostile rows of the timm plugin: arguments and names that load weights, open connections or build without end."""

from __future__ import annotations

from collections.abc import Iterator

from hostile.case import Case
from hostile.models import case, update

PRELOAD = ("zoo_timm.nets",)
ARGUMENTS = (
    {"pretrained": True},
    {"checkpoint_path": "/etc/passwd"},
    {"cache_dir": "/tmp"},
    {"pretrained_cfg": {"url": "http://127.0.0.1:9/x"}},
    {"pretrained_cfg_overlay": {"file": "/x"}},
    {"pretrained_strict": True},
    {"pretrained_model_args": {}},
    {"features_only": True},
    {"device": "cuda"},
    {"depth": 10**6},
    {"depth": 10**9},
    {"embed_dim": 10**9},
    {"norm_layer": "os.system"},
    {"act_layer": "os.system"},
    {"url": "http://127.0.0.1:9/x"},
    {"kwargs_filter": ["x"]},
    {"no": 1},
    {"dtype": "load"},
    {"pruned": True},
    {"depth": "x"},
    {"num_classes": 10**9},
    {"qkv_bias": {"pretrained": True}},
    {"depth": [10**9]},
    [],
    {"patch_size": 0},
)
ARCHITECTURES = (
    "hf-hub:evil/net",
    "hf_hub:evil/net",
    "local-dir:/etc",
    "test_vit.evil",
    "",
    None,
    [],
    "vit_base_patch16_224",
)


def rows() -> Iterator[Case]:
    """Arguments, names and sizes."""
    for size in (4096, 10**9, 0, -1, True, 16.5, 2048, 5):
        yield case(f"timm: images of {size} px", "timm", update("entry", "input", size=size), heavy=True)
    for arguments in ARGUMENTS:
        yield case(f"timm: args {arguments}", "timm", update("entry", "options", args=arguments), heavy=True)
    for arch in ARCHITECTURES:
        yield case(f"timm: arch {arch!r}", "timm", update("entry", "options", arch=arch), heavy=True)


CASES = [*rows()]
