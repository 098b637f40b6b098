"""zoo_timm: features and checkpoints equal timm for every family, image size, number of channels and classifier."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from hub import Hub
from safetensors.torch import save, save_file
from samples import every_fourth
from timm.models import _builder
from torch import Tensor, nn
from zoo_timm import plugin, reading

import zoo
from zoo.catalogue import registry
from zoo.errors import PluginError, WeightsError
from zoo.plugin import Entry, File, TextInput
from zoo.testing import check_plugin
from zoo.weights import loader

TINY = list(timm.list_models("test_*", pretrained=True))
FAMILIES = [
    "beit_base_patch16_224.in22k_ft_in22k_in1k",
    "caformer_s18.sail_in1k",
    "cait_xxs24_224.fb_dist_in1k",
    "coat_tiny.in1k",
    "convit_tiny.fb_in1k",
    "convnextv2_atto.fcmae_ft_in1k",
    "crossvit_9_240.in1k",
    "densenet121.ra_in1k",
    "dla34.in1k",
    "efficientformer_l1.snap_dist_in1k",
    "efficientvim_m1.e300_in1k",
    "eva02_tiny_patch14_224.mim_in22k",
    "hiera_tiny_224.mae",
    "levit_128s.fb_dist_in1k",
    "maxvit_tiny_tf_224.in1k",
    "mixer_b16_224.goog_in21k",
    "mobilenetv3_small_100.lamb_in1k",
    "nf_resnet50.ra2_in1k",
    "pit_ti_224.in1k",
    "qwen3_vit_88m_enc.qwen3_5_0_8b",
    "rdnet_tiny.nv_in1k",
    "regnetx_002.pycls_in1k",
    "resnet18.a1_in1k",
    "resnet50_clip.openai",
    "swin_tiny_patch4_window7_224.ms_in1k",
    "swinv2_tiny_window8_256.ms_in1k",
    "vit_base_patch16_siglip_224.webli",
    "volo_d1_224.sail_in1k",
    "xcit_nano_12_p16_224.fb_in1k",
]


def entry(name: str, **changes) -> Entry:
    """Return the row of a name with changed fields, those of its input included: size=…, mean=…"""
    row = registry.find(f"timm/{name}")
    spec = {key: changes.pop(key) for key in ("size", "mean", "std") if key in changes}
    return replace(row, dim=None, params=None, **changes, input=replace(row.input, **spec))


def random_net(name: str, **settings) -> nn.Module:
    """Return timm's model with random values in all weights."""
    torch.manual_seed(0)
    net = timm.create_model(name, **settings).eval()
    for key, tensor in net.state_dict().items():
        if tensor.is_floating_point() and "running_var" not in key:
            tensor.add_(torch.randn(tensor.shape) * 0.02)
    return net


def local(row: Entry, state: dict[str, Tensor], folder: Path) -> tuple[Entry, dict[str, Path]]:
    """Save weights to a file; return a row for them and the file."""
    save_file(state, folder / "model.safetensors")
    row = replace(row, source=folder.as_uri(), files=(File("model.safetensors"),))
    return row, {"model.safetensors": folder / "model.safetensors"}


def load(row: Entry, state: dict[str, Tensor], folder: Path) -> nn.Module:
    return loader.load(plugin, *local(row, state, folder)).module.eval()


def images(size: int, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))


def built(name: str):
    return loader._build(plugin, entry(name), {}, "meta")


@torch.no_grad()
def pooled(net: nn.Module, pixels: Tensor) -> Tensor:
    return net(pixels).pooled


@torch.no_grad()
def test_test_models_load_from_the_hub_with_the_features_of_timm(monkeypatch):
    theirs = {name: random_net(name) for name in TINY}
    served = {f"timm/{name}": {"model.safetensors": save(net.state_dict())} for name, net in theirs.items()}
    with Hub(served) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for name, net in theirs.items():
            ours = zoo.load(f"timm/{name}", "cpu").backbone.module
            features = net.forward_head(net.forward_features(images(160)), pre_logits=True)
            torch.testing.assert_close(pooled(ours, images(160)), features, msg=name)
            assert features.std() > 0
    assert len(TINY) == 13


def test_timm_rows_conform():
    check_plugin("timm", [replace(registry.find(f"timm/{name}"), source=None, files=()) for name in TINY[::3]])
    check_plugin("timm", [f"timm/{name}" for name in FAMILIES[::6]], run=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "1 missing: blocks.3.norm1.bias"),
        ("extra", "1 unexpected: blocks.9.norm1.bias"),
        ("shape", r"1 with the wrong shape: blocks.3.norm1.bias \(3,\), expected \(64,\)"),
    ],
)
def test_a_checkpoint_with_missing_extra_or_reshaped_keys_raises(change, message, tmp_path):
    state = random_net("test_vit").state_dict()
    tensor = state.pop("blocks.3.norm1.bias")
    if change != "missing":
        state["blocks.3.norm1.bias"] = tensor[:3].clone() if change == "shape" else tensor
    if change == "extra":
        state["blocks.9.norm1.bias"] = tensor.clone()
    with pytest.raises(WeightsError, match=message):
        load(entry("test_vit.r160_in1k"), state, tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "test_vit3.r160_in1k", "test_resnet.r160_in1k"])
