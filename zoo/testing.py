"""The conformance kit: `check_plugin("acme")` in a plugin's own tests tells whether core can rely on it."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from zoo import discovery, registry, statefile, store, weights
from zoo.errors import PluginError, ZooError
from zoo.plugin import Backbone, Entry, Features, File, ImageInput, Plugin

__all__ = ["check_plugin"]


class _Broken(Exception):
    """A rule does not hold: what was seen, and the edit that mends it."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


@dataclass(frozen=True, slots=True)
class Case:
    """What a rule looks at: the plugin, a row, its local files, its net on the meta device and (run) on the CPU."""

    plugin: Plugin
    entry: Entry
    files: Mapping[str, Path]
    empty: Backbone
    real: Backbone | None = None

    @property
    def backbone(self) -> Backbone:
        """The net on the CPU; rules that ask for it are not called without one."""
        assert self.real is not None
        return self.real


Rule = Callable[[Case], None]
"""Looks at a case and raises when it does not hold; the tables at the end of this file name them all."""


def check_plugin(plugin: str | Plugin, entries: Iterable[str | Entry] | None = None, *, run: bool = True) -> None:
    """Check every rule for every row of a plugin, and raise a PluginError that names plugin, row, rule and fix.

    plugin   the name it is installed under, or the object
    entries  only these rows (names or entries); an object that is not installed needs them
    run      False: check on the meta device only, which costs next to nothing for a large net
    """
    checked = discovery.load(plugin) if isinstance(plugin, str) else discovery.check(plugin, repr(plugin))
    chosen = _rows(plugin) if entries is None else [registry.find(e) if isinstance(e, str) else e for e in entries]
    for entry in chosen:
        with _naming(entry, "builds without network"):
            case = _empty(checked, entry)
        _hold(META_RULES, case)
        if run:
            with _naming(entry, "takes its weights"):
                case = _filled(case)
            _hold(RUN_RULES, case)


def _hold(rules: Mapping[str, Rule], case: Case) -> None:
    for rule, holds in rules.items():
        with _naming(case.entry, rule):
            holds(case)


@contextmanager
def _naming(entry: Entry, rule: str) -> Iterator[None]:
    """Give whatever goes wrong inside the block the names of the plugin, the row and the rule."""
    where = f"plugin '{entry.plugin}', {entry.name}, rule '{rule}'"
    try:
        yield
    except (_Broken, ZooError) as error:
        raise PluginError(f"{where}: {error.what}", fix=error.fix) from error
    except Exception as error:
        fix = f"mend build, adapt or the net of {entry.name}: the traceback shows where"
        raise PluginError(f"{where}: {type(error).__name__}: {error}", fix=fix) from error


def _rows(plugin: str | Plugin) -> list[Entry]:
    if not isinstance(plugin, str):
        raise PluginError(f"{plugin!r} was given without rows", fix="check_plugin(plugin, entries)")
    if problem := registry.problems().get(plugin):
        raise problem
    chosen = registry.search(plugin=plugin)
    if not chosen:
        raise PluginError(
            f"plugin '{plugin}' lists no rows", fix="ship catalogue.toml in the plugin's top-level package"
        )
    return chosen


def _empty(plugin: Plugin, entry: Entry) -> Case:
    """Build the net of a row on the meta device, with its files where they are on this machine."""
    local = (entry.source or "").startswith(("file://", "package://")) or store.is_pulled(entry)
    files = store.pull(entry) if local else {}
    with _no_network(), torch.device("meta"):
        empty: object = plugin.build(entry, files)
    if not isinstance(empty, Backbone) or not isinstance(empty.module, nn.Module):
        raise _Broken(f"build returned {empty!r:.80}", "return a zoo.plugin.Backbone with a torch module")
    return Case(plugin, entry, files, empty)


def _filled(case: Case) -> Case:
    """Add the net with values: its own weights where they are on this machine, else random ones."""
    plugin, entry, files = case.plugin, case.entry, case.files
    with _no_network():
        real = weights.load(plugin, entry, files) if files else weights.initialise(plugin, entry, files, seed=0)
    return replace(case, real=real)


@contextmanager
def _no_network() -> Iterator[None]:
    """Refuse connections inside the block, and break the rule if one was tried, even if the plugin went on."""
    attempts: list[object] = []

    def refuse(*args: object, **_: object) -> None:
        attempts.append(next((arg for arg in args if isinstance(arg, str | bytes | tuple)), "?"))  # a host, an address
        raise OSError("a net is built without network")

    names = patch.object(socket, "getaddrinfo", refuse)
    with names, patch.object(socket.socket, "connect", refuse), patch.object(socket.socket, "connect_ex", refuse):
        try:
            yield
        except Exception:
            if not attempts:
                raise
    if attempts:
        fix = "list the files the net needs in its row: core fetches them and hands them to build"
        raise _Broken(f"the network was used: {attempts[0]}", fix)


def _inputs(backbone: Backbone, count: int) -> Any:
    """Return `count` prepared inputs, the same each time: images (N, C, H, W), or token ids and their mask (N, T)."""
    generator = torch.Generator().manual_seed(count)
    spec = backbone.input
    if isinstance(spec, ImageInput):
        return torch.randn(count, spec.channels, spec.size, spec.size, generator=generator)
    words = backbone.tokenizer.fast.get_vocab_size() if backbone.tokenizer else 100
    ids = torch.randint(0, words, (count, min(spec.max_length, 8)), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}


