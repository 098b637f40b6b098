"""zoo.testing: the conformance kit passes valid plugins, and every rule catches a plugin that violates it."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import zoo
from zoo.catalogue import registry, rows
from zoo.errors import PluginError
from zoo.plugin import Backbone, Entry, Features, ImageInput, Plugin, TextInput
from zoo.testing import kit

NATIVE = zoo.list(plugin="native")
SMALL = [entry.name for entry in NATIVE if (entry.params or 0) < 1_000_000 and getattr(entry.input, "size", 0) <= 64]


@pytest.mark.parametrize("name", SMALL)
def test_small_native_rows_conform(name):
    kit.check_plugin("native", [name])


def test_small_native_rows_include_pretrained_and_random_ones():
    assert {bool(registry.find(name).source) for name in SMALL} == {True, False}


IMAGE = ImageInput(8, (0.5,), (0.5,))
ENTRY = Entry("toy/net", "toy", "image", IMAGE, dim=6, params=112, catalogue="toy.toml")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)  # 40 parameters
        self.norm = nn.BatchNorm2d(4)  # 8
        self.top = nn.Conv2d(4, 6, 1, bias=False)  # 24
        self.last = nn.Linear(6, 6, bias=False)  # 36
        self.scale = nn.Parameter(torch.ones(4))  # 4

    def features(self, x):
        x = self.norm(self.stem(x)).relu() * self.scale[:, None, None]
        return self.last(self.top(x).mean((2, 3)))

    def forward(self, x):
        return Features(self.features(x))


class Toy(Plugin):
    api = 1
    net = Net
    stages = (("stem",), ("norm", "scale"), ("top", "last"))

    def build(self, entry, files):
        return Backbone(self.net(), 6, entry.input, self.stages)


def test_a_valid_image_plugin_passes():
    kit.check_plugin(Toy(), [ENTRY])


class Words(Toy):
    stages = (("table",),)

    class net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(100, 6)

        def forward(self, x):
            tokens, mask = self.table(x["input_ids"]), x["attention_mask"]
            return Features((tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), tokens, mask)


def test_a_valid_text_plugin_passes():
    kit.check_plugin(Words(), [Entry("toy/words", "toy", "text", TextInput((), 16), dim=6, params=600)])


def keeps_batch(self, x):
    self.batch = x
    shift = self.stem(x).mean() * 0  # other threads run meanwhile
    return Features(self.features(self.batch) + shift)


def net(**methods):
    """Return a plugin whose net has these methods and whose constructor calls `init`."""
    init = methods.pop("init", None)

    def __init__(self):
        Net.__init__(self)
        if init:
            init(self)

    return type("Broken", (Toy,), {"net": type("Other", (Net,), {**methods, "__init__": __init__})})()


def plugin(**attributes):
    return type("Broken", (Toy,), attributes)()


class Odd(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + float(len(x) == 1)


def adds_odd_stage(self):
    self.stem = Odd(1, 4, 3)


def undoes_odd_stage(self, x):
    return self.last(
        self.top((self.norm(self.stem(x) - float(len(x) == 1))).relu() * self.scale[:, None, None]).mean((2, 3))
    )


def resolves_host(self, entry, files):
    with pytest.raises(OSError, match="no network access"):
        socket.create_connection(("127.0.0.1", 9))
    return Toy().build(entry, files)


def connects(self, entry, files):
    with socket.socket() as line:
        line.connect(("127.0.0.1", 9))


def meta():
    return torch.empty(0).is_meta


def adds_noise(self, x):
    return Features(self.features(x) + torch.rand(()))


NUMBERS = itertools.count()


def adds_hidden_state(self):
    self.offset = next(NUMBERS)  # neither parameter nor buffer: not in the state dict


def updates_statistic(self, x):
    self.norm.num_batches_tracked += 1
    return Features(self.features(x))


def detaches(self, x):
    return Features(self.features(x).detach().requires_grad_())


def subtracts_batch_mean(self, x):
    found = self.features(x)
    return Features(found - found.mean(0))


def replaces_parameter(self, x):
    self.seen = getattr(self, "seen", 0) + 1
    if torch.is_grad_enabled() and not any(p.requires_grad for p in self.parameters()):
        self.scale = nn.Parameter(self.scale.detach().clone(), requires_grad=False)
    return Features(self.features(x))


def modifies_state(self, entry, state, files):
    state["scale"].mul_(2)
    return state


def counts_calls(self, entry, state, files):
    self.calls = getattr(self, "calls", 0) + 1
    return state | {"scale": state["scale"] + self.calls}


def with_lora_target(target):
    return plugin(build=lambda self, entry, files: replace(Toy().build(entry, files), lora_targets=(target,)))


BROKEN = {
    "adapter without a layer": (with_lora_target("query"), "lora_targets are valid", "'query', which is not a layer"),
    "adapter on a norm": (with_lora_target("norm"), "lora_targets are valid", "'norm', which is a BatchNorm2d"),
    "batch statistics": (
        net(forward=subtracts_batch_mean),
        "independent of the batch",
        "depend on the rest of the batch",
    ),
    "stage of one input differs": (
        net(init=adds_odd_stage, features=undoes_odd_stage),
        "outputs of stages are independent of the batch",
        "the output of stem depends on the rest of the batch",
    ),
    "adapt modifies its arguments": (
        plugin(adapt=modifies_state),
        "adapt is pure",
        "adapt changed scale|two calls of adapt differ",
    ),
    "adapt depends on earlier calls": (plugin(adapt=counts_calls), "adapt is pure", "two calls of adapt differ"),
    "replaces a parameter": (
        net(forward=replaces_parameter),
        "heads leave the backbone unchanged",
        "training a head replaces tensors of the backbone",
    ),
    "raises in build": (plugin(build=lambda self, entry, files: 1 / 0), "builds without network", "ZeroDivisionError"),
    "resolves a host": (plugin(build=resolves_host), "builds without network", "the network was used: 127.0.0.1"),
    "connects": (plugin(build=connects), "builds without network", r"the network was used: \('127.0.0.1', 9\)"),
    "no backbone": (plugin(build=lambda *_: None), "builds without network", "build returned None"),
    "allocates": (
        net(init=lambda self: self.stem.to_empty(device="cpu")),
        "built on the meta device",
        "stem.weight is on cpu",
    ),
    "stage missing": (plugin(stages=(("stem",), ("top", "last"))), "stages cover every parameter once", "norm"),
    "stage twice": (plugin(stages=(*Toy.stages, ("top",))), "stages cover every parameter once", "top"),
    "stage unknown": (plugin(stages=(*Toy.stages, ("tail",))), "stages cover every parameter once", "tail"),
    "built on meta only": (
        plugin(build=lambda self, entry, files: Toy().build(entry, files) if meta() else None),
        "loads its weights",
        "must return a Backbone, not NoneType",
    ),
    "a bare tensor": (net(forward=Net.features), r"features \(N, D\)", "the net returned Tensor"),
    "maps not pooled": (
        net(forward=lambda self, x: Features(self.stem(x))),
        r"features \(N, D\)",
        r"pooled is \(1, 4, 6, 6\) torch.float32 for 1 inputs",
    ),
    "half precision": (
        net(forward=lambda self, x: Features(self.features(x).half())),
        r"features \(N, D\)",
        r"pooled is \(1, 6\) torch.float16",
    ),
    "tokens of another width": (
        net(forward=lambda self, x: Features(self.features(x), torch.zeros(len(x), 2, 5))),
        r"features \(N, D\)",
        r"tokens are \(1, 2, 5\)",
    ),
    "mask without tokens": (
        net(forward=lambda self, x: Features(self.features(x), None, torch.ones(len(x), 2))),
        r"features \(N, D\)",
        r"the mask is \(1, 2\)",
    ),
    "one input only": (
        net(forward=lambda self, x: Features(self.features(x).reshape(1, 6))),
        r"features \(N, D\)",
        "RuntimeError: shape",
    ),
    "noise in eval mode": (
        net(forward=adds_noise),
        "deterministic in eval mode",
        "two forward passes in eval mode differ",
    ),
    "state of a batch": (
        net(forward=keeps_batch),
        "runs in several threads",
        "(features differ when|forward fails in) several threads",
    ),
    "detached": (net(forward=detaches), "gradients reach every stage", r"no gradient reaches stage \('stem',\)"),
    "updates a statistic": (
        net(forward=updates_statistic),
        "frozen backbone is unchanged",
        "norm.num_batches_tracked changed while frozen",
    ),
    "state outside the state dict": (
        net(init=adds_hidden_state, forward=lambda self, x: Features(self.features(x) + self.offset)),
        "save and load",
        "features differ after saving and loading",
    ),
    "adapt drops a key": (
        plugin(adapt=lambda self, entry, state, files: {k: v for k, v in state.items() if k != "scale"}),
        "save and load",
        "scale",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_violated_rule_raises(case):
    broken, rule, message = BROKEN[case]
    with pytest.raises(PluginError, match=f"^plugin 'toy', toy/net, rule '{rule}': .*{message}") as caught:
        kit.check_plugin(broken, [ENTRY])
    assert caught.value.fix


@pytest.mark.parametrize(("key", "value"), [("dim", 7), ("params", 113), ("input", ImageInput(9, (0.5,), (0.5,)))])
def test_a_row_that_differs_from_its_backbone_raises(key, value):
    class Fixed(Toy):
        def build(self, entry, files):
            return super().build(ENTRY, files)

    with pytest.raises(
        PluginError, match=f"rule 'matches its catalogue row': {key} is .* in the backbone but .* in the row"
    ) as caught:
        kit.check_plugin(Fixed(), [replace(ENTRY, **{key: value})], run=False)
    assert caught.value.fix.startswith(f"{key} = ")
    assert caught.value.fix.endswith(" in toy.toml")


def test_every_rule_is_tested():
    caught = {rule.replace("\\", "") for _, rule, _ in BROKEN.values()} | {"matches its catalogue row"}
    caught |= set(PROCESS_BROKEN)
    known = {*kit.META_RULES, *kit.RUN_RULES, *kit.PROCESS_RULES}
    assert caught == {"builds without network", "loads its weights", *known}


ROW = """
["fake/net"]
modality = "image"
dim = 3
input = { size = 8, mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }
"""
GOOD = """
from zoo.plugin import Backbone, Features, Plugin

