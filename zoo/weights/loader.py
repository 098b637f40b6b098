"""Build a backbone on the meta device and load its weights: memory-mapped, with strict=True."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zoo.errors import PluginError, WeightsError, ZooError
from zoo.plugin import Backbone, Classifier, Entry, ImageInput, Plugin, TextInput
from zoo.weights.guard import guarded
from zoo.weights.safetensors_file import FORMAT, read_state


def load(plugin: Plugin, entry: Entry, files: Mapping[str, Path]) -> Backbone:
    """Return the backbone of an entry with the weights of its .safetensors files, in float32.

    The tensors are copy-on-write views of the mapped files, so large models load quickly and training never modifies a
    file. Raises WeightsError if keys or shapes do not match exactly, PluginError if the plugin violates the API.
    """
    state = _pretrained(plugin, entry, files)
    backbone = _build(plugin, entry, files, "meta", tensors=len(state))
    _complete(backbone.module, state, entry)  # before anything of the sizes in a configuration is allocated
    lazy = not _needs_values(backbone.module)
    if not lazy:
        backbone = _build(plugin, entry, files, "cpu", tensors=len(state))
    _fill(backbone.module, state, entry, assign=lazy)
    meta = _on_meta(backbone.module)
    if meta:
        raise WeightsError(
            f"{entry.name}: the model of {_label(entry)} has tensors left on the meta device: {_some(meta)}",
            fix="in build(), create them on the default device and register them as parameters or buffers",
        )
    backbone.module.float()
    return backbone


def initialise(plugin: Plugin, entry: Entry, files: Mapping[str, Path], seed: int) -> Backbone:
    """Return the backbone of an entry with random weights from `seed`; the global RNG state is not changed."""
    backbone = _build(plugin, entry, files, "cpu", seed=seed)
    backbone.module.float()
    return backbone


def classifier(plugin: Plugin, entry: Entry, files: Mapping[str, Path], dim: int) -> Classifier | None:
    """Return the pretrained classifier on `dim` features in an entry's weight files, or None if there is none.

    Raises PluginError if the shapes of labels, weight and bias do not match.
    """
    state: dict[str, Tensor] = {}
    for name, path in files.items():
        if name.endswith(".safetensors"):
            tensors, metadata = read_state(path)
            if _is_saved_model(path, metadata):
                return None
            state.update(tensors)
    if not state:
        return None
    with _calling(entry, "classifier", len(state)):
        found = plugin.classifier(entry, state, files)
    if found is None or found.weight.shape[-1] != dim:  # another dim: a classifier on features that are not pooled
        return None
    classes = len(found.labels)
    if found.weight.ndim != 2 or len(found.weight) != classes or tuple(found.bias.shape) != (classes,):
        shapes = f"{tuple(found.weight.shape)} and {tuple(found.bias.shape)}"
        what = f"{_label(entry)}: classifier() of {entry.name} has {classes} labels, but weight and bias {shapes}"
        raise PluginError(what, fix="report it to the plugin's author; task=… and custom labels are not affected")
    return Classifier(found.labels, found.weight.float(), found.bias.float())


def check_stages(backbone: Backbone, label: str = "the backbone") -> None:
    """Raise PluginError unless the stages name existing submodules and cover every parameter exactly once."""
    named = Counter(name for stage in backbone.stages for name in stage)
    parameters = [name for name, _ in backbone.module.named_parameters()]
    unknown = named.keys() - {name for name, _ in backbone.module.named_modules()} - set(parameters)
    covered = {name: sum(named[part] for part in _prefixes(name)) for name in parameters}
    rule = f"{label}: stages must cover every parameter exactly once"
    if unknown:
        raise PluginError(f"{rule}, but the module has no {_some(unknown)}", fix="correct these names")
    if missing := [name for name, times in covered.items() if times == 0]:
        raise PluginError(f"{rule}, but do not cover {_some(missing)}", fix="add them to the stage they belong to")
    if repeated := [name for name, times in covered.items() if times > 1]:
        raise PluginError(f"{rule}, but cover {_some(repeated)} more than once", fix="keep each in one stage")


def _pretrained(plugin: Plugin, entry: Entry, files: Mapping[str, Path]) -> dict[str, Tensor]:
    """Read all weight files of an entry (several are shards) into one state dict, adapted by the plugin."""
    paths = [path for name, path in files.items() if name.endswith(".safetensors")]
    if not paths:
        what = f"{entry.name}: no .safetensors among its files: {', '.join(files) or 'no files'}"
        raise WeightsError(what, fix=f"add the weight file to files of the row of {entry.name}")
    state: dict[str, Tensor] = {}
    saved = False
    for path in paths:
        tensors, metadata = read_state(path)
        if duplicates := state.keys() & tensors.keys():
            what = f"{entry.name}: two weight files contain {_some(duplicates)}"
            raise WeightsError(what, fix="list only one of them in its row")
        state.update(tensors)
        saved = saved or _is_saved_model(path, metadata)
    if saved:
        return {name.removeprefix("backbone."): t for name, t in state.items() if name.startswith("backbone.")}
    return _adapt(plugin, entry, state, files)


def _is_saved_model(path: Path, metadata: Mapping[str, str]) -> bool:
    """Return whether zoo wrote the file. Raises WeightsError for a newer format version."""
    if metadata.get("zoo", FORMAT) != FORMAT:
        what = f"{path} has weight format {metadata['zoo']!r}, but this zoo reads {FORMAT!r}"
        raise WeightsError(what, fix="pip install --upgrade backbone-zoo")
    return "zoo" in metadata


def _adapt(plugin: Plugin, entry: Entry, state: dict[str, Tensor], files: Mapping[str, Path]) -> dict[str, Tensor]:
    with _calling(entry, "adapt", len(state)):
        adapted = plugin.adapt(entry, state, files)
    if not isinstance(adapted, dict) or not all(isinstance(value, Tensor) for value in adapted.values()):
        raise PluginError(f"{_label(entry)}: adapt() must return a dict of tensors", fix="correct its adapt()")
    return adapted


def _build(
    plugin: Plugin, entry: Entry, files: Mapping[str, Path], device: str, *, tensors: int | None = None, seed: int = 0
) -> Backbone:
    """Build the model with the plugin on a device and validate the result; the global RNG state is restored.

    `tensors` is the number of tensors in its weights, of which a network has few modules; None: without weights.
    """
    initialisation = _SkipInitialisation() if device == "meta" else nullcontext()
    with (
        _calling(entry, "build", tensors, device),
        torch.random.fork_rng(devices=[]),
        torch.device(device),
        initialisation,
    ):
        torch.default_generator.manual_seed(seed)  # only the CPU generator, which fork_rng restores
        backbone: Any = plugin.build(entry, files)
    for broken, rule in _rules(backbone, entry):
        if broken:
            raise PluginError(f"{_label(entry)}: build() on {entry.name}: {rule}", fix="correct its build()")
    check_stages(backbone, f"{_label(entry)}: build() on {entry.name}")
    checked: Backbone = backbone
    return checked


@contextmanager
def _calling(entry: Entry, method: str, tensors: int | None, device: str = "cpu") -> Iterator[None]:
    """Guard the call of a plugin's method inside the block.

    Raises PluginError, with the line that failed, if the method raises anything but a ZooError.
    """
    call = f"{_label(entry)}: {method}()"
    try:
        with guarded(f"{call} of {entry.name}", tensors):
            yield
    except ZooError:
        raise
    except Exception as error:
        where = _raised_at(error)
        fix = f"correct {where}, or report it to the plugin's author; other backbones are not affected"
        if device == "meta" and "meta" in str(error):
            fix = f"in {method}(), create tensors whose values are read inside `with torch.device('cpu')`"
        what = f"{call} failed on {entry.name}: {type(error).__name__}: {error} ({where})"
        raise PluginError(what, fix=fix) from error


def _raised_at(error: Exception) -> str:
    """Return file and line of the innermost call outside torch and this module, else of where it was raised."""
    calls = traceback.extract_tb(error.__traceback__)
    own = [call for call in calls if call.filename != __file__ and "site-packages/torch/" not in call.filename]
    last = (own or calls)[-1]
    return f"{last.filename}:{last.lineno}"


class _SkipInitialisation(TorchFunctionMode):
    """Skip in-place initialisation of meta tensors: it took half the build time of a ResNet-50, 4/5 of a ViT's."""

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
    """Yield for each rule of the plugin API whether it is violated, and the rule."""
    yield not isinstance(backbone, Backbone), f"must return a Backbone, not {type(backbone).__name__}"
    invalid = not isinstance(backbone.module, nn.Module)  # the repr of a module is long, and raises for some
    yield invalid, f"module must be an nn.Module, not {invalid and backbone.module!r}"
    yield type(backbone.dim) is not int or backbone.dim < 1, f"dim must be a positive int, not {backbone.dim!r}"
    yield entry.dim not in (None, backbone.dim), f"dim is {backbone.dim}, but {entry.dim} in its row"
    yield (
        not isinstance(backbone.input, ImageInput | TextInput),
        f"input must be an ImageInput or TextInput, not {backbone.input!r}",
    )
    valid = isinstance(backbone.stages, tuple) and all(
        isinstance(stage, tuple) and all(isinstance(name, str) for name in stage) for stage in backbone.stages
    )
    yield not valid, f"stages must be a tuple of tuples of names, not {backbone.stages!r}"


