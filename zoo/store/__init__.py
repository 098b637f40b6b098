"""From a source to verified local files, each fetched once; the only place that opens a connection.

<home>/blobs/<sha256>   the files, read-only: one copy, whatever the source or name
<home>/tmp/             what is on its way: <sha256>.part, as far as it has come; nothing there is ever used
<home>/lock.toml        what was pulled: name -> source, commit, files with their hashes, when
"""

from __future__ import annotations

from zoo.store.paths import home
from zoo.store.pull_plan import Plan, plan
from zoo.store.pulling import Look, is_pulled, look, pull, pull_all, pulled, receipt
from zoo.store.receipts import using

__all__ = ["Look", "Plan", "home", "is_pulled", "look", "plan", "pull", "pull_all", "pulled", "receipt", "using"]
