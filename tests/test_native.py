"""zoo_native: features equal torchvision, plain nets lack only the shortcuts, rows match their models."""

from __future__ import annotations

import re
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from zoo_native import plugin, resnet
from zoo_native.resnet import ARCHITECTURES, PadShortcut, ResNet, plain_name

from zoo.catalogue.rows import entry_from_row, read_catalogue
from zoo.errors import PluginError
from zoo.plugin import Entry, ImageInput, TextInput
from zoo.testing import kit

ROOT = Path(__file__).parents[1]
PARITY = runpy.run_path(str(ROOT / "tools/bench/parity.py"))
ROWS = [
    entry_from_row(name, row, catalogue=path)
    for path in (ROOT / "registry.toml", ROOT / "plugins/zoo_native/catalogue.toml")
    for name, row in read_catalogue(path).items()
    if name.startswith("native/")
]
SKIP = [name for name, arch in ARCHITECTURES.items() if arch.skip]
RGB = (0.5, 0.5, 0.5)
LARGE = ("101", "152", "wide")
"""Networks that take a second each: compared in `make real`."""


def build(arch: str, mean=RGB, **options):
    entry = Entry("native/x", "native", "image", ImageInput(32, mean, mean), options={"arch": arch, **options})
    return plugin.build(entry, {})


def empty(arch: str, **options):
    with torch.device("meta"):
        return build(arch, **options)


def images(size=32, channels=3):
    pixels = 2 * channels * size * size
    return torch.linspace(-1, 1, pixels).reshape(2, channels, size, size).sin()


def convolutions(net: nn.Module) -> dict[str, torch.Size]:
    """Return the weight shapes of all convolutions except those of shortcuts."""
    modules = net.named_modules()
    return {n: m.weight.shape for n, m in modules if isinstance(m, nn.Conv2d) and "downsample" not in n}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.real] if any(m in name for m in LARGE) else []) for name in PARITY["NAMES"]],
)
def test_features_equal_torchvision_on_random_weights(name):
    error, between_images = PARITY["compare"](name)
    assert error <= 1e-5
    assert between_images > 0.1  # features depend on the image


@pytest.mark.parametrize("dilation", PARITY["DILATIONS"])
def test_dilated_features_equal_torchvision(dilation):
    assert PARITY["compare"]("resnet50", dilation=dilation)[0] <= 1e-5


def test_features_equal_torchvision_in_training_mode():
    assert PARITY["compare"]("resnet18", train=True)[0] <= 1e-5


def test_parity_fails_without_dilation(monkeypatch):
    plain = resnet.conv
    monkeypatch.setattr(resnet, "conv", lambda i, o, size, stride=1, dilation=1, groups=1: plain(i, o, size, stride))
    assert PARITY["compare"]("resnet50", dilation=(False, True, True))[0] > 1e-3


