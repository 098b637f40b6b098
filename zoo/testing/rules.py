"""Conformance rules: functions that check one backbone and raise Broken with the problem and its fix."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from zoo.finetune.features import stage_search
from zoo.finetune.features.stage_outputs import total_dim
from zoo.finetune.freezing import train_mode
from zoo.finetune.network import Network, check_features, head_inputs
from zoo.finetune.runtime.workers import one_thread_each
from zoo.plugin import Backbone, Entry, Features, File, ImageInput, Plugin
from zoo.weights import loader, safetensors_file


class Broken(Exception):
    """A rule is violated: `what` was observed, and the edit that fixes it."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


@dataclass(frozen=True, slots=True)
class Case:
    """Arguments of a rule: plugin, row, local files, the backbone on the meta device and, if run, on the CPU."""

    plugin: Plugin
    entry: Entry
    files: Mapping[str, Path]
    empty: Backbone
    real: Backbone | None = None

    @property
    def backbone(self) -> Backbone:
        """The backbone on the CPU; only rules of RUN_RULES use it."""
        assert self.real is not None
        return self.real


Rule = Callable[[Case], None]
KEEP_NO_STATE = "pass what belongs to a batch as arguments; do not assign it to self in forward"


@contextmanager
def no_network() -> Iterator[None]:
    """Block connections, and raise Broken on exit if one was attempted, even if the plugin handled the error."""
    attempts: list[object] = []

    def refuse(*args: object, **_: object) -> None:
        attempts.append(next((arg for arg in args if isinstance(arg, str | bytes | tuple)), "?"))  # a host, an address
        raise OSError("no network access while building a backbone")

    names = patch.object(socket, "getaddrinfo", refuse)
    with names, patch.object(socket.socket, "connect", refuse), patch.object(socket.socket, "connect_ex", refuse):
        try:
            yield
        except Exception:
            if not attempts:
                raise
    if attempts:
        fix = "list the required files in the row: zoo downloads them and passes them to build"
        raise Broken(f"the network was used: {attempts[0]}", fix)


def _inputs(backbone: Backbone, count: int) -> Any:
    """Return `count` seeded random inputs: images (N, C, H, W), or token ids and attention mask (N, T)."""
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
    """Parameters are on the meta device if built inside torch.device("meta")."""
    for name, parameter in case.empty.module.named_parameters():
        if not parameter.is_meta:
            raise Broken(
                f"{name} is on {parameter.device}", "create parameters without device=, and load no weights in build"
            )


def as_listed(case: Case) -> None:
    """The backbone has the dim, the number of parameters and the input of its row."""
    params = sum(parameter.numel() for parameter in case.empty.module.parameters())
    for key, built in (("dim", case.empty.dim), ("params", params), ("input", case.empty.input)):
        listed = getattr(case.entry, key)
        if listed not in (None, built):
            where = case.entry.catalogue or "its row"
            raise Broken(f"{key} is {built} in the backbone but {listed} in the row", f"{key} = {built} in {where}")


def stages_cover(case: Case) -> None:
    """The stages cover every parameter exactly once."""
    loader.check_stages(case.empty, case.entry.name)


def features_fit(case: Case) -> None:
    """One and three inputs give pooled features (N, D) in float32, and tokens (N, T, D) with mask (N, T) if any."""
    for count in (1, 3):
        with torch.no_grad():
            features = check_features(case.backbone.module.eval()(_inputs(case.backbone, count)))
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
    """In eval mode equal inputs give equal features, bit for bit."""
    if not torch.equal(_pooled(case.backbone, 3), _pooled(case.backbone, 3)):
        raise Broken("two forward passes in eval mode differ", "disable dropout and noise unless self.training")


