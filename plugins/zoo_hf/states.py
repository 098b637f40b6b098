"""From the keys of a weight file to those of the module: prefixes, old names, heads that are not wanted."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

State = dict[str, Tensor]
TABLES = re.compile(r"(position_ids|inv_freq|attn\.masked_bias|attn\.bias|relative_position_index)$")
"""Buffers that older versions saved, and that a net makes itself."""


def adapt(model: nn.Module, state: Mapping[str, Tensor]) -> State:
    """Return the tensors of a checkpoint under the names of a model of transformers, without heads it does not have.

    What has no place in the model stays where its name begins like a part of it: the strict load then tells.
    A checkpoint that needs more than a new prefix goes through the conversions of transformers itself.
    """
    wanted = model.state_dict().keys()
    plain = _renamed(model, state)
    kept = _fitting(plain, model, f"{getattr(model, 'base_model_prefix', '')}.")
    missing = wanted - kept.keys()
    if not missing or _tied(model, missing):
        return kept
    return _converted(model, state) or kept


def _renamed(model: nn.Module, state: Mapping[str, Tensor]) -> State:
    """Give keys of older checkpoints the names that transformers has now, by its own table."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, apply_renamings

    model_: Any = model
    renamings = [rule for rule in get_model_conversion_mapping(model_) if isinstance(rule, WeightRenaming)]
    return {apply_renamings(name, renamings): tensor for name, tensor in state.items()}


def _fitting(state: Mapping[str, Tensor], model: nn.Module, prefix: str) -> State:
    """Take the prefix off (or put it on, for a model with a head), and leave out what belongs to other heads."""
    wanted = model.state_dict().keys()
    parts = {name.partition(".")[0] for name in wanted}
    kept: State = {}
    for name, tensor in state.items():
        bare = name.removeprefix(prefix)
        place = next((option for option in (name, bare, prefix + name) if option in wanted), None)
        if place is not None:
            kept[place] = tensor
        elif bare.partition(".")[0] in parts and not TABLES.search(name):
            kept[bare] = tensor
    return kept


def _tied(model: nn.Module, missing: Any) -> bool:
    """Tell whether all that is missing is tied to something that is not."""
    named = dict(model.state_dict(keep_vars=True))
    there = {id(tensor) for name, tensor in named.items() if name not in missing}
    return all(id(named[name]) in there for name in missing)


def _no_pooler(model: nn.Module) -> bool:
    return getattr(model, "pooler", None) is None


def _converted(model: nn.Module, state: Mapping[str, Tensor]) -> State | None:
    """Load a checkpoint as transformers does, and return what it holds then, without what was missing."""
    kind: Any = type(model)
    takes = inspect.signature(kind.__init__).parameters
    options = {"add_pooling_layer": False} if "add_pooling_layer" in takes and _no_pooler(model) else {}
    with _no_bar():
        made, told = kind.from_pretrained(
            None, config=model.config, state_dict=dict(state), output_loading_info=True, dtype="float32", **options
        )
    if told.get("mismatched_keys"):
        return None
    missing = set(told["missing_keys"])
    return {name: tensor for name, tensor in made.state_dict().items() if name not in missing}


@contextmanager
def _no_bar() -> Iterator[None]:
    """Keep transformers from drawing a bar inside the block."""
    from transformers import utils

    logging: Any = utils.logging
    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()
