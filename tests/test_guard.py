"""zoo.weights.guard: a plugin opens no connection and creates no more modules than its weights explain."""

from __future__ import annotations

import socket
import threading

import pytest
from torch import nn

from zoo.errors import PluginError
from zoo.weights.guard import MODULES, connections_allowed, guarded


def connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()


def test_a_connection_inside_the_block_raises():
    with guarded("build()"), pytest.raises(PluginError, match=r"build\(\) would open a connection to '127\.0\.0\.1'"):
        connect()
    connect()


def test_a_lookup_of_a_host_inside_the_block_raises():
    with guarded("build()"), pytest.raises(PluginError, match=r"would open a connection to 'hub\.invalid'"):
        socket.getaddrinfo("hub.invalid", 443)


def test_the_store_may_connect_inside_the_block():
    with guarded("resolve()"):
        with connections_allowed():
            connect()
        with pytest.raises(PluginError):
            connect()


def test_other_threads_may_connect():
    failed = []
    thread = threading.Thread(target=lambda: failed.append(connect()))
    with guarded("build()"):
        thread.start()
        thread.join()
    assert failed == [None]


def test_far_more_modules_than_tensors_raise():
    with guarded("build()", 3), pytest.raises(PluginError, match="far more modules than its weights have tensors"):
        nn.ModuleList(nn.Identity() for _ in range(MODULES + 31))
    with guarded("build()", 3):
        nn.ModuleList(nn.Identity() for _ in range(MODULES))