@pytest.mark.parametrize("arch", ["resnet34", "resnet50", "resnet20"])
def test_dilation_doubles_the_resolution_of_the_same_features(arch):
    stages = len(ARCHITECTURES[arch].blocks)
    coarse = build(arch).module.eval()
    fine = build(arch, dilation=[False] * (stages - 2) + [True]).module.eval()
    fine.load_state_dict(coarse.state_dict())
    maps = []
    for net in (coarse, fine):
        getattr(net, f"layer{stages}").register_forward_hook(lambda *args: maps.append(args[2]))
        with torch.no_grad():
            net(images(64))
    assert maps[1].shape[-1] == 2 * maps[0].shape[-1]
    torch.testing.assert_close(maps[1][:, :, ::2, ::2], maps[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet20", "resnet56"])
def test_the_depth_in_a_name_is_the_number_of_layers(name):
    assert len(convolutions(empty(name).module)) + 1 == int(name.removeprefix("resnet"))


@pytest.mark.parametrize("name", SKIP)
def test_a_plain_net_has_the_same_convolutions_and_no_shortcut(name):
    plain = empty(plain_name(name)).module
    assert convolutions(plain) == convolutions(empty(name).module)
    assert not any("downsample" in key for key, _ in plain.named_modules())


def test_a_plain_block_has_no_residual_connection():
    block = build("plain20").module.layer1[0].eval()
    nn.init.zeros_(block.bn2.weight)
    assert not block(torch.rand(1, 16, 4, 4)).any()


def test_a_residual_block_adds_its_input():
    block = build("resnet20").module.layer1[0].eval()
    nn.init.zeros_(block.bn2.weight)
    nn.init.constant_(block.bn2.bias, 0.25)
    x = torch.rand(1, 16, 4, 4)
    torch.testing.assert_close(block(x), x + 0.25)


def test_pad_shortcut_subsamples_and_pads_channels_with_zeros():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    y = PadShortcut(extra=2, stride=2)(x)
    assert y[0].tolist() == [[[0, 2], [8, 10]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]]


def test_only_large_nets_have_projection_shortcuts():
    assert not any("downsample" in key for key in empty("resnet20").module.state_dict())
    assert "layer2.0.downsample.0.weight" in empty("resnet18").module.state_dict()


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_zero_init_makes_every_block_its_shortcut(arch):
    net = build(arch, zero_init=True).module.eval()
    x = torch.rand(1, net.layer1[0].conv1.in_channels, 4, 4)
    for name in net.layers:
        for block in getattr(net, name):
            with torch.no_grad():
                y = block(x)
                torch.testing.assert_close(y, block.downsample(x).relu())
            x = y


def test_initialisation_is_kaiming_normal_and_default_batchnorm():
    net = build("resnet18").module
    conv = net.layer3[1].conv1
    assert conv.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all((m.weight == 1).all() and not m.bias.any() for m in norms)


@pytest.mark.parametrize("arch", ["resnet18", "resnet20"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_stem_has_the_channels_of_the_input(arch, channels):
    backbone = build(arch, mean=(0.5,) * channels)
    assert backbone.module(images(channels=channels)).pooled.shape == (2, backbone.dim)


def test_width_scales_a_small_net():
    assert build("resnet14", width=4).dim == 16
    assert build("resnet14").dim == 64


@pytest.mark.parametrize(
    ("arch", "first", "total"),
    [
        ("resnet20", [1.283600, 0.968295, 0.769137, 0.579215], 85.30753),
        ("resnet14", [0.718509, 1.067807, 0.248839, 0.087723], 48.10694),
        ("plain20", [0.0000497, 0.0112061, 0.0007664, 0.0145169], 0.561811),
    ],
)
def test_seeded_features_equal_the_golden_numbers(arch, first, total):
    torch.manual_seed(0)
    net = build(arch).module.eval()
    with torch.no_grad():
        pooled = net(images()).pooled
    assert pooled[1, :4].tolist() == pytest.approx(first, rel=1e-3, abs=1e-6)
    assert pooled.sum().item() == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_stages_are_ordered_and_cover_every_parameter_once(name):
    backbone = empty(name)
    assert backbone.stages[0] == ("conv1", "bn1")
    assert [stage for (stage,) in backbone.stages[1:]] == [f"layer{i + 1}" for i in range(len(backbone.stages) - 1)]
    parts = [part for stage in backbone.stages for part in stage]
    for key, _ in backbone.module.named_parameters():
        assert sum(key.startswith(f"{part}.") for part in parts) == 1


def test_lora_targets_are_the_ungrouped_convolutions_of_the_blocks():
    targets = empty("resnext50_32x4d").lora_targets
    assert "layer1.0.conv1" in targets
    assert "layer2.0.downsample.0" in targets
    assert not {"conv1", "layer1.0.conv2", "layer1.0.bn1"} & set(targets)


def test_adapt_drops_only_the_classifier():
    state = dict.fromkeys(["conv1.weight", "fc.weight", "fc.bias", "fc2.weight"], torch.zeros(1))
    assert set(plugin.adapt(ROWS[0], state, {})) == {"conv1.weight", "fc2.weight"}


def test_adapt_adds_missing_batchnorm_counters():
    net = build("resnet14").module
    net.bn1.num_batches_tracked += 7
    old = {key: tensor for key, tensor in net.state_dict().items() if not key.startswith("layer1.0.bn1.num")}
    adapted = plugin.adapt(ROWS[0], old, {})
    assert adapted.keys() == net.state_dict().keys()
    assert (adapted["bn1.num_batches_tracked"], adapted["layer1.0.bn1.num_batches_tracked"]) == (7, 0)


@pytest.mark.parametrize("entry", ROWS, ids=lambda entry: entry.name)
def test_dim_and_params_of_a_row_are_those_of_its_model(entry):
    with torch.device("meta"):
        backbone = plugin.build(entry, {})
    assert backbone.dim == entry.dim
    assert sum(p.numel() for p in backbone.module.parameters()) == entry.params


def test_every_architecture_has_a_row():
    assert {entry.options["arch"] for entry in ROWS} == set(ARCHITECTURES)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"arch": "resnet19"}, "arch = 'resnet19' is unknown; nearest: resnet"),
        ({}, "arch = '' is unknown; nearest: resnet18, resnet34"),
        ({"arch": "resnet18", "widht": 8}, "option 'widht' is unknown; nearest: width"),
        ({"arch": "resnet20", "width": 0}, "width = 0 is not a positive integer"),
        ({"arch": "resnet20", "width": True}, "width = True is not a positive integer"),
        ({"arch": "resnet50", "dilation": [True]}, "dilation = [True] is not a list of 3 booleans"),
        ({"arch": "resnet20", "dilation": [0, 1]}, "dilation = [0, 1] is not a list of 2 booleans"),
        ({"arch": "resnet20", "zero_init": 1}, "zero_init = 1 is not true or false"),
        ({"arch": "plain20", "zero_init": True}, "zero_init = True makes plain20 return zeros for every image"),
    ],
)
def test_an_invalid_option_raises_with_the_valid_values(options, what):
    entry = replace(ROWS[0], name="native/mine", options=options, catalogue="zoo.toml")
    with pytest.raises(PluginError) as caught:
        plugin.build(entry, {})
    assert f"native/mine: {what}" in caught.value.what
    assert caught.value.fix.endswith(', in ["native/mine"] in zoo.toml')


def test_a_text_row_raises():
    entry = replace(ROWS[0], input=TextInput(("tokenizer.json",), 128))
    with pytest.raises(PluginError, match="takes images, not text"):
        plugin.build(entry, {})


def test_a_plain_net_with_zero_init_returns_zeros():
    net = ResNet(replace(ARCHITECTURES["plain20"], zero_init=True)).eval()
    assert not net(images()).pooled.any()


def test_code_in_the_skip_connection_docs_is_that_of_resnet():
    page = (ROOT / "docs/skip-connections.md").read_text()
    source = Path(resnet.__file__).read_text()
    shown = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert shown
    assert all(block in source for block in shown)


@pytest.mark.real
def test_native_rows_conform_on_the_meta_device():
    kit.check_plugin("native", run=False)
