"""A second device without hardware: PyTorch's spare device type on the memory of the CPU, under the rules of a GPU.

`install` registers "second" for the life of the process. A tensor of that device shares the memory of a CPU tensor, and
an operation runs the CPU's kernel. Two things are as on a GPU: tensors on both devices in one operation raise, but for
copies, scalars and indices; and what makes the host wait for the device is written to `waits`.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "second"
aten = torch.ops.aten
VIEWS = ("as_strided", "view", "_reshape_alias", "unfold", "set_.source_Storage_storage_offset", "set_.source_Tensor")
"""Operations whose kernel reads no memory: the CPU's serves every device, and the result shares the storage."""
READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim", "bincount"}
"""Operations that return a Python value, or a shape that depends on values."""
WRITING = {"index_put", "index_put_", "_index_put_impl_"}
"""Operations that count the elements of a mask; `index` calls nonzero."""
INDEXING = {"index", "_unsafe_index", *WRITING}
"""Operations that take indices on the CPU."""
HALF = ("conv1d", "conv2d", "linear", "matmul", "addmm", "mm", "bmm", "baddbmm", "scaled_dot_product_attention")
"""Operations that autocast runs in half precision."""
_libraries: list[torch.library.Library] = []


class Wait(NamedTuple):
    """The host waited: to "read" values, or to "write" them in a copy that blocks; `place` is the line of code."""

    kind: str
    operation: str
    place: str


waits: list[Wait] = []


class _Module:
    """What torch.second is."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_rng_state(self, device: object) -> Tensor:
        return torch.get_rng_state()  # random numbers are those of the CPU

    def set_rng_state(self, state: Tensor, device: object) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def install() -> None:
    """Register the device, once, before the first backward pass of the process: its threads are started then."""
    if _libraries:
        return
    _setup_privateuseone_for_python_backend(NAME, _Module())
    del nn.Module.second  # a network may have a layer of that name
    nn.Module.to = _to
    every, some = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    _libraries.extend((every, some))
    every.fallback(_run, "PrivateUse1")
    every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in HALF:
        some.impl(name, partial(_in_half, getattr(aten, name).default), "AutocastPrivateUse1")
    for name in VIEWS:
        some.impl(name, torch.library.get_kernel(f"aten::{name}", "CPU").call_boxed, "PrivateUse1", with_keyset=True)
    some.impl("mse_loss", partial(_run, aten.mse_loss.default), "PrivateUse1")  # else its output would be resized
    some.impl("convolution_overrideable", partial(_run, aten.convolution.default), "PrivateUse1")
    some.impl("convolution_backward_overrideable", _convolution_backward, "PrivateUse1")
    some.impl("_copy_from", _copy_from, "PrivateUse1")
    some.impl("_fused_sdp_choice", lambda *args, **kwargs: 0, "PrivateUse1")  # attention as plain matrix products


def _in_half(op: Any, *args: Any, **kwargs: Any) -> Any:
    half = torch.get_autocast_dtype(NAME)
    cast = [v.to(half) if isinstance(v, Tensor) and v.dtype == torch.float32 else v for v in args]
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
        return op(*cast, **kwargs)


_module_to = nn.Module.to


def _to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Move parameters in place, as to a GPU, so that tied ones stay tied; by default they would be replaced."""
    torch.__future__.set_swap_module_params_on_conversion(bool(args))
    try:
        return _module_to(module, *args, **kwargs)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


@contextmanager
def recorded() -> Iterator[list[Wait]]:
    """Yield the list of the waits inside the block."""
    before, found = len(waits), []
    yield found
    found.extend(waits[before:])
    del waits[before:]


def _run(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Run the CPU's kernel of an operation on the memory of its arguments."""
    name = op._schema.name.removeprefix("aten::")
    originals: dict[int, Tensor] = {}
    strangers: list[Tensor] = []

    def enter(value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("cpu")
        if isinstance(value, list):
            return [enter(one) for one in value]
        if not isinstance(value, Tensor):
            return value
        if value.device.type == NAME:
            inside = _with_device_type(value, CPU)
            originals[id(inside)] = value
            return inside
        if value.ndim:
            strangers.append(value)
        return value

    def leave(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(leave(one) for one in value)
        original = originals.get(id(value))
        if original is None:
            return on_device(value)
        if original.shape != value.shape:
            original.set_(on_device(value))
        elif id(value) in fresh:
            _inside(original).copy_(value)
        return original

    inside, named = [enter(value) for value in args], {key: enter(value) for key, value in kwargs.items()}
    if strangers and originals and name not in INDEXING:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu! ({op})"
        )
    if name in READS or (name in WRITING and any(one is not None and one.dtype == torch.bool for one in args[1])):
        _note("read", name)
    fresh = set()
    for key in _outputs(op):  # an empty one may be resized, which shared memory cannot be
        original = kwargs[key]
        named[key] = torch.empty_strided(original.shape, original.stride(), dtype=original.dtype)
        originals[id(named[key])] = original
        fresh.add(id(named[key]))
    return leave(op(*inside, **named))


@cache
def _outputs(op: Any) -> list[str]:
    return [argument.name for argument in op._schema.arguments if argument.is_out]


def _convolution_backward(gradient: Tensor, inputs: Tensor, weight: Tensor, *settings: Any) -> Any:
    return _run(aten.convolution_backward.default, gradient, inputs, weight, [gradient.shape[1]], *settings)


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    devices = source.device.type, target.device.type
    if devices[1] == "cpu":
        _note("read", "copy to the CPU")
    elif devices[0] == "cpu" and source.ndim and not non_blocking:
        _note("write", "copy to the device")
    _inside(target).copy_(_inside(source))
    return target


CPU, EXTENSION = 1, 12
"""Device types of DLPack."""
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _inside(tensor: Tensor) -> Tensor:
    return _with_device_type(tensor, CPU) if tensor.device.type == NAME else tensor


def on_device(value: Any) -> Any:
    """Return a tensor of the device that shares the memory of a CPU tensor; any other value as it is."""
    return _with_device_type(value, EXTENSION) if isinstance(value, Tensor) else value


def _with_device_type(tensor: Tensor, device_type: int) -> Tensor:
    """Return a tensor on the same memory with another device type, which is the second field of a DLTensor."""
    capsule = torch._C._to_dlpack(tensor)
    ctypes.c_int32.from_address(_pointer(capsule, b"dltensor") + ctypes.sizeof(ctypes.c_void_p)).value = device_type
    found: Tensor = torch._C._from_dlpack(capsule)
    return found


def _note(kind: str, operation: str) -> None:
    frame = sys._getframe()
    while frame.f_back and ("/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__):
        frame = frame.f_back
    place = "/".join(frame.f_code.co_filename.split("/")[-3:])
    waits.append(Wait(kind, operation, f"{place}:{frame.f_lineno} {frame.f_code.co_name}"))