def reentrant(case: Case) -> None:
    """Several threads run the net at the same time, as training on a CPU does: forward keeps no state of a batch."""
    module = case.backbone.module.eval()
    batches = [_inputs(case.backbone, count) for count in (1, 2, 3)]

    def features(inputs: Any) -> Tensor:
        with torch.no_grad():
            pooled: Tensor = module(inputs).pooled
        return pooled

    barrier = threading.Barrier(len(batches))

    def meet(*_: object) -> None:
        """Let every thread reach the same module before any of them runs it."""
        with suppress(threading.BrokenBarrierError):
            barrier.wait(timeout=1)

    with one_thread_each():
        expected = list(map(features, batches))
        hooks = [part.register_forward_pre_hook(meet) for part in module.modules()]
        try:
            with ThreadPoolExecutor(len(batches)) as pool:
                found = list(pool.map(features, batches))
        except Exception as error:
            raise Broken(f"forward fails in several threads: {error}", KEEP_NO_STATE) from error
        finally:
            for hook in hooks:
                hook.remove()
    if not all(map(torch.equal, expected, found)):
        raise Broken("features differ when several threads run forward", KEEP_NO_STATE)


def _together_and_alone(backbone: Backbone) -> tuple[Any, Any]:
    """Return three inputs, the first text padded to half, and the first of them without the others and padding."""
    inputs = _inputs(backbone, 3)
    if isinstance(inputs, Tensor):
        return inputs, inputs[:1]
    length = max(1, inputs["input_ids"].shape[1] // 2)
    inputs["attention_mask"][0, length:] = 0
    return inputs, {name: tensor[:1, :length] for name, tensor in inputs.items()}


def apart(case: Case) -> None:
    """The features of an input do not depend on the rest of the batch or on padding."""
    together, alone = _together_and_alone(case.backbone)
    with torch.no_grad():
        module = case.backbone.module.eval()
        one, other = module(together).pooled[:1], module(alone).pooled
    if not torch.allclose(one, other, rtol=1e-3, atol=1e-4):
        fix = "use no batch statistics in eval mode, and exclude padding from attention and pooling"
        raise Broken("the features of an input depend on the rest of the batch", fix)


def stages_apart(case: Case) -> None:
    """Outputs of stages that a head reads are finite (N, C), and do not depend on the rest of the batch or padding."""
    backbone = case.backbone
    stages = stage_search.find(backbone)
    together, alone = _together_and_alone(backbone)
    with torch.no_grad():
        module = backbone.module.eval()
        one, other = (head_inputs(module, inputs, "pooled", stages) for inputs in (together, alone))
    wanted = total_dim(backbone.dim, stages)
    if one.shape[1] != wanted or not one.isfinite().all():
        seen = f"averaged outputs of stages behind pooled features are {tuple(one.shape)}, finite or not"
        raise Broken(seen, f"return finite outputs, (N, {wanted}) when averaged, from the modules of stages")
    start = backbone.dim
    for stage in stages:
        first, second = (found[:1, start : start + stage.dim] for found in (one, other))
        if (first - second).abs().max() > stage_search.TOLERANCE * first.abs().max():
            fix = "let the modules of a stage return what they know of each input alone, or name others in stages"
            raise Broken(f"the output of {stage.module} depends on the rest of the batch", fix)
        start += stage.dim


def gradients_reach(case: Case) -> None:
    """In train mode every stage gets a gradient from a loss on the pooled features."""
    module = case.backbone.module.train().requires_grad_(True)
    pooled = module(_inputs(case.backbone, 3)).pooled
    (pooled * torch.randn(pooled.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    for stage in case.backbone.stages:
        below = [p for name, p in module.named_parameters() if any(f"{name}.".startswith(f"{part}.") for part in stage)]
        if not any(parameter.grad is not None and parameter.grad.any() for parameter in below):
            fix = "remove detach() and no_grad() from forward, and unused parameters from the module"
            raise Broken(f"no gradient reaches stage {stage}", fix)
    module.zero_grad()


def frozen_stays(case: Case) -> None:
    """A training step does not change a frozen backbone bit for bit, in eval mode and in the mode of finetune."""
    module = case.backbone.module.requires_grad_(False)
    everything = tuple(name for name, _ in module.named_modules())
    network = Network(module, nn.Linear(case.backbone.dim, 2), stages=(everything,))
    for core in (False, True):
        network.eval()
        if core:
            train_mode(network, freeze_stages=1, update_batchnorm=False, dropout=True)
        _check_unchanged(case, network, "do not write to parameters or buffers in forward while frozen")


def head_apart(case: Case) -> None:
    """Heads of different sizes can be trained on the backbone without changing any of its tensors."""
    module = case.backbone.module.eval().requires_grad_(False)
    before = dict(_tensors(module))
    for labels in (2, 7):
        network = Network(module, nn.Linear(case.backbone.dim, labels))
        _check_unchanged(case, network, "keep no state in the backbone that depends on the head")
    if not all(tensor is before[name] for name, tensor in _tensors(module)):
        raise Broken(
            "training a head replaces tensors of the backbone", "do not assign parameters or buffers in forward"
        )


def _check_unchanged(case: Case, network: Network, fix: str) -> None:
    """Train the head for a step; raises Broken if the backbone changes."""
    before = {name: tensor.clone() for name, tensor in _tensors(network.backbone)}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, weight_decay=0.1)
    network(_inputs(case.backbone, 3)).sum().backward()
    if network.head.weight.grad is None:
        raise Broken("the head gets no gradient", "return features that a linear head can be trained on")
    optimizer.step()
    for name, tensor in _tensors(network.backbone):
        if not torch.equal(tensor, before[name]):
            raise Broken(f"{name} changed while frozen", fix)


def adapts_purely(case: Case) -> None:
    """adapt is deterministic and does not modify its arguments."""
    given = case.backbone.module.state_dict()
    copies = {name: tensor.clone() for name, tensor in given.items()}
    first = case.plugin.adapt(case.entry, dict(given), case.files)
    second = case.plugin.adapt(case.entry, dict(given), case.files)
    if first.keys() != second.keys() or not all(torch.equal(first[name], second[name]) for name in first):
        raise Broken("two calls of adapt differ", "make adapt depend only on its arguments")
    for name, tensor in given.items():
        if not torch.equal(tensor, copies[name]):
            raise Broken(f"adapt changed {name}", "return new tensors instead of modifying the given ones")


def adapters_fit(case: Case) -> None:
    """Every name in lora_targets is the name, or a suffix of the names, of layers that support LoRA adapters."""
    parts = dict(case.empty.module.named_modules())
    for target in case.empty.lora_targets:
        named = [part for name, part in parts.items() if f".{name}".endswith(f".{target}")]
        unfit = [part for part in named if not isinstance(part, nn.Linear | nn.Conv2d | nn.Conv1d)]
        unfit = [part for part in unfit if type(part).__name__ != "Conv1D"]  # the linear layer of GPT-2 in transformers
        if unfit or not named:
            seen = f"which is a {type(unfit[0]).__name__}" if unfit else "which is not a layer"
            raise Broken(f"lora_targets has {target!r}, {seen}", "name linear or convolution layers in lora_targets")


def round_trip(case: Case) -> None:
    """A saved state dict, adapted and loaded strictly into a new backbone, gives the same features.

    Up to rounding: torch selects kernels by the memory layout of weights, which a file does not preserve.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        safetensors_file.write_state(path, case.backbone.module.state_dict(), {})
        saved = replace(case.entry, source=Path(folder).as_uri(), files=(File(path.name),))
        others = {name: file for name, file in case.files.items() if not name.endswith(".safetensors")}
        reloaded = loader.load(case.plugin, saved, {**others, path.name: path})
        before, after = (_pooled(backbone, 3) for backbone in (case.backbone, reloaded))
        if not torch.allclose(before, after, rtol=1e-4, atol=1e-5):
            fix = "register all state of forward as parameters or buffers, and keep the module's own keys in adapt"
            raise Broken("features differ after saving and loading", fix)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


META_RULES: dict[str, Rule] = {
    "built on the meta device": on_meta,
    "matches its catalogue row": as_listed,
    "stages cover every parameter once": stages_cover,
    "lora_targets are valid": adapters_fit,
}
RUN_RULES: dict[str, Rule] = {
    "features (N, D)": features_fit,
    "deterministic in eval mode": deterministic,
    "runs in several threads": reentrant,
    "independent of the batch": apart,
    "outputs of stages are independent of the batch": stages_apart,
    "adapt is pure": adapts_purely,
    "gradients reach every stage": gradients_reach,
    "frozen backbone is unchanged": frozen_stays,
    "heads leave the backbone unchanged": head_apart,
    "save and load": round_trip,
}
