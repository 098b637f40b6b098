"""Private names of PyTorch, fenced in one file: there is no public way to these."""

from __future__ import annotations

from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

__all__ = ["tree_flatten", "tree_unflatten", "uncompile"]


def uncompile(module: nn.Module) -> None:
    """Undo nn.Module.compile."""
    module._compiled_call_impl = None
