"""The conformance kit passes every first-party plugin and the example, and catches a plugin that breaks a rule."""

from __future__ import annotations

import random
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from zoo import registry, testing
from zoo.errors import PluginError
from zoo.plugin import Backbone, Entry, Features, ImageInput, Plugin, TextInput

NATIVE = registry.search(plugin="native")
SMALL = [entry.name for entry in NATIVE if (entry.params or 0) < 1_000_000 and getattr(entry.input, "size", 0) <= 64]


@pytest.mark.parametrize("name", SMALL)
def test_a_small_native_row_keeps_every_rule(name):
    testing.check_plugin("native", [name])


def test_every_native_row_keeps_the_rules_that_need_no_run():
    testing.check_plugin("native", run=False)


def test_both_pretrained_and_random_rows_are_among_the_small_ones():
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


def test_a_plugin_that_keeps_the_rules_passes():
    testing.check_plugin(Toy(), [ENTRY])


class Words(Toy):
    stages = (("table",),)

    class net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(100, 6)

        def forward(self, x):
            tokens, mask = self.table(x["input_ids"]), x["attention_mask"]
            return Features(tokens.mean(1), tokens, mask)


def test_a_text_plugin_that_keeps_the_rules_passes():
    testing.check_plugin(Words(), [Entry("toy/words", "toy", "text", TextInput((), 16), dim=6, params=600)])


def net(**methods):
    """Return a plugin whose net has other methods, or other parts made by `init`."""
    init = methods.pop("init", None)

    def __init__(self):
        Net.__init__(self)
        if init:
            init(self)

    return type("Broken", (Toy,), {"net": type("Other", (Net,), {**methods, "__init__": __init__})})()


def plugin(**attributes):
    return type("Broken", (Toy,), attributes)()


def calls(self, entry, files):
    with pytest.raises(OSError, match="without network"):
        socket.create_connection(("127.0.0.1", 9))
    return Toy().build(entry, files)


def connects(self, entry, files):
    with socket.socket() as line:
        line.connect(("127.0.0.1", 9))


def meta():
    return torch.empty(0).is_meta


def draws(self, x):
    return Features(self.features(x) + torch.rand(()))


def forgets(self):
    self.offset = random.random()  # neither parameter nor buffer: not in the state dict


def writes(self, x):
    self.norm.num_batches_tracked += 1
    return Features(self.features(x))


def detaches(self, x):
    return Features(self.features(x).detach().requires_grad_())


BROKEN = {
    "raises in build": (plugin(build=lambda self, entry, files: 1 / 0), "builds without network", "ZeroDivisionError"),
    "asks the network": (plugin(build=calls), "builds without network", "the network was used: 127.0.0.1"),
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
        "takes its weights",
        "has to return a Backbone, not NoneType",
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
    "noise in eval mode": (net(forward=draws), "deterministic in eval mode", "two passes in eval mode differ"),
    "detached": (net(forward=detaches), "gradients reach every stage", r"no gradient reaches stage \('stem',\)"),
    "writes a statistic": (net(forward=writes), "frozen means frozen", "norm.num_batches_tracked changed while frozen"),
    "forgets a value": (
        net(init=forgets, forward=lambda self, x: Features(self.features(x) + self.offset)),
        "save and load",
        "features differ after a save and a load",
    ),
    "adapt drops a key": (
        plugin(adapt=lambda self, entry, state, files: {k: v for k, v in state.items() if k != "scale"}),
        "save and load",
        "scale",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_plugin_that_breaks_a_rule_is_caught_by_it(case):
    broken, rule, message = BROKEN[case]
    with pytest.raises(PluginError, match=f"^plugin 'toy', toy/net, rule '{rule}': .*{message}") as caught:
        testing.check_plugin(broken, [ENTRY])
    assert caught.value.fix


@pytest.mark.parametrize(("key", "value"), [("dim", 7), ("params", 113), ("input", ImageInput(9, (0.5,), (0.5,)))])
def test_a_row_that_says_another_number_than_the_net_is_caught(key, value):
    class Fixed(Toy):
        def build(self, entry, files):
            return super().build(ENTRY, files)

    with pytest.raises(PluginError, match=f"rule 'as listed': {key} is .* in the net and .* in the row") as caught:
        testing.check_plugin(Fixed(), [replace(ENTRY, **{key: value})], run=False)
    assert caught.value.fix.startswith(f"{key} = ")
    assert caught.value.fix.endswith(" in toy.toml")


def test_every_rule_has_a_plugin_that_it_catches():
    caught = {rule.replace("\\", "") for _, rule, _ in BROKEN.values()} | {"as listed"}
    assert caught == {"builds without network", "takes its weights", *testing.META_RULES, *testing.RUN_RULES}


def test_a_plugin_that_breaks_the_contract_is_caught_before_any_row():
    with pytest.raises(PluginError, match="api is None"):
        testing.check_plugin(plugin(api=None), [ENTRY])


def test_an_object_needs_rows():
    with pytest.raises(PluginError, match="was given without rows") as caught:
        testing.check_plugin(Toy())
    assert caught.value.fix == "check_plugin(plugin, entries)"


def test_a_plugin_without_rows_is_told_to_ship_some(distribution):
    distribution("fake")
    with pytest.raises(PluginError, match="plugin 'fake' lists no rows") as caught:
        testing.check_plugin("fake")
    assert "catalogue.toml" in caught.value.fix


def test_a_plugin_with_a_broken_catalogue_is_told_so(distribution):
    distribution("fake", catalogue="[")
    with pytest.raises(Exception, match=r"catalogue\.toml:1"):
        testing.check_plugin("fake")


def test_a_row_with_local_weights_is_checked_with_them(tmp_path: Path):
    (tmp_path / "w.safetensors").write_bytes(b"no safetensors")
    row = registry.row_from_entry(ENTRY) | {"source": tmp_path.as_uri(), "files": [{"path": "w.safetensors"}]}
    with pytest.raises(PluginError, match=r"rule 'takes its weights': .* is damaged: it is no safetensors"):
        testing.check_plugin(Toy(), [registry.entry_from_row("toy/net", row, catalogue="toy.toml")])