def test_another_image_size_resizes_position_embeddings_as_timm(name, tmp_path):
    state = random_net(name).state_dict()
    ours = load(entry(name, size=96), state, tmp_path)
    file = {"file": str(tmp_path / "model.safetensors")}
    sized = {"img_size": 96} if "vit" in name else {}
    theirs = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=file, num_classes=0, **sized).eval()
    torch.testing.assert_close(pooled(ours, images(96)), theirs(images(96)))


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "test_efficientnet.r160_in1k", "convnextv2_atto.fcmae_ft_in1k"])
def test_the_first_layer_is_adapted_to_the_channels_as_in_timm(name, channels, tmp_path):
    mean = (0.5,) * channels
    state = random_net(name).state_dict()
    ours = load(entry(name, mean=mean, std=mean), state, tmp_path)
    file = {"file": str(tmp_path / "model.safetensors")}
    theirs = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=file, num_classes=0, in_chans=channels
    ).eval()
    torch.testing.assert_close(pooled(ours, images(160, channels)), theirs(images(160, channels)))


def test_channels_the_first_layer_cannot_be_adapted_to_raise():
    name = "naflexvit_base_patch16_gap.e300_s576_in1k"
    with reading.shapes_only():
        state = timm.create_model(name).state_dict()
    with pytest.raises(PluginError, match="cannot be adapted to 1 channels"):
        plugin.adapt(entry(name, mean=(0.5,), std=(0.5,)), state, {})


@torch.no_grad()
@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "test_byobnet.r160_in1k", "test_convnext.r160_in1k"])
def test_the_classifier_gives_the_logits_of_timm_with_imagenet_names(name):
    net = random_net(name)
    found = plugin.classifier(entry(name), net.state_dict(), {})
    features = net.forward_head(net.forward_features(images(160)), pre_logits=True)
    torch.testing.assert_close(features @ found.weight.T + found.bias, net(images(160)))
    assert (len(found.labels), found.labels[0], found.labels[1]) == (
        1000,
        ("tench", "Tinca tinca"),
        ("goldfish", "Carassius auratus"),
    )


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("levit_128s.fb_dist_in1k", {}),  # two classifiers
        ("efficientvit_m0.r224_in1k", {}),  # with a BatchNorm before it
        ("caformer_s18.sail_in1k", {}),  # two layers
        ("vit_base_patch32_clip_224.openai", {}),  # CLIP embedding
        ("hiera_tiny_224.mae", {}),  # no classifier
        ("test_resnet.r160_in1k", {"source": "hf://someone/else"}),  # unknown classes
    ],
)
def test_classifier_is_none_unless_it_is_a_linear_imagenet_classifier(name, changes):
    with reading.shapes_only():
        state = timm.create_model(name).state_dict()
    assert plugin.classifier(entry(name, **changes), state, {}) is None


@pytest.mark.parametrize("name", every_fourth(FAMILIES))
def test_stages_cover_a_family_and_lora_targets_are_called_in_forward(name):
    backbone = built(name)  # core checks the stages
    assert 2 <= len(backbone.stages) <= 42
    first = backbone.stages[0]
    parameter, _ = next(iter(backbone.module.named_parameters()))
    is_stem = any(f"{parameter}.".startswith(f"{part}.") for part in first)
    assert is_stem or name.startswith(("beit", "coat", "volo", "qwen3", "xcit", "efficientvim", "cait"))
    net, called = backbone.module.to("meta").eval(), set()
    for part, module in net.named_modules():
        module.register_forward_hook(lambda module, args, output, part=part: called.add(part))
    size = backbone.input.size
    features = net(torch.empty(2, 3, size, size, device="meta"))
    assert features.pooled.shape == (2, backbone.dim)
    assert set(backbone.lora_targets) <= called
    assert backbone.lora_targets or name.startswith("nf_")  # weight standardisation: LoRA does not apply


@pytest.mark.parametrize("name", ["vit_base_patch16_siglip_224.webli", "resnet18.a1_in1k", "pit_ti_224.in1k"])
def test_stages_are_ordered_from_stem_to_head(name):
    stages = built(name).stages
    last = {"vit": "attn_pool", "res": "layer4", "pit": "norm"}[name[:3]]
    stem = {"vit": "patch_embed", "res": "conv1", "pit": "patch_embed"}[name[:3]]
    assert stem in stages[0]
    assert last in stages[-1]
    numbers = [int(part.rpartition(".")[2]) for stage in stages for part in stage if part.startswith("blocks.")]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("name", every_fourth(FAMILIES))
def test_adapt_drops_only_the_classifier(name):
    with reading.shapes_only():
        whole = timm.create_model(name)
    state = plugin.adapt(entry(name), whole.state_dict(), {})
    wanted = built(name).module.state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in wanted.items()}