def _pooled(backbone: Backbone, count: int) -> Tensor:
    """Return the pooled features of `count` inputs in eval mode, (N, D)."""
    with torch.no_grad():
        features: Features = backbone.module.eval()(_inputs(backbone, count))
    return features.pooled


def on_meta(case: Case) -> None:
    """Built inside torch.device("meta"), no parameter holds memory."""
    for name, parameter in case.empty.module.named_parameters():
        if not parameter.is_meta:
            raise _Broken(f"{name} is on {parameter.device}", "create parameters without device=, and load no weights")


def as_listed(case: Case) -> None:
    """The net has the dim, the parameters and the input of its row."""
    params = sum(parameter.numel() for parameter in case.empty.module.parameters())
    for key, built in (("dim", case.empty.dim), ("params", params), ("input", case.empty.input)):
        listed = getattr(case.entry, key)
        if listed not in (None, built):
            where = case.entry.catalogue or "its row"
            raise _Broken(f"{key} is {built} in the net and {listed} in the row", f"{key} = {built} in {where}")


def stages_cover(case: Case) -> None:
    """The stages cover every parameter exactly once."""
    weights.check_stages(case.empty, case.entry.name)


def features_fit(case: Case) -> None:
    """One and three inputs give pooled features (N, D) in float32, and tokens (N, T, D) with mask (N, T) if any."""
    for count in (1, 3):
        with torch.no_grad():
            features: object = case.backbone.module.eval()(_inputs(case.backbone, count))
        if not isinstance(features, Features):
            raise _Broken(f"the net returned {type(features).__name__}", "return zoo.plugin.Features from forward")
        pooled, wanted = features.pooled, (count, case.backbone.dim)
        if tuple(pooled.shape) != wanted or pooled.dtype != torch.float32:
            seen = f"pooled is {tuple(pooled.shape)} {pooled.dtype} for {count} inputs"
            raise _Broken(seen, f"return pooled as (N, D) = {wanted} in float32")
        tokens, mask = features.tokens, features.mask
        if tokens is not None and (tokens.ndim != 3 or (len(tokens), tokens.shape[2]) != wanted):
            raise _Broken(f"tokens are {tuple(tokens.shape)}", "return tokens as (N, T, D), or None")
        if mask is not None and (tokens is None or mask.shape != tokens.shape[:2]):
            raise _Broken(f"the mask is {tuple(mask.shape)}", "return a mask (N, T) for tokens (N, T, D), or None")


def deterministic(case: Case) -> None:
    """In eval mode the same inputs give the same features, bit for bit."""
    if not torch.equal(_pooled(case.backbone, 3), _pooled(case.backbone, 3)):
        raise _Broken("two passes in eval mode differ", "let dropout and noise follow self.training")


def gradients_reach(case: Case) -> None:
    """In train mode a loss on the pooled features gives every stage a gradient."""
    module = case.backbone.module.train().requires_grad_(True)
    pooled = module(_inputs(case.backbone, 3)).pooled
    (pooled * torch.randn(pooled.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    for stage in case.backbone.stages:
        below = [p for name, p in module.named_parameters() if any(f"{name}.".startswith(f"{part}.") for part in stage)]
        if not any(parameter.grad is not None and parameter.grad.any() for parameter in below):
            fix = "remove detach() and no_grad() from forward, and parameters that it does not use"
            raise _Broken(f"no gradient reaches stage {stage}", fix)
    module.zero_grad()


def frozen_stays(case: Case) -> None:
    """Frozen and in eval mode, a training step leaves parameters and buffers as they are, bit for bit."""
    module = case.backbone.module.eval().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in _tensors(module)}
    head = nn.Linear(case.backbone.dim, 2)
    optimizer = torch.optim.SGD([*module.parameters(), *head.parameters()], lr=0.1, weight_decay=0.1)
    head(module(_inputs(case.backbone, 3)).pooled).sum().backward()
    optimizer.step()
    for name, tensor in _tensors(module):
        if not torch.equal(tensor, before[name]):
            raise _Broken(f"{name} changed while frozen", "let forward write to no parameter or buffer in eval mode")


def round_trip(case: Case) -> None:
    """The net's own state dict, saved, adapted and loaded strictly into an empty net, gives the same features.

    Not bit for bit: torch chooses kernels by how a weight lies in memory, and a file's lie as they come.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        statefile.write_state(path, case.backbone.module.state_dict(), {})
        saved = replace(case.entry, source=Path(folder).as_uri(), files=(File(path.name),))
        others = {name: file for name, file in case.files.items() if not name.endswith(".safetensors")}
        again = weights.load(case.plugin, saved, {**others, path.name: path})
        before, after = (_pooled(backbone, 3) for backbone in (case.backbone, again))
        if not torch.allclose(before, after, rtol=1e-4, atol=1e-5):
            fix = "register what forward needs as parameters and buffers, and let adapt keep the net's own keys"
            raise _Broken("features differ after a save and a load", fix)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


META_RULES: dict[str, Rule] = {
    "built on the meta device": on_meta,
    "as listed": as_listed,
    "stages cover every parameter once": stages_cover,
}
RUN_RULES: dict[str, Rule] = {
    "features (N, D)": features_fit,
    "deterministic in eval mode": deterministic,
    "gradients reach every stage": gradients_reach,
    "frozen means frozen": frozen_stays,
    "save and load": round_trip,
}
