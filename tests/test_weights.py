"""Loading weights: strict and lazy loading, reproducible initialisation, and plugins that violate the API."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zoo.errors import PluginError, WeightsError
from zoo.plugin import Backbone, Entry, Features, ImageInput, Plugin
from zoo.weights import safetensors_file
from zoo.weights.loader import check_stages, initialise, load
from zoo.weights.safetensors_file import read_state

INPUT = ImageInput(2, (0.5,), (0.5,))
ENTRY = Entry("fake/net", "fake", "image", INPUT, dim=3)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return Features(self.norm(self.linear(x.flatten(1))))


class WithMask(Net):
    """Has a non-persistent buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.arange(3.0), persistent=False)


class WithAttribute(Net):
    """Has a tensor that is a plain attribute."""

    def __init__(self):
        super().__init__()
        self.scale = torch.arange(3.0)


class Tied(Net):
    def __init__(self):
        super().__init__()
        self.again = nn.Linear(4, 3)
        self.again.weight = self.linear.weight


class Fake(Plugin):
    api = 1

    def __init__(self, net=Net, stages=(("linear",), ("norm",)), **changes):
        self.net, self.stages, self.changes = net, stages, changes

    def build(self, entry, files):
        return Backbone(**{"module": self.net(), "dim": 3, "input": INPUT, "stages": self.stages, **self.changes})


@pytest.fixture
def weights(tmp_path):
    """Return a model with random weights, and a function that writes its (or another) state dict to a file."""
    torch.manual_seed(1)
    net = Net()
    nn.init.normal_(net.norm.running_mean)

    def write(state=None, metadata=None, name="model.safetensors"):
        save_file({k: v.clone() for k, v in (state or net.state_dict()).items()}, tmp_path / name, metadata)
        return {name: tmp_path / name}

    return net, write


def mapped(path):
    """Return the access modes under which a file is mapped into this process."""
    with open("/proc/self/maps") as lines:
        return [line.split()[1] for line in lines if line.rstrip().endswith(str(path))]


# Loading


def test_load_gives_the_outputs_of_the_saved_model(weights):
    net, write = weights
    backbone = load(Fake(), ENTRY, write())
    assert backbone.module.state_dict().keys() == net.state_dict().keys()
    x = torch.randn(5, 1, 2, 2)
    assert torch.equal(backbone.module.eval()(x).pooled, net.eval()(x).pooled)


def test_load_maps_the_file_and_training_does_not_change_it(weights):
    _, write = weights
    files = write()
    path = files["model.safetensors"]
    before = path.read_bytes()
    path.chmod(0o444)
    module = load(Fake(), ENTRY, files).module
    assert set(mapped(path)) == {"rw-p"}  # private: copied when written to
    module(torch.randn(5, 1, 2, 2)).pooled.pow(3).sum().backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= parameter.grad
    assert path.read_bytes() == before
    assert not torch.equal(module.linear.weight, read_state(path)[0]["linear.weight"])


def test_loaded_parameters_require_grad_and_are_float32(weights):
    _, write = weights
    module = load(Fake(), ENTRY, write()).module
    assert all(p.requires_grad and p.dtype == torch.float32 and p.is_leaf for p in module.parameters())
    assert module.norm.num_batches_tracked.dtype == torch.int64
    assert not any(b.requires_grad for b in module.buffers())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("net", [Net, WithMask])
def test_other_dtypes_are_converted_to_float32(weights, dtype, net):
    own, write = weights
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in own.state_dict().items()}
    module = load(Fake(net), ENTRY, write(state)).module
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert torch.equal(module.norm.running_mean, state["norm.running_mean"].float())
    assert all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize(("net", "name"), [(WithMask, "mask"), (WithAttribute, "scale")])
def test_tensors_outside_the_state_dict_keep_their_values(weights, net, name):
    own, write = weights
    module = load(Fake(net), ENTRY, write()).module
    assert torch.equal(getattr(module, name), torch.arange(3.0))
    assert torch.equal(module.linear.weight, own.linear.weight)


@pytest.mark.parametrize("both", [True, False])
def test_tied_parameters_stay_tied_if_the_file_has_one_or_both(weights, both):
    own, write = weights
    state = {**own.state_dict(), "again.bias": torch.ones(3)}
    if both:
        state["again.weight"] = own.linear.weight.detach()
    module = load(Fake(Tied, (("linear", "norm"), ("again",))), ENTRY, write(state)).module
    assert module.again.weight is module.linear.weight
    assert torch.equal(module.again.weight, own.linear.weight)


