"""Private names of PyTorch, fenced in one file: there is no public way to these."""

from __future__ import annotations

from torch.utils._pytree import tree_flatten, tree_unflatten

__all__ = ["tree_flatten", "tree_unflatten"]
