"""Convert checkpoint keys to those of a transformers model: prefixes, old names and unused heads."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

State = dict[str, Tensor]
COMPUTED_BUFFERS = re.compile(r"(position_ids|inv_freq|attn\.masked_bias|attn\.bias|relative_position_index)$")
"""Buffers saved by older versions of transformers, now computed by the model."""


def adapt(model: nn.Module, state: Mapping[str, Tensor]) -> State:
    """Convert a checkpoint to the keys of a transformers model, dropping heads that the model lacks.

    Unexpected keys within a submodule of the model are kept, so that the strict load reports them. Checkpoints that
    need more than another prefix are converted by from_pretrained.
    """
    wanted = model.state_dict().keys()
    plain = _renamed(model, state)
    kept = _fitting(plain, model, f"{getattr(model, 'base_model_prefix', '')}.")
    missing = wanted - kept.keys()
    if not missing or _tied(model, missing):
        return kept
    return _converted(model, state) or kept


def _renamed(model: nn.Module, state: Mapping[str, Tensor]) -> State:
    """Rename keys of older checkpoints by the conversion mapping of transformers."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    model_: Any = model
    renamings = [rule for rule in get_model_conversion_mapping(model_) if isinstance(rule, WeightRenaming)]

    def renamed(key: str) -> str:
        for rule in renamings:
            key, _ = rule.rename_source_key(key)
        return key

    return {renamed(key): tensor for key, tensor in state.items()}


def _fitting(state: Mapping[str, Tensor], model: nn.Module, prefix: str) -> State:
    """Remove the base model prefix, or add it for a model with a head, and drop other heads."""
    wanted = model.state_dict().keys()
    parts = {name.partition(".")[0] for name in wanted}
    kept: State = {}
    for name, tensor in state.items():
        bare = name.removeprefix(prefix)
        place = next((option for option in (name, bare, prefix + name) if option in wanted), None)
        if place is not None:
            kept[place] = tensor
        elif bare.partition(".")[0] in parts and not COMPUTED_BUFFERS.search(name):
            kept[bare] = tensor
    return kept


def _tied(model: nn.Module, missing: Any) -> bool:
    """Return whether all missing parameters are tied to present ones."""
    named = dict(model.state_dict(keep_vars=True))
    loaded = {id(tensor) for name, tensor in named.items() if name not in missing}
    return all(id(named[name]) in loaded for name in missing)


def _no_pooler(model: nn.Module) -> bool:
    return getattr(model, "pooler", None) is None


def _converted(model: nn.Module, state: Mapping[str, Tensor]) -> State | None:
    """Load a checkpoint by from_pretrained and return its state dict without missing keys; None if shapes differ."""
    kind: Any = type(model)
    takes = inspect.signature(kind.__init__).parameters
    options = {"add_pooling_layer": False} if "add_pooling_layer" in takes and _no_pooler(model) else {}
    with _no_progress_bar():
        made, info = kind.from_pretrained(
            None, config=model.config, state_dict=dict(state), output_loading_info=True, dtype="float32", **options
        )
    if info.get("mismatched_keys"):
        return None
    missing = set(info["missing_keys"])
    return {name: tensor for name, tensor in made.state_dict().items() if name not in missing}


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Disable the progress bars of transformers inside the block."""
    from transformers import utils

    logging: Any = utils.logging
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