def test_shards_are_merged(weights):
    own, write = weights
    state = own.state_dict()
    names = sorted(state)
    first = write({k: state[k] for k in names[:3]}, name="model-1.safetensors")
    second = write({k: state[k] for k in names[3:]}, name="model-2.safetensors")
    module = load(
        Fake(), ENTRY, {**first, **second, "model.safetensors.index.json": first["model-1.safetensors"]}
    ).module
    assert torch.equal(module.linear.weight, own.linear.weight)


def test_a_key_in_two_weight_files_raises(weights):
    _, write = weights
    with pytest.raises(WeightsError, match=r"two weight files contain linear\.bias"):
        load(Fake(), ENTRY, write() | write(name="other.safetensors"))


def test_adapt_renames_and_drops_keys(weights):
    class Renaming(Fake):
        def adapt(self, entry, state, files):
            return {key.removeprefix("old."): value for key, value in state.items() if key != "old.head"}

    own, write = weights
    files = write({f"old.{k}": v for k, v in own.state_dict().items()} | {"old.head": torch.ones(1)})
    assert torch.equal(load(Renaming(), ENTRY, files).module.linear.weight, own.linear.weight)


def test_a_saved_models_file_is_loaded_without_adapt(weights):
    class Never(Fake):
        def adapt(self, entry, state, files):
            raise AssertionError("called")

    own, write = weights
    state = {f"backbone.{k}": v for k, v in own.state_dict().items()} | {"head.weight": torch.ones(1)}
    assert torch.equal(load(Never(), ENTRY, write(state, {"zoo": "1"})).module.linear.weight, own.linear.weight)


def test_a_saved_model_in_a_newer_format_raises(weights):
    _, write = weights
    with pytest.raises(WeightsError, match="weight format '2', but this zoo reads '1'") as caught:
        load(Fake(), ENTRY, write(metadata={"zoo": "2"}))
    assert caught.value.fix == "pip install --upgrade backbone-zoo"


@pytest.mark.parametrize("net", [Net, WithMask])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linear.bias": None}, "1 missing: linear.bias"),
        ({"fc.weight": torch.ones(1)}, "1 unexpected: fc.weight"),
        ({"linear.bias": torch.ones(7)}, "1 with the wrong shape: linear.bias (7,), expected (3,)"),
        ({f"x{i}": torch.ones(1) for i in range(9)}, "9 unexpected: x0, x1, x2, x3, x4 and 4 more"),
    ],
)
def test_missing_unexpected_or_reshaped_keys_raise(weights, net, changes, message):
    own, write = weights
    state = {k: v for k, v in {**own.state_dict(), **changes}.items() if v is not None}
    with pytest.raises(WeightsError) as caught:
        load(Fake(net), ENTRY, write(state))
    assert message in caught.value.what
    assert "fake/net" in caught.value.what
    assert caught.value.fix.startswith("zoo info fake/net")


def test_an_entry_without_a_weight_file_raises(tmp_path):
    with pytest.raises(WeightsError, match=r"no \.safetensors among its files: config\.json") as caught:
        load(Fake(), ENTRY, {"config.json": tmp_path})
    assert "row of fake/net" in caught.value.fix


def test_load_does_not_change_the_global_rng_state(weights):
    _, write = weights
    files = write()
    before = torch.get_rng_state()
    load(Fake(WithMask), ENTRY, files)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_tensor_left_on_the_meta_device_raises(weights):
    class MetaBuffer(Net):
        def __init__(self):
            super().__init__()
            self.register_buffer("mask", torch.ones(3, device="meta"), persistent=False)

    with pytest.raises(WeightsError, match="tensors left on the meta device: mask"):
        load(Fake(MetaBuffer), ENTRY, weights[1]())


# Initialising


def test_initialise_is_reproducible_and_does_not_change_the_global_rng_state():
    before = torch.get_rng_state()
    first, same, other = (initialise(Fake(), ENTRY, {}, seed).module.linear.weight for seed in (3, 3, 4))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_initialise_builds_on_the_cpu_with_any_default_device():
    with torch.device("meta"):
        backbone = initialise(Fake(), ENTRY, {}, 0)
    assert {p.device.type for p in backbone.module.parameters()} == {"cpu"}