@pytest.mark.parametrize(
    "name",
    [
        "convit_tiny.fb_in1k",
        "eva02_tiny_patch14_224.mim_in22k",
        "levit_128s.fb_dist_in1k",
        "swin_tiny_patch4_window7_224.ms_in1k",
        "swinv2_cr_tiny_ns_224.sw_in1k",
        "tresnet_m.miil_in1k",
    ],
)
def test_non_persistent_buffers_are_filled_on_the_meta_device(name):
    net = built(name).module
    assert not loader._needs_values(net)
    saved = net.state_dict().keys()
    theirs = dict(timm.create_model(name, num_classes=0).named_buffers())
    ours = {key: buffer for key, buffer in net.named_buffers() if key not in saved}
    assert ours
    assert all(torch.equal(buffer, theirs[key]) for key, buffer in ours.items())
    assert all(parameter.is_meta for parameter in net.parameters())


@torch.no_grad()
def test_attention_bias_caches_follow_changed_weights(tmp_path):
    net = load(entry("levit_128s.fb_dist_in1k"), random_net("levit_128s").state_dict(), tmp_path)
    first = pooled(net, images(224))
    state = net.state_dict()
    net.load_state_dict({key: t * 9 if key.endswith("attention_biases") else t for key, t in state.items()})
    changed = pooled(net, images(224))
    assert not torch.allclose(changed, first)
    assert torch.equal(pooled(net.train().eval(), images(224)), changed)


@torch.no_grad()
def test_a_norm_missing_from_a_checkpoint_is_the_identity(tmp_path):
    state = random_net("convnextv2_atto.fcmae").state_dict()
    state = {key: tensor for key, tensor in state.items() if not key.startswith("head.")}
    net = load(entry("convnextv2_atto.fcmae"), state, tmp_path)
    assert (net.head.norm.weight == 1).all()
    assert not net.head.norm.bias.any()


def test_unused_keys_are_dropped_for_non_strict_families():
    with reading.shapes_only():
        state = timm.create_model("dla34").state_dict()
    spare = {"level3.project.0.weight": torch.zeros(1)}
    assert plugin.adapt(entry("dla34.in1k"), state | spare, {}).keys() == built("dla34.in1k").module.state_dict().keys()


def test_keys_of_other_projects_are_converted_by_timms_filters():
    name = "vit_small_patch14_dinov2.lvd142m"
    wanted = built(name).module.state_dict()
    theirs = {**wanted, "mask_token": torch.zeros(1, 384)}
    assert plugin.adapt(entry(name), theirs, {}).keys() == wanted.keys()


def test_other_threads_still_load_weights_while_recording(tmp_path):
    net = random_net("test_resnet")
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    overlay, loaded = {"file": str(tmp_path / "model.safetensors")}, []

    def load_in_thread():
        loaded.append(timm.create_model("test_resnet", pretrained=True, pretrained_cfg_overlay=overlay))

    with reading._record_loading() as recorded:
        thread = threading.Thread(target=load_in_thread)
        thread.start()
        thread.join()
    assert torch.equal(loaded[0].conv1[0].weight, net.conv1[0].weight)
    assert not recorded
    assert _builder.load_pretrained.__module__ == "timm.models._builder"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"options": {"arch": "resnet19"}}, "arch = 'resnet19' is unknown to timm .*; nearest: resnet18"),
        ({"options": {"arch": "resnet18.a9_in1k"}}, r"arch = 'resnet18.a9_in1k' is unknown .* nearest: resnet18\.a"),
        ({"options": {}}, "arch = '' is unknown to timm"),
        ({"options": {"arch": "resnet18", "args": {"pretrained": True}}}, "of the architecture, not pretrained"),
        ({"options": {"arch": "resnet18", "args": []}}, r"args = \[\] is not a table"),
        ({"options": {"arch": "resnet18", "args": {"x": "a/b"}}}, "args: x = 'a/b' is no hyperparameter"),
        ({"options": {"arch": "resnet18", "size": 3}}, "option 'size' is unknown; known: arch, args"),
        ({"options": {"arch": "resnet18", "args": {"x": 1}}}, "timm .* cannot build resnet18 for 3 x 160 px: .*'x'"),
    ],
)
def test_an_invalid_row_raises_with_the_reason(changes, what):
    with pytest.raises(PluginError, match=what) as caught:
        plugin.build(entry("test_resnet.r160_in1k", **changes), {})
    assert '["timm/test_resnet.r160_in1k"] in ' in caught.value.fix


def test_a_text_row_raises():
    row = replace(entry("test_resnet.r160_in1k"), input=TextInput(("tokenizer.json",), 128))
    with pytest.raises(PluginError, match="takes images, not text"):
        plugin.build(row, {})


@torch.no_grad()
def test_args_of_a_row_are_passed_to_timm(tmp_path):
    row = entry("test_vit.r160_in1k", options={"arch": "test_vit", "args": {"global_pool": "avg", "fc_norm": False}})
    state = random_net("test_vit").state_dict()
    ours = load(row, state, tmp_path)
    tokens = ours(images(160)).tokens
    torch.testing.assert_close(pooled(ours, images(160)), tokens[:, 1:].mean(1))
