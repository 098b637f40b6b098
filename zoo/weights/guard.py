"""What a plugin may not do: open a connection, or create far more modules than its weights have tensors."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from zoo.errors import PluginError

CONNECTIONS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
"""Audit events of Python: https://docs.python.org/3/library/audit_events.html"""
MODULES, MODULES_PER_TENSOR = 2_000, 10
"""Modules that a network may have, and how many more for each tensor of its weights."""


class _Guarded(threading.local):
    """What this thread does inside `guarded`, and how many more modules it may create."""

    doing = ""
    modules = sys.maxsize


_guarded = _Guarded()


@contextmanager
def guarded(doing: str, tensors: int | None = None) -> Iterator[None]:
    """Raise PluginError inside the block for a connection, and for far more modules than `tensors` (None: any number).

    Only what the present thread does is looked at. `doing` is the subject of the error.
    """
    _watch_connections()
    if tensors is not None:
        _count_modules()
    before = _guarded.doing, _guarded.modules
    _guarded.doing = doing
    _guarded.modules = sys.maxsize if tensors is None else MODULES + MODULES_PER_TENSOR * tensors
    try:
        yield
    finally:
        _guarded.doing, _guarded.modules = before


@contextmanager
def connections_allowed() -> Iterator[None]:
    """Allow connections inside the block: zoo.store opens them for a plugin."""
    before, _guarded.doing = _guarded.doing, ""
    try:
        yield
    finally:
        _guarded.doing = before


@cache
def _watch_connections() -> None:
    """Add an audit hook, which stays for the life of the process."""
    sys.addaudithook(_refuse_connection)


@cache
def _count_modules() -> None:
    """Add a hook to torch, which stays for the life of the process."""
    from torch.nn.modules.module import register_module_module_registration_hook

    register_module_module_registration_hook(_count)


def _refuse_connection(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in CONNECTIONS or not _guarded.doing:
        return
    address = arguments[0] if event.startswith("socket.get") else arguments[1]
    if event == "socket.connect" and not isinstance(address, tuple):
        return  # a Unix socket
    host = address[0] if isinstance(address, tuple) else address
    what = f"{_guarded.doing} would open a connection to {host!r:.80}"
    raise PluginError(what, fix="choose another backbone: zoo list   (only zoo pull opens connections)")


def _count(module: Any, name: str, child: Any) -> None:
    _guarded.modules -= 1
    if _guarded.modules < 0:
        what = f"{_guarded.doing} creates far more modules than its weights have tensors: its configuration is wrong"
        raise PluginError(what, fix="choose another backbone: zoo list")