# The plugin API


@pytest.mark.parametrize(
    ("plugin", "rule"),
    [
        (Fake(module=3), "module must be an nn.Module, not 3"),
        (Fake(dim="3"), "dim must be a positive int, not '3'"),
        (Fake(dim=4), "dim is 4, but 3 in its row"),
        (Fake(input=None), "input must be an ImageInput or TextInput, not None"),
        (Fake(stages=["linear"]), "stages must be a tuple of tuples of names"),
        (Fake(stages=(("linear",),)), "do not cover norm.bias, norm.weight"),
        (Fake(stages=(("linear", "norm"), ("linear.bias",))), "cover linear.bias more than once"),
        (Fake(stages=(("linear", "norm", "tail"),)), "the module has no tail"),
    ],
)
def test_an_invalid_backbone_raises_with_plugin_and_rule(plugin, rule):
    with pytest.raises(PluginError) as caught:
        initialise(plugin, ENTRY, {}, 0)
    assert caught.value.what.startswith("plugin 'fake': build() on fake/net")
    assert rule in caught.value.what
    assert caught.value.fix


def test_build_that_does_not_return_a_backbone_raises():
    class Wrong(Fake):
        def build(self, entry, files):
            return Net()

    with pytest.raises(PluginError, match="must return a Backbone, not Net"):
        initialise(Wrong(), ENTRY, {}, 0)


def test_build_that_reads_tensor_values_on_meta_raises_with_a_fix(weights):
    class ReadsValues(Net):
        def __init__(self):
            super().__init__()
            torch.linspace(0, 1, 3).sum().item()

    with pytest.raises(PluginError, match=r"build\(\) failed on fake/net: RuntimeError") as caught:
        load(Fake(ReadsValues), ENTRY, weights[1]())
    assert "torch.device('cpu')" in caught.value.fix


@pytest.mark.parametrize(
    ("result", "message"), [("raise", "adapt() failed on fake/net"), ("list", "a dict of tensors")]
)
def test_a_failing_adapt_raises(weights, result, message):
    class Bad(Fake):
        def adapt(self, entry, state, files):
            return [] if result == "list" else state["no such key"]

    with pytest.raises(PluginError) as caught:
        load(Bad(), ENTRY, weights[1]())
    assert message in caught.value.what
    assert "plugin 'fake'" in caught.value.what


def test_a_zoo_error_of_a_plugin_is_not_wrapped(weights):
    class Own(Fake):
        def build(self, entry, files):
            raise PluginError("no such architecture", fix="edit options")

    with pytest.raises(PluginError, match=r"^no such architecture"):
        load(Own(), ENTRY, weights[1]())


def test_a_stage_may_name_a_parameter_or_a_submodule_without_parameters():
    net = nn.ModuleDict({"linear": nn.Linear(1, 1), "act": nn.ReLU()})
    check_stages(Backbone(net, 1, INPUT, (("linear.weight", "act"), ("linear.bias",))))


def test_tensors_are_streamed_into_a_file(tmp_path):
    path = tmp_path / "x.safetensors"
    state = {"a": torch.arange(3, dtype=torch.uint8), "b": torch.rand(2, 5), "c": torch.rand(1, dtype=torch.float64)}
    state |= {"d": torch.rand(3).bfloat16(), "e": torch.zeros(0, 2), "f": torch.tensor(True)}
    order = safetensors_file.file_order(state)
    said = iter(["0" * 8, "finished"])
    safetensors_file.write_streamed(path, state, (state[name] for name in order), lambda: {"it is": next(said)})
    found, metadata = safetensors_file.read_state(path)
    assert metadata == {"it is": "finished"}
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in state.items())
    assert found.keys() == state.keys()


def test_a_stream_that_fails_leaves_the_file_before(tmp_path):
    path = tmp_path / "x.safetensors"
    state = {"a": torch.rand(2), "b": torch.rand(2)}
    safetensors_file.write_state(path, state, {})

    def cut():
        yield state["a"]
        raise OSError("disk full")

    with pytest.raises(WeightsError, match="cannot be written: disk full"):
        safetensors_file.write_streamed(path, state, cut(), dict)
    assert torch.equal(safetensors_file.read_state(path)[0]["b"], state["b"])
    assert [child.name for child in tmp_path.glob("*x.safetensors*")] == ["x.safetensors"]
