"""Convert a PyTorch checkpoint (.bin, .pth, .pt, .ckpt) to safetensors in a subprocess with resource limits.

Such a file is a pickle, which can execute code. torch.load(weights_only=True) allows only tensors and plain
containers; in addition the subprocess has no credentials, imports nothing from the working directory, and has memory,
time and disk limits that depend on the file size. It writes the complete target file or none.
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
"""Address space limit in bytes, in addition to four times the file size: libraries alone reserve several gigabytes."""
WRAPPERS = ("state_dict", "model", "model_state_dict", "module")
"""Keys under which training scripts store the state dict."""
ENVIRONMENT = ("PATH", "HOME", "LANG", "SYSTEMROOT", "TMPDIR", "LD_LIBRARY_PATH")


def convert(source: Path, target: Path) -> list[str]:
    """Write the tensors of a PyTorch checkpoint as safetensors; returns the names of entries skipped as non-tensors.

    Tensors that share memory are written separately. Raises WeightsError if the checkpoint is not a dict of tensors,
    and then nothing is written.
    """
    if not os.path.isfile(source):
        raise WeightsError(f"{source} is not a file", fix="check the path")
    if os.path.lexists(target):
        raise WeightsError(f"{target} already exists", fix="choose another name for the result")
    try:
        with tempfile.TemporaryDirectory(prefix=".zoo-convert-", dir=target.parent) as folder:
            converted = Path(folder) / target.name
            left_out = _convert_in_subprocess(source, converted)
            converted.rename(target)
    except OSError as error:
        raise WeightsError(f"{target} cannot be written: {error.strerror}", fix="choose another folder") from error
    return left_out


def _convert_in_subprocess(source: Path, target: Path) -> list[str]:
    """Run this module in a subprocess; -P keeps the working directory off sys.path."""
    command = [sys.executable, "-P", "-m", "zoo.store.convert", str(source), str(target)]
    environ = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=SECONDS, check=False)
        result = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired as error:
        raise _conversion_error(source, f"takes more than {SECONDS} seconds") from error
    except (ValueError, IndexError) as error:
        reason = f"the conversion process died with exit status {done.returncode}: it exceeded a resource limit"
        raise _conversion_error(source, reason) from error
    if "error" in result:
        raise _conversion_error(source, result["error"])
    left_out: list[str] = result["left_out"]
    return left_out


def _conversion_error(source: Path, reason: str) -> WeightsError:
    return WeightsError(f"{source} cannot be converted: {reason}", fix="ask its author for a .safetensors file")


def _max_output_size(size: int) -> int:
    """Return the maximum bytes written for a file of `size` bytes: shared tensors are written twice."""
    return 2 * size + (1 << 20)


def _limit_resources(size: int) -> None:
    """Limit CPU time, memory and file size of this process according to the size of the input file in bytes."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: SECONDS,
        resource.RLIMIT_AS: MEMORY + 4 * size,
        resource.RLIMIT_FSIZE: _max_output_size(size),
    }
    for kind, limit in limits.items():
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _tensors(found: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the tensors of a loaded checkpoint by name, and the names of all other entries."""
    from torch import Tensor

    left_out: list[str] = []
    for key in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            left_out += [_printable(str(name)) for name in found if name != key]
            found = found[key]
            break
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"it contains a {type(found).__name__}, not a dict of tensors by name")
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError("it contains no tensors")
    return tensors, left_out + [_printable(name) for name in found if name not in tensors]


def _printable(text: str) -> str:
    """Escape a string from the file for printing: control characters could affect the terminal."""
    return text if text.isprintable() else ascii(text)


def _check_size(size: int, tensors: Mapping[str, Any]) -> None:
    total = sum(value.nbytes for value in tensors.values())
    if total > _max_output_size(size):
        raise ValueError(f"its tensors have {total:,} bytes, but the file only {size:,}")


def here(source: Path, target: Path) -> dict[str, Any]:
    """Convert in this process; returns the result as a JSON-serialisable dict: "left_out" names, or "error" text."""
    import torch

    from zoo.errors import ZooError
    from zoo.weights.safetensors_file import read_state, write_state

    try:
        with source.open("rb") as file:  # an open file: torch.load must detect the format by content, not by suffix
            tensors, left_out = _tensors(torch.load(file, map_location="cpu", weights_only=True))
        _check_size(source.stat().st_size, tensors)
        write_state(target, tensors, {"converted_from": source.name})
        read_state(target)
    except ZooError as error:
        return {"error": error.what.replace(str(target), "the result")}
    except Exception as error:  # noqa: BLE001  # a malformed file can make the loader raise anything
        message = str(error).strip().partition("\n")[0][:200]
        return {"error": f"{type(error).__name__}: {_printable(message)}"}
    return {"left_out": left_out}


if __name__ == "__main__":
    _limit_resources(Path(sys.argv[1]).stat().st_size)
    print(json.dumps(here(Path(sys.argv[1]), Path(sys.argv[2]))))
