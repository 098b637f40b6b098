"""A PyTorch file (.bin, .pth, .pt, .ckpt) as safetensors: on request, in a process of its own with limits.

Such a file is a pickle, which can name code. PyTorch's loader for weights refuses everything but tensors and plain
containers; the process around it has no credentials, imports nothing from the working folder, and has no more memory,
time and disk than the file accounts for. It gives back a new file or nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.errors import WeightsError

SECONDS = 600
MEMORY = 16 << 30
"""Bytes of address space beside four times the file: libraries alone reserve several gigabytes."""
WRAPPERS = ("state_dict", "model", "model_state_dict", "module")
"""Keys under which training scripts keep the tensors beside other things."""
KEPT = ("PATH", "HOME", "LANG", "SYSTEMROOT", "TMPDIR", "LD_LIBRARY_PATH")


def convert(source: Path, target: Path) -> list[str]:
    """Write the tensors of a PyTorch file as safetensors; returns the names of what is no tensor and was left out.

    Tensors that share memory are written one by one, each under its name. Raises WeightsError if the file holds
    anything but tensors in a dict, and then nothing is written.
    """
    if not source.is_file():
        raise WeightsError(f"there is no file {source}", fix="check the path")
    if target.exists():
        raise WeightsError(f"{target} is there already", fix="choose another name for the result")
    try:
        with tempfile.TemporaryDirectory(prefix=".zoo-convert-", dir=target.parent) as folder:
            made = Path(folder) / target.name
            left_out = _apart(source, made)
            made.rename(target)
    except OSError as error:
        raise WeightsError(f"{target} cannot be written: {error.strerror}", fix="choose another folder") from error
    return left_out


def _apart(source: Path, target: Path) -> list[str]:
    """Have another process convert; -P: what lies in the working folder is not taken for a library."""
    command = [sys.executable, "-P", "-m", "zoo.store.convert", str(source), str(target)]
    environ = {name: os.environ[name] for name in KEPT if name in os.environ}
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=SECONDS, check=False)
        told = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired as error:
        raise _refused(source, f"takes more than {SECONDS} seconds") from error
    except (ValueError, IndexError) as error:
        reason = f"ended the process that read it (exit status {done.returncode}): it asks for too much"
        raise _refused(source, reason) from error
    if "error" in told:
        raise _refused(source, told["error"])
    left_out: list[str] = told["left_out"]
    return left_out


def _refused(source: Path, reason: str) -> WeightsError:
    return WeightsError(f"{source} is not converted: {reason}", fix="ask its author for a .safetensors file")


def _most(size: int) -> int:
    """Return the bytes that the tensors of a file of `size` bytes may have: shared ones are written twice."""
    return 2 * size + (1 << 20)


def _limit(size: int) -> None:
    """Take away from this process what reading a file of this size does not need."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: SECONDS,
        resource.RLIMIT_AS: MEMORY + 4 * size,
        resource.RLIMIT_FSIZE: _most(size),
    }
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _tensors(found: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the tensors of what was in a file by name, and the names of what else there was."""
    from torch import Tensor

    left_out: list[str] = []
    for key in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            left_out += [_shown(str(name)) for name in found if name != key]
            found = found[key]
            break
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"it holds a {type(found).__name__}, not tensors by name")
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError("it holds no tensor")
    return tensors, left_out + [_shown(name) for name in found if name not in tensors]


def _shown(text: str) -> str:
    """Return a text of the file as it may be printed: a terminal obeys some characters."""
    return text if text.isprintable() else ascii(text)


def _check_size(size: int, tensors: Mapping[str, Any]) -> None:
    filled = sum(value.nbytes for value in tensors.values())
    if filled > _most(size):
        raise ValueError(f"its tensors have {filled:,} bytes, and it has {size:,}")


def here(source: Path, target: Path) -> dict[str, Any]:
    """Convert in this process; what this returns is all that the one which asked hears: "left_out", or "error"."""
    import torch

    from zoo.errors import ZooError
    from zoo.weights.safetensors_file import read_state, write_state

    try:
        with source.open("rb") as file:  # by its content, whatever its name ends with
            tensors, left_out = _tensors(torch.load(file, map_location="cpu", weights_only=True))
        _check_size(source.stat().st_size, tensors)
        write_state(target, tensors, {"converted_from": source.name})
        read_state(target)
    except ZooError as error:
        return {"error": error.what.replace(str(target), "the result")}
    except Exception as error:  # noqa: BLE001  # whatever the file makes the loader raise
        said = str(error).strip().partition("\n")[0][:200]
        return {"error": f"{type(error).__name__}: {_shown(said)}"}
    return {"left_out": left_out}


if __name__ == "__main__":
    _limit(Path(sys.argv[1]).stat().st_size)
    print(json.dumps(here(Path(sys.argv[1]), Path(sys.argv[2]))))
