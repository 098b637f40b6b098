"""Content-addressed store: download files from their sources and verify them; the only package that opens connections.

<home>/blobs/<sha256>   read-only files, one copy for all names and sources
<home>/tmp/             partial downloads, <sha256>.part; never read except to resume
<home>/lock.toml        pulled names -> source, commit, files with sizes and hashes, time
<home>/shared.txt       paths of the shared locks that were used: their files are kept
<home>/models/          folders of pulled saved models: hard links to blobs
<home>/verified-<user>/ blobs whose hash was verified, and what their files looked like then
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.store.paths import home
    from zoo.store.pull_plan import Plan, plan
    from zoo.store.pulling import Look, is_pulled, load, look, pull, pull_all, pulled, receipt
    from zoo.store.receipts import using

__all__ = [
    "Look",
    "Plan",
    "home",
    "is_pulled",
    "load",
    "look",
    "plan",
    "pull",
    "pull_all",
    "pulled",
    "receipt",
    "using",
]

_MODULES = {"home": "paths", "Plan": "pull_plan", "plan": "pull_plan", "using": "receipts"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562): reading a catalogue needs the paths alone."""
    if name not in __all__:
        raise AttributeError(f"module 'zoo.store' has no attribute {name!r}")
    value = getattr(import_module(f"zoo.store.{_MODULES.get(name, 'pulling')}"), name)
    globals()[name] = value
    return value
