"""From verified files to a backbone with its weights: empty net, memory-mapped tensors, strict loading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.errors import PluginError, WeightsError, ZooError
from zoo.plugin import Backbone, Classifier, Entry, ImageInput, Plugin, TextInput
from zoo.weights.safetensors_file import FORMAT, read_state


def load(plugin: Plugin, entry: Entry, files: Mapping[str, Path]) -> Backbone:
    """Return the backbone of an entry with the weights of its .safetensors files, in float32.

    The tensors are private views of the mapped files (copied when written to), so a large net loads in no time and
    training never touches a file. Raises WeightsError if the files do not fit the net exactly, PluginError if the
    plugin breaks the contract.
    """
    state = _pretrained(plugin, entry, files)
    backbone = _build(plugin, entry, files, "meta")
    lazy = not _needs_values(backbone.module)
    if not lazy:
        backbone = _build(plugin, entry, files, "cpu")
    _fill(backbone.module, state, entry, assign=lazy)
    left = _on_meta(backbone.module)
    if left:
        raise WeightsError(
            f"{entry.name}: the net of {_label(entry)} keeps tensors without values: {_some(left)}",
            fix="have its build() make them with the default device, and give parameters and buffers to the module",
        )
    backbone.module.float()
    return backbone


def initialise(plugin: Plugin, entry: Entry, files: Mapping[str, Path], seed: int) -> Backbone:
    """Return the backbone of an entry with the random weights that `seed` gives; the global generator is untouched."""
    backbone = _build(plugin, entry, files, "cpu", seed)
    backbone.module.float()
    return backbone


def classifier(plugin: Plugin, entry: Entry, files: Mapping[str, Path], dim: int) -> Classifier | None:
    """Return the classifier on `dim` features that the weight files of an entry hold, by its plugin's word, or None.

    Raises PluginError if its parts do not fit together.
    """
    state: dict[str, Tensor] = {}
    for name, path in files.items():
        if name.endswith(".safetensors"):
            tensors, metadata = read_state(path)
            if _is_own(path, metadata):
                return None
            state.update(tensors)
    found = plugin.classifier(entry, state, files) if state else None
    if found is None or found.weight.shape[-1] != dim:  # one on other features than the pooled ones
        return None
    classes = len(found.labels)
    if found.weight.ndim != 2 or len(found.weight) != classes or tuple(found.bias.shape) != (classes,):
        shapes = f"{tuple(found.weight.shape)} and {tuple(found.bias.shape)}"
        what = f"{_label(entry)}: classifier() of {entry.name} has {classes} names, and weight and bias {shapes}"
        raise PluginError(what, fix="report it to the plugin's author; task=… and labels of your own are not affected")
    return Classifier(found.labels, found.weight.float(), found.bias.float())


def check_stages(backbone: Backbone, label: str = "the backbone") -> None:
    """Raise PluginError unless the stages name existing parts and cover every parameter exactly once."""
    named = Counter(name for stage in backbone.stages for name in stage)
    parameters = [name for name, _ in backbone.module.named_parameters()]
    unknown = named.keys() - {name for name, _ in backbone.module.named_modules()} - set(parameters)
    covered = {name: sum(named[part] for part in _prefixes(name)) for name in parameters}
    rule = f"{label}: stages have to cover every parameter exactly once"
    if unknown:
        raise PluginError(f"{rule}, but name {_some(unknown)}, which the module has not", fix="correct these names")
    if missed := [name for name, times in covered.items() if times == 0]:
        raise PluginError(f"{rule}, but leave out {_some(missed)}", fix="add them to the stage they belong to")
    if twice := [name for name, times in covered.items() if times > 1]:
        raise PluginError(f"{rule}, but name {_some(twice)} more than once", fix="keep each in one stage")


def _pretrained(plugin: Plugin, entry: Entry, files: Mapping[str, Path]) -> dict[str, Tensor]:
    """Read all weight files of an entry (several are shards of one), under the names of the plugin's module."""
    paths = [path for name, path in files.items() if name.endswith(".safetensors")]
    if not paths:
        what = f"{entry.name}: no .safetensors among its files: {', '.join(files) or 'none at all'}"
        raise WeightsError(what, fix=f"add the weight file to files of the row of {entry.name}")
    state: dict[str, Tensor] = {}
    own = False
    for path in paths:
        tensors, metadata = read_state(path)
        if twice := state.keys() & tensors.keys():
            raise WeightsError(f"{entry.name}: two weight files hold {_some(twice)}", fix="name only one in its row")
        state.update(tensors)
        own = own or _is_own(path, metadata)
    if own:
        return {name.removeprefix("backbone."): t for name, t in state.items() if name.startswith("backbone.")}
    return _adapt(plugin, entry, state, files)