class Fake(Plugin):
    api = 1

    def build(self, entry, files):
        from torch import nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.top = nn.Conv2d(3, 3, 1)

            def forward(self, x):
                return Features(self.top(x).mean((2, 3)))

        return Backbone(Net(), 3, entry.input, (("top",),))

plugin = Fake()
"""
PROCESS_BROKEN = {
    "imports quietly and quickly": ("print('hello')\n" + GOOD, "prints at import: 'hello"),
    "works without other plugins": (
        "import zoo_timm\n" + GOOD,
        "cannot be built without the other plugins: .*zoo_timm",
    ),
}


@pytest.mark.parametrize("rule", PROCESS_BROKEN)
def test_a_violated_process_rule_raises(distribution, rule):
    code, said = PROCESS_BROKEN[rule]
    distribution("fake", code, catalogue=ROW)
    with pytest.raises(PluginError, match=f"plugin 'fake', rule '{rule}': .*{said}"):
        kit.check_plugin("fake")


@pytest.mark.real
def test_the_pytest_option_reports_each_rule_and_the_fix_of_a_violated_one(distribution, tmp_path):
    distribution("fake", GOOD.replace('(("top",),)', '(("top",),), lora_targets=("query",)'), catalogue=ROW)
    result = pytest_with("--zoo-plugin", "fake", "-v", cwd=tmp_path)
    count = 2 + len(kit.META_RULES) + len(kit.RUN_RULES) + len(kit.PROCESS_RULES)
    assert f"1 failed, {count - 1} passed" in result.stdout
    assert "plugin 'fake', fake/net: frozen backbone is unchanged PASSED" in result.stdout
    assert "rule 'lora_targets are valid': lora_targets has 'query'" in result.stdout
    assert "\nfix: " in result.stdout
    assert "Traceback" not in result.stdout


def pytest_with(*words, cwd):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "zoo.testing.pytest_plugin", *words]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=300)


def test_an_invalid_plugin_raises_before_any_row():
    with pytest.raises(PluginError, match="api is None"):
        kit.check_plugin(plugin(api=None), [ENTRY])


def test_a_plugin_object_needs_rows():
    with pytest.raises(PluginError, match="needs rows") as caught:
        kit.check_plugin(Toy())
    assert caught.value.fix == "check_plugin(plugin, entries)"


def test_a_plugin_without_rows_raises(distribution):
    distribution("fake")
    with pytest.raises(PluginError, match="plugin 'fake' has no catalogue rows") as caught:
        kit.check_plugin("fake")
    assert "catalogue.toml" in caught.value.fix


def test_a_plugin_with_an_invalid_catalogue_raises(distribution):
    distribution("fake", catalogue="[")
    with pytest.raises(Exception, match=r"catalogue\.toml:1"):
        kit.check_plugin("fake")


def test_a_row_with_local_weights_is_checked_with_them(tmp_path: Path):
    (tmp_path / "w.safetensors").write_bytes(b"no safetensors")
    row = rows.row_from_entry(ENTRY) | {"source": tmp_path.as_uri(), "files": [{"path": "w.safetensors"}]}
    with pytest.raises(PluginError, match=r"rule 'loads its weights': .* is damaged: not a safetensors file"):
        kit.check_plugin(Toy(), [rows.entry_from_row("toy/net", row, catalogue="toy.toml")])
