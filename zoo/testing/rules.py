"""The rules of the contract, each a function that looks at a case and raises Broken when it does not hold."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from zoo.finetune.network import Network, set_mode
from zoo.plugin import Backbone, Entry, Features, File, ImageInput, Plugin
from zoo.weights import loader, safetensors_file


class Broken(Exception):
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


@contextmanager
def no_network() -> Iterator[None]:
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
        raise Broken(f"the network was used: {attempts[0]}", fix)


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
            raise Broken(f"{name} is on {parameter.device}", "create parameters without device=, and load no weights")


def as_listed(case: Case) -> None:
    """The net has the dim, the parameters and the input of its row."""
    params = sum(parameter.numel() for parameter in case.empty.module.parameters())
    for key, built in (("dim", case.empty.dim), ("params", params), ("input", case.empty.input)):
        listed = getattr(case.entry, key)
        if listed not in (None, built):
            where = case.entry.catalogue or "its row"
            raise Broken(f"{key} is {built} in the net and {listed} in the row", f"{key} = {built} in {where}")


def stages_cover(case: Case) -> None:
    """The stages cover every parameter exactly once."""
    loader.check_stages(case.empty, case.entry.name)


def features_fit(case: Case) -> None:
    """One and three inputs give pooled features (N, D) in float32, and tokens (N, T, D) with mask (N, T) if any."""
    for count in (1, 3):
        with torch.no_grad():
            features: object = case.backbone.module.eval()(_inputs(case.backbone, count))
        if not isinstance(features, Features):
            raise Broken(f"the net returned {type(features).__name__}", "return zoo.plugin.Features from forward")
        pooled, wanted = features.pooled, (count, case.backbone.dim)
        if tuple(pooled.shape) != wanted or pooled.dtype != torch.float32:
            seen = f"pooled is {tuple(pooled.shape)} {pooled.dtype} for {count} inputs"
            raise Broken(seen, f"return pooled as (N, D) = {wanted} in float32")
        tokens, mask = features.tokens, features.mask
        if tokens is not None and (tokens.ndim != 3 or (len(tokens), tokens.shape[2]) != wanted):
            raise Broken(f"tokens are {tuple(tokens.shape)}", "return tokens as (N, T, D), or None")
        if mask is not None and (tokens is None or mask.shape != tokens.shape[:2]):
            raise Broken(f"the mask is {tuple(mask.shape)}", "return a mask (N, T) for tokens (N, T, D), or None")


def deterministic(case: Case) -> None:
    """In eval mode the same inputs give the same features, bit for bit."""
    if not torch.equal(_pooled(case.backbone, 3), _pooled(case.backbone, 3)):
        raise Broken("two passes in eval mode differ", "let dropout and noise follow self.training")


def apart(case: Case) -> None:
    """The features of an input are the same whatever else is in the batch, padding of texts included."""
    inputs = _inputs(case.backbone, 3)
    alone: Any
    if isinstance(inputs, Tensor):
        alone = inputs[:1]
    else:
        length = max(1, inputs["input_ids"].shape[1] // 2)
        inputs["attention_mask"][0, length:] = 0  # the others are longer
        alone = {name: tensor[:1, :length] for name, tensor in inputs.items()}
    with torch.no_grad():
        module = case.backbone.module.eval()
        together, single = module(inputs).pooled[:1], module(alone).pooled
    if not torch.allclose(together, single, rtol=1e-3, atol=1e-4):
        fix = "normalise within an input only, and leave out of the pooling what the attention mask leaves out"
        raise Broken("an input's features depend on the other inputs of its batch", fix)


def gradients_reach(case: Case) -> None:
    """In train mode a loss on the pooled features gives every stage a gradient."""
    module = case.backbone.module.train().requires_grad_(True)
    pooled = module(_inputs(case.backbone, 3)).pooled
    (pooled * torch.randn(pooled.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    for stage in case.backbone.stages:
        below = [p for name, p in module.named_parameters() if any(f"{name}.".startswith(f"{part}.") for part in stage)]
        if not any(parameter.grad is not None and parameter.grad.any() for parameter in below):
            fix = "remove detach() and no_grad() from forward, and parameters that it does not use"
            raise Broken(f"no gradient reaches stage {stage}", fix)
    module.zero_grad()


def frozen_stays(case: Case) -> None:
    """Frozen, a step leaves parameters and buffers as they are, bit for bit, in eval mode and as core trains."""
    module = case.backbone.module.requires_grad_(False)
    network = Network(module, nn.Linear(case.backbone.dim, 2))
    names = {name for name, _ in module.named_modules()}
    for core in (False, True):
        set_mode(network, names, hold_norms=True, dropout=True) if core else network.eval()
        _unchanged(case, network, "let forward write to no parameter or buffer while it is frozen")


def head_apart(case: Case) -> None:
    """Another head, of another size, leaves every tensor of the backbone as it is and learns from its features."""
    module = case.backbone.module.eval().requires_grad_(False)
    before = dict(_tensors(module))
    for labels in (2, 7):
        network = Network(module, nn.Linear(case.backbone.dim, labels))
        _unchanged(case, network, "keep no state in the net that depends on what is put on it")
    if not all(tensor is before[name] for name, tensor in _tensors(module)):
        raise Broken("a head replaces tensors of the net", "let forward assign no parameter or buffer")


def _unchanged(case: Case, network: Network, fix: str) -> None:
    """Train a head for a step; the backbone has to stay as it is."""
    before = {name: tensor.clone() for name, tensor in _tensors(network.backbone)}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
    network(_inputs(case.backbone, 3)).sum().backward()
    if network.head.weight.grad is None:
        raise Broken("the head gets no gradient", "return features that a head can learn from")
    optimizer.step()
    for name, tensor in _tensors(network.backbone):
        if not torch.equal(tensor, before[name]):
            raise Broken(f"{name} changed while frozen", fix)


def adapts_purely(case: Case) -> None:
    """adapt gives the same for the same, and leaves what it is given as it is."""
    given = case.backbone.module.state_dict()
    copies = {name: tensor.clone() for name, tensor in given.items()}
    first = case.plugin.adapt(case.entry, dict(given), case.files)
    again = case.plugin.adapt(case.entry, dict(given), case.files)
    if first.keys() != again.keys() or not all(torch.equal(first[name], again[name]) for name in first):
        raise Broken("adapt gives something else the second time", "let adapt depend on its arguments alone")
    for name, tensor in given.items():
        if not torch.equal(tensor, copies[name]):
            raise Broken(f"adapt changed {name}", "return new tensors in place of changing those that are given")


def adapters_fit(case: Case) -> None:
    """Every name in lora_targets is the name, or the end of the names, of layers which adapters can go on."""
    parts = dict(case.empty.module.named_modules())
    for target in case.empty.lora_targets:
        named = [part for name, part in parts.items() if f".{name}".endswith(f".{target}")]
        unfit = [part for part in named if not isinstance(part, nn.Linear | nn.Conv2d | nn.Conv1d)]
        unfit = [part for part in unfit if type(part).__name__ != "Conv1D"]  # transformers' linear layer of GPT-2
        if unfit or not named:
            seen = f"it is a {type(unfit[0]).__name__}" if unfit else "there is no such layer"
            raise Broken(f"lora_targets names {target!r}, and {seen}", "name linear layers of the net in lora_targets")


def round_trip(case: Case) -> None:
    """The net's own state dict, saved, adapted and loaded strictly into an empty net, gives the same features.

    Not bit for bit: torch chooses kernels by how a weight lies in memory, and a file's lie as they come.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        safetensors_file.write_state(path, case.backbone.module.state_dict(), {})
        saved = replace(case.entry, source=Path(folder).as_uri(), files=(File(path.name),))
        others = {name: file for name, file in case.files.items() if not name.endswith(".safetensors")}
        again = loader.load(case.plugin, saved, {**others, path.name: path})
        before, after = (_pooled(backbone, 3) for backbone in (case.backbone, again))
        if not torch.allclose(before, after, rtol=1e-4, atol=1e-5):
            fix = "register what forward needs as parameters and buffers, and let adapt keep the net's own keys"
            raise Broken("features differ after a save and a load", fix)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


META_RULES: dict[str, Rule] = {
    "built on the meta device": on_meta,
    "as listed": as_listed,
    "stages cover every parameter once": stages_cover,
    "adapters have a place": adapters_fit,
}
RUN_RULES: dict[str, Rule] = {
    "features (N, D)": features_fit,
    "deterministic in eval mode": deterministic,
    "inputs apart": apart,
    "adapt is pure": adapts_purely,
    "gradients reach every stage": gradients_reach,
    "frozen means frozen": frozen_stays,
    "a head touches only itself": head_apart,
    "save and load": round_trip,
}
