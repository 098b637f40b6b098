"""Read and write safetensors files: the header is validated before mapping, writes are atomic, nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import WeightsError
from zoo.weights import safetensors_header

FORMAT = "1"
"""Value of "zoo" in the metadata of files written by zoo; their keys are `backbone.…` and `head.…`."""
LOOKS_LIKE = {
    b"PK": "a zip archive (a torch .pt file?)",
    b"\x80": "a Python pickle",
    b"version https://git-lfs": "a git-lfs pointer instead of the file itself",
    b"<": "a web page",
}
DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}
"""Names of the types that `write_streamed` writes."""
CONVERT = "zoo convert 'FILE' model.safetensors   (then list the result in files of the row)"


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, as copy-on-write views of the mapped file, and its metadata.

    Raises WeightsError if the file has another format or is truncated. Nothing is unpickled.
    """
    from safetensors import SafetensorError, safe_open

    metadata = _check_header(path)
    try:
        with _utf8_name(path) as name, safe_open(name, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118  # no mapping
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        raise _damaged(path, str(error)) from error


def write_state(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically: to a temporary file, which is then renamed. Raises WeightsError."""
    from safetensors.torch import save_file

    with _replacing(path) as part:
        mode = part.stat().st_mode  # the mode given by the umask; save_file may set a narrower one
        save_file(_separate(state), part, metadata=dict(metadata))
        part.chmod(mode)


def file_order(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors in the order of `write_streamed`: those with large elements first, for alignment."""
    return sorted(state, key=lambda name: (-state[name].element_size(), name))


def write_streamed(
    path: Path, state: Mapping[str, Tensor], values: Iterable[Tensor], metadata: Callable[[], Mapping[str, str]]
) -> None:
    """Write a safetensors file atomically, one tensor in memory after the other. Raises WeightsError.

    `state` has the names, types and shapes, `values` the contiguous tensors on the CPU in `file_order`, which
    may be computed as they are taken. `metadata` is called before and after them; its texts have to keep their length.
    """
    with _replacing(path) as part, part.open("r+b") as file:
        file.write(_header(state, metadata()))
        for value in values:
            file.write(value.reshape(-1).view(torch.uint8).numpy().data)
        file.seek(0)
        file.write(_header(state, metadata()))


def _header(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the length of a header and the header, padded to a multiple of eight bytes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in file_order(state):
        tensor = state[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file, which takes the place of `path` at the end. Raises WeightsError."""
    from safetensors import SafetensorError

    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    if path.exists() and not path.is_file():
        raise WeightsError(f"{path} is not a regular file and is not overwritten", fix="choose another path")
    try:
        part.touch()
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, SafetensorError) as error:
        fix = "free some disk space, or choose another folder"
        raise WeightsError(f"{path} cannot be written: {error}", fix=fix) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _utf8_name(path: Path) -> Iterator[str]:
    """Yield a name of a file that is valid UTF-8, which safetensors requires."""
    try:
        path.as_posix().encode()
    except UnicodeEncodeError:
        with path.open("rb") as file:
            yield f"/dev/fd/{file.fileno()}"
    else:
        yield str(path)


def _separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous CPU tensors that share no memory, as safetensors requires."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return separate


def _check_header(path: Path) -> dict[str, str]:
    """Validate the header of a file against its size before the file is mapped; returns its metadata."""
    if path.exists() and not path.is_file():  # reading a named pipe would block
        raise WeightsError(f"{path} is not a regular file", fix=f"ls -l '{path}'")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(32)
            length = int.from_bytes(start[:8], "little")
            file.seek(8)
            text = file.read(length) if 8 + length <= size and length <= safetensors_header.LONGEST else b""
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}", fix=f"ls -l '{path}'") from error
    if not text.startswith(b"{"):
        raise _not_safetensors(path, start, size)
    try:
        return safetensors_header.check(text, size)
    except ValueError as error:
        raise _damaged(path, f"invalid header: {error}") from error


def _not_safetensors(path: Path, start: bytes, size: int) -> WeightsError:
    kind = next((kind for magic, kind in LOOKS_LIKE.items() if start.startswith(magic)), None)
    if kind is None:
        problem = f"not a safetensors file, or truncated: {size:,} bytes, starting with {start[:8]!r}"
        return _damaged(path, problem)
    what = f"{path} is not a safetensors file but {kind}; it is never unpickled"
    fix = CONVERT.replace("FILE", str(path)) if start[:1] in b"P\x80" else _restore_fix(path)
    return WeightsError(what, fix=fix)


def _damaged(path: Path, problem: str) -> WeightsError:
    return WeightsError(f"{path} is damaged: {problem}", fix=_restore_fix(path))


def _restore_fix(path: Path) -> str:
    return f"rm -f '{path}', then pull it again (zoo pull NAME) or save it again"
