"""The machine: which precision and attention suit it, by its instructions or as calibrated by `zoo doctor --tune`."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from zoo.store import home

Kind = Literal["convolution", "depthwise", "attention"]
"""What dominates a network: convolutions, with depthwise ones among them, or matrix products."""
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Preferred:
    """The faster precision of a kind of network, and the precisions in which plain attention beats the fused one."""

    precision: str = "fp32"
    plain_attention: tuple[str, ...] = ()


def preferred(device: torch.device, kind: Kind) -> Preferred:
    """Return what suits a device: on a CPU the calibration of this machine if there is one, else a rule."""
    if device.type != "cpu":
        return Preferred("bf16" if _has_bf16(device) else "fp16" if _has_fast_fp16(device) else "fp32")
    return calibration().get(kind) or by_rule(kind, cpu_capabilities())


def by_rule(kind: Kind, capabilities: Mapping[str, Any]) -> Preferred:
    """Return what suits a CPU with these capabilities, as measured on two of them (docs/log.md).

    Bf16 is faster where the CPU has instructions for it. AMX multiplies matrices only, so that depthwise convolutions
    are faster in fp32 there.
    """
    amx = bool(capabilities.get("amx_bf16"))
    if not (amx or capabilities.get("avx512_bf16")) or (amx and kind == "depthwise"):
        return Preferred()
    return Preferred("bf16", ("bf16",))


def cpu_capabilities() -> Mapping[str, Any]:
    """Return what PyTorch knows about the CPU, by name: "amx_bf16", "avx512_bf16", "cpu_name", …"""
    found: Mapping[str, Any] = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return found


def identity() -> dict[str, str]:
    """Return what a calibration is valid for: processor and version of PyTorch."""
    return {"processor": _processor(), "torch": torch.__version__}


def path() -> Path:
    """Return the file of the calibration."""
    return home() / "machine.json"


def calibration() -> dict[Kind, Preferred]:
    """Return the calibration, by kind of network; {} without one, or if it is of another machine or PyTorch."""
    try:
        stored = json.loads(path().read_text(encoding="utf-8"))
        if stored["machine"] != identity():
            return {}
        kinds = stored["preferred"]
        return {kind: Preferred(kinds[kind]["precision"], tuple(kinds[kind]["plain_attention"])) for kind in KINDS}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def write(chosen: Mapping[Kind, Preferred]) -> None:
    """Store a calibration of this machine atomically. Raises OSError."""
    document = {"machine": identity(), "preferred": {kind: dataclasses.asdict(chosen[kind]) for kind in KINDS}}
    path().parent.mkdir(parents=True, exist_ok=True)
    part = path().with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    part.replace(path())


def _has_bf16(device: torch.device) -> bool:
    """Return whether a GPU computes in bf16; Apple's do not all, so they use fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "xpu" and torch.xpu.is_bf16_supported()


def _has_fast_fp16(device: torch.device) -> bool:
    """Return whether a GPU multiplies matrices in fp16: NVIDIA's with tensor cores, from Volta on."""
    return device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (7, 0)


def _processor() -> str:
    """Return the model name of the processor, its architecture where that is not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