def _is_own(path: Path, metadata: Mapping[str, str]) -> bool:
    """Tell whether zoo wrote the file; a format of the future is an error."""
    if metadata.get("zoo", FORMAT) != FORMAT:
        what = f"{path} has zoo's weight format {metadata['zoo']!r}, and this zoo reads {FORMAT!r}"
        raise WeightsError(what, fix="pip install --upgrade backbone-zoo")
    return "zoo" in metadata


def _adapt(plugin: Plugin, entry: Entry, state: dict[str, Tensor], files: Mapping[str, Path]) -> dict[str, Tensor]:
    try:
        adapted = plugin.adapt(entry, state, files)
    except ZooError:
        raise
    except Exception as error:
        what = f"{_label(entry)}: adapt() failed on {entry.name}: {type(error).__name__}: {error}"
        raise PluginError(what, fix="report it to the plugin's author; other backbones are not affected") from error
    if not isinstance(adapted, dict) or not all(isinstance(value, Tensor) for value in adapted.values()):
        raise PluginError(f"{_label(entry)}: adapt() has to return a dict of tensors", fix="correct its adapt()")
    return adapted


def _build(plugin: Plugin, entry: Entry, files: Mapping[str, Path], device: str, seed: int = 0) -> Backbone:
    """Have the plugin build the net on a device, and check what it returns; the random numbers go on as before."""
    try:
        filling = _NoFilling() if device == "meta" else nullcontext()
        with torch.random.fork_rng(devices=[]), torch.device(device), filling:
            torch.default_generator.manual_seed(seed)  # the CPU's alone, which is the one that is put back
            backbone: Any = plugin.build(entry, files)
    except ZooError:
        raise
    except Exception as error:
        what = f"{_label(entry)}: build() failed on {entry.name}: {type(error).__name__}: {error}"
        fix = "report it to the plugin's author; other backbones are not affected"
        if device == "meta":
            fix = "what needs values while it is built has to be made inside `with torch.device('cpu')` in build()"
        raise PluginError(what, fix=fix) from error
    for broken, rule in _rules(backbone, entry):
        if broken:
            raise PluginError(f"{_label(entry)}: build() on {entry.name}: {rule}", fix="correct its build()")
    check_stages(backbone, f"{_label(entry)}: build() on {entry.name}")
    checked: Backbone = backbone
    return checked


class _NoFilling(TorchFunctionMode):
    """Leaves out filling tensors that hold no memory: it took half the time of a ResNet-50, 4/5 of a ViT's."""

    METHODS = frozenset(
        getattr(Tensor, name)
        for name in ("normal_", "uniform_", "fill_", "zero_", "erfinv_", "clamp_", "add_", "mul_", "div_")
    )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.METHODS or getattr(func, "__module__", None) == "torch.nn.init":
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