def _needs_values(module: nn.Module) -> bool:
    """Return whether a module has tensors outside its state dict, so that it must be built on the CPU."""
    saved = module.state_dict().keys()
    return any(name not in saved for name in _on_meta(module))


def _tied(module: nn.Module) -> list[list[str]]:
    """Return the groups of tied parameter names."""
    names: dict[int, list[str]] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if isinstance(value, nn.Parameter):
            names.setdefault(id(value), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def _tie(module: nn.Module, groups: Iterable[Sequence[str]]) -> None:
    """Tie the parameters of each group again after load_state_dict(assign=True) has untied them."""
    for first, *others in groups:
        parameter = module.get_parameter(first)
        for name in others:
            parent, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(parent), attribute, parameter)


def _complete(module: nn.Module, state: dict[str, Tensor], entry: Entry) -> None:
    """Raise WeightsError unless keys and shapes match; names of tied parameters that are missing are added."""
    expected = {k: v for k, v in module.state_dict(keep_vars=True).items() if isinstance(v, Tensor)}
    present = {id(expected[name]): state[name] for name in state.keys() & expected.keys()}
    state |= {name: present[id(tied)] for name, tied in expected.items() if name not in state and id(tied) in present}
    shared = expected.keys() & state.keys()
    shapes = [
        f"{name} {tuple(state[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(shared)
        if state[name].shape != expected[name].shape
    ]
    kinds = {
        "missing": sorted(expected.keys() - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "with the wrong shape": shapes,
    }
    problems = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds.items() if names)
    if problems:
        what = f"{entry.name}: the weights do not match the model ({len(expected)} tensors). {problems}"
        fix = f"zoo info {entry.name}   (check its source and files; keys are renamed by adapt() of {_label(entry)})"
        raise WeightsError(what, fix=fix)


def _fill(module: nn.Module, state: dict[str, Tensor], entry: Entry, *, assign: bool) -> None:
    """Load a complete state dict."""
    tied = _tied(module) if assign else []
    try:
        module.load_state_dict(state, strict=True, assign=assign)
        _tie(module, tied)
    except RuntimeError as error:
        what = f"{entry.name}: load_state_dict() of {_label(entry)} failed: {error}"
        raise WeightsError(what, fix="report it to the plugin's author; other backbones are not affected") from error


def _on_meta(module: nn.Module) -> list[str]:
    """Return the names of meta tensors: parameters, buffers, and tensors that are plain attributes."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for prefix, part in module.named_modules():
        tensors += [(f"{prefix}.{k}".lstrip("."), v) for k, v in vars(part).items() if isinstance(v, Tensor)]
    return [name for name, tensor in tensors if tensor.is_meta]


def _label(entry: Entry) -> str:
    return f"plugin '{entry.plugin}'"


def _prefixes(name: str) -> list[str]:
    """Return a dotted name and its parents: a.b.c, a.b, a."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _some(names: Any) -> str:
    """Join up to five names, and count the rest."""
    names = sorted(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
