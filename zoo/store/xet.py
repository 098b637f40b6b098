"""The Hub's storage of chunks (xet): the bytes of a large file in their order, through the library that knows it.

It is an offer of the Hub beside plain HTTP, which goes on from the same byte wherever this one ends:
https://huggingface.co/docs/hub/xet/using-xet-storage
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from functools import cache
from typing import Any

LEAST = 8 << 20
"""Bytes that must be missing for a second service to be worth asking."""
SETTINGS = {
    "telemetry.enabled": False,
    "client.retry_max_attempts": 1,
    "client.retry_base_delay": "500ms",
    "client.connect_timeout": "10s",
    "client.read_timeout": "20s",
    "reconstruction.download_buffer_size": 64 << 20,
    "reconstruction.download_buffer_perfile_size": 64 << 20,
    "reconstruction.min_prefetch_buffer": 64 << 20,
}
"""As little patience as plain HTTP in its place needs, and bytes in memory instead of the library's 1.6 GB."""


class Failed(Exception):
    """The storage did not send all of a file; how much came is seen by who took it."""


def offered(metadata: Any, origin: str) -> Any | None:
    """Return the part of a file's metadata that tells of this storage; None if it cannot or should not be used.

    The user's token is sent to the address that it names, so that has to be one of the Hub itself.
    """
    from huggingface_hub import constants

    data = getattr(metadata, "xet_file_data", None)
    if data is None or constants.HF_HUB_DISABLE_XET or not data.refresh_route.startswith(f"{origin}/"):
        return None
    return data if (metadata.size or 0) >= LEAST and _session(os.getpid()) else None


def read(data: Any, headers: Mapping[str, str], size: int, start: int) -> Generator[memoryview]:
    """Yield the bytes of a file from `start` on; Failed if they end before `size`."""
    import hf_xet

    done, session = start, _session(os.getpid())
    assert session is not None
    others = {name: value for name, value in headers.items() if name.lower() != "authorization"}
    asks = {"token_refresh_url": data.refresh_route, "token_refresh_headers": dict(headers), "custom_headers": others}
    try:
        with session.new_download_stream_group(**asks) as group:
            for piece in group.download_stream(hf_xet.XetFileInfo(data.file_hash, size), start=start):
                done += len(piece)
                yield memoryview(piece)
    except Exception as error:
        raise Failed(str(error)) from error
    if done != size:  # a server that nobody is behind ends a stream without a word
        raise Failed(f"ended at byte {done:,}")


@cache
def _session(process: int) -> Any | None:
    """Return what holds the connections of a process (a fork needs its own); None if the library cannot be used."""
    try:
        from hf_xet import XetConfig, XetSession

        return XetSession(XetConfig().with_config(SETTINGS))
    except Exception:  # noqa: BLE001  # a version that knows not all of this: plain HTTP does as well
        return None