def _rules(backbone: Any, entry: Entry) -> Iterator[tuple[bool, str]]:
    """Yield, one after the other, whether a rule of the contract is broken, and the rule."""
    yield not isinstance(backbone, Backbone), f"has to return a Backbone, not {type(backbone).__name__}"
    other = not isinstance(backbone.module, nn.Module)  # the text of a net is long, and for some not to be had
    yield other, f"module has to be an nn.Module, not {other and backbone.module!r}"
    yield type(backbone.dim) is not int or backbone.dim < 1, f"dim has to be an int above 0, not {backbone.dim!r}"
    yield entry.dim not in (None, backbone.dim), f"dim is {backbone.dim}, and {entry.dim} in its row"
    yield (
        not isinstance(backbone.input, ImageInput | TextInput),
        f"input is {backbone.input!r}, no ImageInput or TextInput",
    )
    fine = isinstance(backbone.stages, tuple) and all(
        isinstance(stage, tuple) and all(isinstance(name, str) for name in stage) for stage in backbone.stages
    )
    yield not fine, f"stages have to be a tuple of tuples of names, not {backbone.stages!r}"


def _needs_values(module: nn.Module) -> bool:
    """Tell whether a net must be built with values: it has tensors that no file holds. Right beats fast."""
    saved = module.state_dict().keys()
    return any(name not in saved for name in _on_meta(module))


def _tied(module: nn.Module) -> list[list[str]]:
    """Return the names of parameters that are one, group by group."""
    names: dict[int, list[str]] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if isinstance(value, nn.Parameter):
            names.setdefault(id(value), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def _tie(module: nn.Module, groups: Iterable[Sequence[str]]) -> None:
    """Make one parameter of each group again: assigning tears them apart."""
    for first, *others in groups:
        parameter = module.get_parameter(first)
        for name in others:
            above, _, own = name.rpartition(".")
            setattr(module.get_submodule(above), own, parameter)


def _fill(module: nn.Module, state: dict[str, Tensor], entry: Entry, *, assign: bool) -> None:
    """Load strictly: every key, no other key, every shape. A tied parameter may be in the file under one name."""
    expected = {k: v for k, v in module.state_dict(keep_vars=True).items() if isinstance(v, Tensor)}
    present = {id(expected[name]): state[name] for name in state.keys() & expected.keys()}
    state |= {name: present[id(own)] for name, own in expected.items() if name not in state and id(own) in present}
    shared = expected.keys() & state.keys()
    shapes = [
        f"{name} {tuple(state[name].shape)}, the net has {tuple(expected[name].shape)}"
        for name in sorted(shared)
        if state[name].shape != expected[name].shape
    ]
    kinds = {
        "missing": sorted(expected.keys() - state.keys()),
        "not in the net": sorted(state.keys() - expected.keys()),
        "of another shape": shapes,
    }
    said = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds.items() if names)
    if said:
        what = f"{entry.name}: the weights do not fit the net ({len(expected)} tensors). {said}"
        fix = f"zoo info {entry.name}   (check its source and files; keys are renamed by adapt() of {_label(entry)})"
        raise WeightsError(what, fix=fix)
    tied = _tied(module) if assign else []
    try:
        module.load_state_dict(state, strict=True, assign=assign)
        _tie(module, tied)
    except RuntimeError as error:
        what = f"{entry.name}: the net of {_label(entry)} refuses its weights: {error}"
        raise WeightsError(what, fix="report it to the plugin's author; other backbones are not affected") from error


def _on_meta(module: nn.Module) -> list[str]:
    """Return the names of tensors without values: parameters, buffers, and tensors that are plain attributes."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for prefix, part in module.named_modules():
        tensors += [(f"{prefix}.{k}".lstrip("."), v) for k, v in vars(part).items() if isinstance(v, Tensor)]
    return [name for name, tensor in tensors if tensor.is_meta]


def _label(entry: Entry) -> str:
    return f"plugin '{entry.plugin}'"


def _prefixes(name: str) -> list[str]:
    """Return a dotted name and what it is part of: a.b.c, a.b, a."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _some(names: Any) -> str:
    """Name up to five of several."""
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
