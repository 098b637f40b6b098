"""Parse pretraining datasets from the tag of a timm name: sw_in12k_ft_in1k is ImageNet-12k → ImageNet-1k."""

from __future__ import annotations

import re
from itertools import groupby

DATA = {
    "in1k": "ImageNet-1k",
    "in12k": "ImageNet-12k",
    "in21k": "ImageNet-21k",
    "inw21k": "ImageNet-21k (winter)",
    "in22k": "ImageNet-22k",
    "ns_jft_in1k": "ImageNet-1k + JFT-300M",  # noisy student: trained on both at once
    "laion400m": "LAION-400M",
    "laion2b": "LAION-2B",
    "laiona": "LAION-A",
    "datacomp1b": "DataComp-1B",
    "datacompxl": "DataComp-1B",
    "dfn2b": "DFN-2B",
    "dfn5b": "DFN-5B",
    "dfndr2b": "DFNDR-2B",
    "metaclip_400m": "MetaCLIP-400M",
    "metaclip_2pt5b": "MetaCLIP-2.5B",
    "metaclip2_worldwide": "MetaCLIP 2 worldwide",
    "merged2b": "Merged-2B",
    "m38m": "Merged-38M",
    "m30m": "Merged-30M",
    "webli": "WebLI",
    "openai": "400M image-text pairs of OpenAI",
    "yfcc15m": "YFCC-15M",
    "yfcc100m": "YFCC-100M",
    "cc12m": "CC-12M",
    "ig1b": "Instagram-1B",
    "lvd142m": "LVD-142M",
    "lvd1689m": "LVD-1689M",
    "sat493m": "SAT-493M",
    "sa1b": "SA-1B",
    "bamboo": "Bamboo",
    "mae": "ImageNet-1k",
    "fcmae": "ImageNet-1k",
    "dino": "ImageNet-1k",
}
"""Dataset by its word in a tag; mae, fcmae and dino are methods that were only trained on ImageNet-1k."""
WORD = re.compile(rf"(?:^|_)({'|'.join(sorted(DATA, key=len, reverse=True))})(?=_|$)")


def pretrained_on(tag: str) -> str | None:
    """Return the datasets named by a tag in order of training; None if it names none."""
    found = [DATA[word] for word in WORD.findall(tag)]
    return " → ".join(name for name, _ in groupby(found)) or None
