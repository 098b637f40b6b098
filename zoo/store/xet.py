"""Stream large files from the Hub's xet storage with hf_xet.

It is optional: if it fails, plain HTTP continues from the last byte received.
https://huggingface.co/docs/hub/xet/using-xet-storage
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from functools import cache
from typing import Any

from zoo.store.paths import is_sha256

LEAST = 8 << 20
"""Minimum missing bytes for which xet storage is used; smaller downloads are not worth the extra requests."""
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
"""Few retries and short timeouts, because plain HTTP is the fallback; buffers of 64 MB instead of 1.6 GB."""


class Failed(Exception):
    """The download from xet storage ended early; the caller counts the bytes received."""


def offered(metadata: Any, origin: str) -> Any | None:
    """Return the xet part of a file's metadata; None if xet storage cannot or should not be used.

    The user's token is sent to its refresh route, so that URL must belong to the Hub's own origin.
    """
    from huggingface_hub import constants

    data = getattr(metadata, "xet_file_data", None)
    if data is None or constants.HF_HUB_DISABLE_XET or not data.refresh_route.startswith(f"{origin}/"):
        return None
    if not is_sha256(data.file_hash):  # not a SHA-256, but as long
        return None
    return data if (metadata.size or 0) >= LEAST and _session(os.getpid()) else None


def read(data: Any, headers: Mapping[str, str], size: int, start: int) -> Generator[memoryview]:
    """Yield the bytes of a file from `start` to `size`. Raises Failed if the stream ends early."""
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
    if done != size:  # hf_xet ends the stream without an error if the server is unreachable
        raise Failed(f"ended at byte {done:,}")


@cache
def _session(process: int) -> Any | None:
    """Return the session of a process, cached by pid because a fork needs its own; None if hf_xet cannot be used."""
    try:
        from hf_xet import XetConfig, XetSession

        return XetSession(XetConfig().with_config(SETTINGS))
    except Exception:  # noqa: BLE001  # missing, or a version without these settings: fall back to plain HTTP
        return None
