"""Validate every row of the timm plugin: build, checkpoint keys, features and logits compared with timm.

    python tools/timm_walk.py [SHARD/SHARDS] [PATTERN]

Every model is checked on the meta device; small ones also run with random weights on the CPU. Prints a JSON document:
the number of rows and models checked and run, and the problems by row.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from fnmatch import fnmatchcase

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from zoo_timm import plugin, reading

import zoo
from zoo.plugin import Backbone, Entry, Features, ImageInput
from zoo.weights import loader

SMALL = 8_000_000
"""Maximum number of parameters of models run on the CPU."""


def problems(entry: Entry) -> Iterator[str]:
    """Yield the problems of a row: dim, params, stages, checkpoint keys, features and LoRA targets."""
    backbone = loader._build(plugin, entry, {}, "meta")  # checks dim and stages
    params = sum(parameter.numel() for parameter in backbone.module.parameters())
    if params != entry.params:
        yield f"{params} parameters, but {entry.params} in the row"
    if not 2 <= len(backbone.stages) <= 66:
        yield f"{len(backbone.stages)} stages"
    if loader._needs_values(backbone.module) and not _is_tied(backbone.module):
        yield "uninitialised buffers"
    if any(hasattr(part, "running_mean") and not isinstance(part, _BatchNorm) for part in backbone.module.modules()):
        yield "running statistics outside of BatchNorm, which are not frozen"
    yield from _wrong_keys(entry, backbone)
    yield from _wrong_features(entry, backbone)


def differences(entry: Entry) -> Iterator[str]:
    """Yield differences in features and logits from timm, with random weights and images."""
    assert isinstance(entry.input, ImageInput)
    torch.manual_seed(0)
    with torch.random.fork_rng():
        theirs = timm.create_model(entry.options["arch"]).eval()
    state = _randomised(theirs)
    backbone = loader._build(plugin, entry, {}, "meta")
    loader._fill(backbone.module, plugin.adapt(entry, dict(state), {}), entry, assign=True)
    own = backbone.module.state_dict()
    if plugin.adapt(entry, dict(own), {}).keys() != own.keys():
        yield "adapt changes the keys of the module"
    images = torch.randn(2, entry.input.channels, entry.input.size, entry.input.size)
    with torch.inference_mode():
        ours = backbone.module.eval()(images)
        logits = theirs(images)
        classifier = plugin.classifier(entry, state, {})
        if classifier is not None:
            mine = ours.pooled @ classifier.weight.T + classifier.bias
            if not torch.allclose(mine, logits, atol=1e-4 * float(logits.abs().max()), rtol=1e-4):
                yield f"logits differ by {float((mine - logits).abs().max()):.2g} of {float(logits.abs().max()):.2g}"
        reading.head_keys(theirs)
        pooled = theirs(images)
    if pooled.ndim == 2 and not torch.equal(ours.pooled, pooled):
        yield f"features differ by {float((ours.pooled - pooled).abs().max()):.2g}"
    if not ours.pooled.std() > 0:
        yield "features do not depend on the image"


def _wrong_keys(entry: Entry, backbone: Backbone) -> Iterator[str]:
    """Yield differences in keys and shapes between an adapted timm checkpoint and the model."""
    with reading.shapes_only():
        whole = timm.create_model(entry.options["arch"])
    adapted = plugin.adapt(entry, whole.state_dict(), {})
    wanted = backbone.module.state_dict()
    if adapted.keys() != wanted.keys():
        yield f"keys: {sorted(adapted.keys() ^ wanted.keys())[:4]}"
    elif shapes := [key for key in wanted if adapted[key].shape != wanted[key].shape]:
        yield f"shapes: {shapes[:4]}"
    heads = whole.pretrained_cfg["classifier"] or ()
    tops = {name.partition(".")[0] for name in ((heads,) if isinstance(heads, str) else heads)}
    if unexpected := {key for key in whole.state_dict().keys() - wanted.keys() if key.partition(".")[0] not in tops}:
        yield f"dropped keys outside of the classifier: {sorted(unexpected)[:4]}"


def _wrong_features(entry: Entry, backbone: Backbone) -> Iterator[str]:
    """Yield wrong feature shapes on the meta device, and LoRA targets that forward does not call."""
    assert isinstance(entry.input, ImageInput)
    net, called = backbone.module.to("meta").eval(), set()
    for name, part in net.named_modules():
        part.register_forward_hook(lambda part, args, output, name=name: called.add(name))
    with torch.no_grad():
        size = entry.input.size
        features = net(torch.empty(2, entry.input.channels, size, size, device="meta"))
    if not isinstance(features, Features) or tuple(features.pooled.shape) != (2, backbone.dim):
        yield f"features {tuple(features.pooled.shape)}, but dim {backbone.dim}"
    tokens: Tensor | None = features.tokens
    if tokens is not None and (tokens.ndim != 3 or (len(tokens), tokens.shape[2]) != (2, backbone.dim)):
        yield f"tokens {tuple(tokens.shape)}"
    if unused := set(backbone.lora_targets) - called:
        yield f"adapters on layers that forward does not call: {sorted(unused)[:4]}"


def _is_tied(net: nn.Module) -> bool:
    return len(list(net.parameters())) < len(list(net.named_parameters(remove_duplicate=False)))


def _randomised(net: nn.Module) -> dict[str, Tensor]:
    """Add noise to all weights, so that every tensor affects the output."""
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point() and "running_var" not in name:
            tensor.add_(torch.randn(tensor.shape) * 0.02)
    return net.state_dict()


def _model_key(entry: Entry) -> str:
    """Return a key that is equal for rows with the same model and input."""
    assert isinstance(entry.input, ImageInput)
    arch, _, tag = entry.options["arch"].partition(".")
    classes = timm.get_pretrained_cfg(entry.options["arch"]).num_classes
    return f"{arch} {entry.input.size} {classes} {tag if tag in ('fcmae', 'tv_in1k') else ''}"


def main() -> None:
    """Validate a shard of the rows and print the problems."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    shard, shards = map(int, sys.argv[1].split("/")) if len(sys.argv) > 1 else (0, 1)
    pattern = sys.argv[2] if len(sys.argv) > 2 else "*"
    groups: dict[str, list[Entry]] = {}
    for entry in zoo.list(plugin="timm"):
        if fnmatchcase(entry.name, f"timm/{pattern}"):
            groups.setdefault(_model_key(entry), []).append(entry)
    found: dict[str, list[str]] = {}
    chosen = list(groups.values())[shard::shards]
    run = 0
    for same in chosen:
        try:
            wrong = list(problems(same[0]))
            if (same[0].params or 0) <= SMALL:
                run += 1
                wrong += differences(same[0])
        except Exception as error:  # noqa: BLE001  (one broken row must not hide the others)
            wrong = [f"{type(error).__name__}: {error}"]
        if wrong:
            found |= {entry.name: wrong for entry in same}
    print(json.dumps({"rows": sum(map(len, chosen)), "nets": len(chosen), "run": run, "problems": found}, indent=1))


if __name__ == "__main__":
    main()
