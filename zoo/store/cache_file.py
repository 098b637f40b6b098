"""Files of a cache: safetensors, written tensor by tensor, read memory-mapped and locked as long as a tensor lives.

The metadata of a file holds the digest of its tensors, so that a file that a crash or a disk damaged is never used.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from zoo.console import say
from zoo.errors import StoreError
from zoo.store import caches, file_locks
from zoo.weights import safetensors_header

if TYPE_CHECKING:
    import torch
    from torch import Tensor

HEADER = 1024
"""Bytes before the tensors, padded with spaces: the header is written last."""
BLOCK = 16 << 20
"""Bytes hashed at once by a thread."""
DIGEST = "sha256"
"""Key of the digest in the metadata."""
DTYPES = {
    "U8": "uint8",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}
"""Names of dtypes in a safetensors file, and in torch."""


def read(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a file, mapped copy-on-write; None if it is missing, or damaged and deleted with a message.

    The file is in use, and kept, until the last tensor that shares its memory is gone.
    """
    try:
        with suppress(OSError), path.open("rb") as file:
            if not file_locks.share(file.fileno()):
                return None
            with suppress(OSError):  # a read-only store
                os.utime(path)
            return _verified(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except (ValueError, KeyError, TypeError):
        say("cache", f"{path} is damaged: its content is computed again")
        with suppress(OSError):
            path.unlink()
    return None


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a file if it is within the size limit and the disk has room. Raises StoreError if the limit is invalid."""
    if not caches.make_room(HEADER + sum(tensor.nbytes for tensor in tensors.values())):
        return
    with Writer(path) as writer:
        for tensor in tensors.values():
            writer.append(tensor)
            if writer.file is None:
                return
        writer.finish({name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()})


def scratch(cache: str, size: int) -> Tensor:
    """Return bytes (size,) in a file that is deleted with the tensor. Raises OSError if the disk has no room."""
    import torch

    if not size:
        return torch.empty(0, dtype=torch.uint8)
    path = caches.new_part(caches.folder(cache) / "scratch")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x+b") as file:
        file_locks.share(file.fileno())
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # else a full disk kills the process when it writes
            else:
                file.truncate(size)
            return torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=torch.uint8)
        finally:
            with suppress(OSError):  # Windows: deleted later, as a part that no process uses
                path.unlink()


class Writer:
    """A new file of a cache; where it cannot be written, as on a full disk, its content is kept in memory.

    Leaving the block deletes a file that is not finished. With `in_memory` false a full disk raises StoreError instead.
    """

    def __init__(self, path: Path, *, in_memory: bool = True) -> None:
        self.path, self.in_memory = path, in_memory
        self.part = caches.new_part(path)
        self.size = HEADER
        self.memory = bytearray()
        self.file: IO[bytes] | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.part.open("x+b", buffering=0)
            file_locks.share(self.file.fileno())
            _write(self.file, bytes(HEADER))
        except OSError:
            self._move_to_memory()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        if self.file is not None:
            self.file.close()
            with suppress(OSError):
                self.part.unlink()

    def append(self, tensor: Tensor) -> None:
        """Write the values of a tensor."""
        import torch

        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        values = flat.numpy().data
        if self.file is not None:
            try:
                _write(self.file, values)
            except OSError:
                self._move_to_memory()
        if self.file is None:
            self.memory += values
        self.size += len(values)

    def finish(self, tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> dict[str, Tensor]:
        """Return the tensors, whose values were appended in this order: mapped from the file, or in memory.

        The file is kept if it is within the size limit; else it is deleted as soon as nothing uses it.
        """
        if self.file is not None:
            try:
                with mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ) as written:
                    header = _header(_facts(tensors), written)
                self.file.seek(0)
                _write(self.file, header)
                os.fsync(self.file.fileno())
                found = _tensors(mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_COPY))
                if caches.make_room(self.size, self.part):
                    with suppress(OSError):
                        self.part.replace(self.path)
                return found
            except OSError:
                self._move_to_memory()
        self.memory[:HEADER] = _header(_facts(tensors))
        return _tensors(self.memory)

    def _move_to_memory(self) -> None:
        if not self.in_memory:
            self.__exit__()
            what = f"{self.part} cannot be written after {self.size:,} bytes: the disk is full, or read-only"
            raise StoreError(what, fix="free some disk space (zoo gc --caches), or set ZOO_HOME to a larger disk")
        self.memory = bytearray(self.size)
        if self.file is not None:
            self.file.seek(0)
            view = memoryview(self.memory)
            while view and (count := self.file.readinto(view)):  # type: ignore[attr-defined]
                view = view[count:]
        self.__exit__()
        self.file = None


def _write(file: IO[bytes], values: bytes | memoryview) -> None:
    """Write all bytes to an unbuffered file, which may take a part at a time."""
    rest = memoryview(values)
    while rest:
        rest = rest[file.write(rest) :]


def _facts(tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> dict[str, Any]:
    """Return the header of a safetensors file with these tensors, without metadata."""
    names = {name: dtype for dtype, name in DTYPES.items()}
    facts, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + prod(shape) * dtype.itemsize
        dtype_name = names[str(dtype).removeprefix("torch.")]
        facts[name] = {"dtype": dtype_name, "shape": list(shape), "data_offsets": [start, end]}
    return facts


def _header(facts: dict[str, Any], written: mmap.mmap | None = None) -> bytes:
    """Return the first HEADER bytes of a file; with the digest of what was `written` after them."""
    metadata = {} if written is None else {"__metadata__": {DIGEST: _digest(facts, written, HEADER)}}
    text = json.dumps(metadata | facts).encode().ljust(HEADER - 8)
    return len(text).to_bytes(8, "little") + text


def _digest(facts: dict[str, Any], content: mmap.mmap, start: int) -> str:
    """Return the SHA-256 of the header and of the SHA-256 of each block from `start` on, computed in threads."""
    with memoryview(content) as view, ThreadPoolExecutor(os.cpu_count()) as pool:
        starts = range(start, len(view), BLOCK)
        parts = pool.map(lambda begin: hashlib.sha256(view[begin : begin + BLOCK]).digest(), starts)
        return hashlib.sha256(json.dumps(facts).encode() + b"".join(parts)).hexdigest()


def _verified(content: mmap.mmap) -> dict[str, Tensor]:
    """Return views of the tensors of a file. Raises ValueError if it is damaged."""
    length = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + min(length, safetensors_header.LONGEST)]
    metadata = safetensors_header.check(text, len(content))
    facts = json.loads(text)
    facts.pop("__metadata__", None)
    if metadata.get(DIGEST) != _digest(facts, content, 8 + length):
        raise ValueError("the digest does not match")
    return _tensors(content)


def _tensors(content: mmap.mmap | bytearray) -> dict[str, Tensor]:
    """Return views of the tensors of a file that is not damaged."""
    import torch

    length = int.from_bytes(content[:8], "little")
    flat, found = torch.frombuffer(content, dtype=torch.uint8)[8 + length :], {}
    for name, facts in json.loads(bytes(content[8 : 8 + length])).items():
        if name == "__metadata__":
            continue
        start, end = facts["data_offsets"]
        dtype: torch.dtype = getattr(torch, DTYPES[facts["dtype"]])
        values = flat[start:end]
        if values.storage_offset() % dtype.itemsize:
            values = values.clone()
        found[name] = values.view(dtype).view(facts["shape"])
    return found
