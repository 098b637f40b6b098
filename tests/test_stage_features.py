"""Heads on outputs of stages: which outputs are read, that they are pooled rightly, and models that have such heads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pictures
import pytest
import torch
from torch import nn

import zoo
from zoo.errors import ArtefactError, RecipeError
from zoo.finetune.features import linear_probe, linear_solver, stage_search
from zoo.finetune.features.linear_probe import ProbeData
from zoo.finetune.features.stage_outputs import StageOutput, catch, pool
from zoo.finetune.heads import StageHead, stages_of
from zoo.finetune.network import Network, head_inputs
from zoo.plugin import Backbone, Features, ImageInput, TextInput
from zoo.tasks import KINDS, Classify
from zoo.tasks.regress import Regress

IMAGE = ImageInput(8, (0.5,) * 3, (0.5,) * 3)
TEXT = TextInput((), 16)
STAGED = {"strategy": "probe", "head_stages": 2}


class Images(nn.Module):
    """Two convolutions; the second output, pooled, is the features, or with `mixes` the first depends on the batch."""

    def __init__(self, mixes: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.mixes = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 3), mixes
        if mixes:
            self.first.register_forward_hook(lambda _, __, output: output - output.mean(0))

    def forward(self, images: torch.Tensor) -> Features:
        return Features(self.second(self.first(images)).mean((2, 3)))


class Layer(nn.Linear):
    """Returns a tuple; with `leaks` each token gets the sum of all, padding included."""

    leaks = False

    def forward(self, tokens):
        mapped = super().forward(tokens)
        return (mapped + mapped.sum(1, keepdim=True) if self.leaks else mapped, None)


class Words(nn.Module):
    """Embedding and two layers with tuples as outputs, masked mean pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layers, self.out = nn.Embedding(100, 6), nn.ModuleList([Layer(6, 6), Layer(6, 5)]), Layer(5, 5)

    def forward(self, inputs) -> Features:
        tokens = self.embed(inputs["input_ids"])
        for layer in (*self.layers, self.out):
            tokens = layer(tokens)[0]
        return Features(pool(tokens, "NTC", inputs), tokens, inputs["attention_mask"])


def images(**options: bool) -> Backbone:
    return Backbone(Images(**options), 4, IMAGE, (("first",), ("second",)))


def words() -> Backbone:
    stages = (("embed",), ("layers.0",), ("layers.1",), ("out",))
    return Backbone(Words(), 5, TEXT, stages)


def test_last_stages_are_found_without_the_pooled_features_themselves():
    assert stage_search.find(images()) == (StageOutput("first", "NCHW", 5),)
    expected = [("embed", 6), ("layers.0", 6), ("layers.1", 5)]
    assert [(stage.module, stage.dim) for stage in stage_search.find(words(), 9)] == expected
    assert [stage.module for stage in stage_search.find(words())] == ["layers.0", "layers.1"]  # not the first half


def test_an_output_that_depends_on_the_batch_is_not_read():
    assert stage_search.find(images(mixes=True)) == ()


def test_an_output_that_depends_on_padding_is_not_read():
    backbone = words()
    backbone.module.layers[0].leaks = True
    assert [stage.module for stage in stage_search.find(backbone)] == ["embed"]


@pytest.mark.parametrize(
    ("shape", "width", "layout"),
    [
        ((3, 7, 4, 4), 7, "NCHW"),
        ((3, 4, 4, 7), 7, "NHWC"),
        ((3, 4, 4, 4), 4, None),  # channels first or last
        ((3, 4, 5, 6), 6, None),  # no square
        ((3, 9, 7), 7, "NTC"),
        ((3, 7, 9), 7, None),  # channels before tokens
        ((3, 7, 7), 7, None),
        ((12, 9, 7), 7, None),  # windows of an image
        ((3, 7), 7, None),
    ],
)
def test_layout_of_an_image_model_is_told_or_refused(shape, width, layout):
    assert stage_search.layout_of(torch.zeros(shape), nn.LayerNorm(width), torch.zeros(3, 3, 8, 8)) == layout


def test_tokens_of_a_text_are_as_many_as_its_inputs():
    inputs = {"input_ids": torch.zeros(3, 9, dtype=torch.long)}
    found = [
        stage_search.layout_of(torch.zeros(shape), nn.Identity(), inputs) for shape in ((3, 9, 4), (9, 3, 4), (3, 8, 4))
    ]
    assert found == ["NTC", None, None]


def test_head_inputs_are_pooled_features_then_stages():
    backbone = words()
    stages = stage_search.find(backbone, 3)
    inputs, _ = stage_search.random_batches(backbone)
    assert all(stage.scaled for stage in stages)
    found = head_inputs(backbone.module, inputs, "pooled", stages)
    features = backbone.module(inputs)
    hidden = backbone.module.embed(inputs["input_ids"])
    assert torch.equal(found[:, :5], features.pooled)
    torch.testing.assert_close(found[0, 5:11], hidden[0, : stage_search.SHORT].mean(0))
    torch.testing.assert_close(found[1, 5:11], hidden[1].mean(0))
    tokens = head_inputs(backbone.module, inputs, "tokens", stages, inputs["attention_mask"].bool())
    assert tokens.shape == (inputs["attention_mask"].sum(), 5 + 17)
    assert torch.equal(tokens[:, 5:11], hidden[inputs["attention_mask"].bool()])


def test_threads_that_share_a_module_read_their_own_batch():
    module, stages = Images(), [StageOutput("first", "NCHW", 5)]
    batches = [torch.randn(2, 3, 8, 8) for _ in range(8)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda batch: head_inputs(module, batch, "pooled", stages), batches))
    assert all(map(torch.equal, found, [head_inputs(module, batch, "pooled", stages) for batch in batches]))
    assert not module.first._forward_hooks


def test_hooks_are_removed_after_an_error():
    module = Images()
    with pytest.raises(ZeroDivisionError), catch(module, [StageOutput("first", "NCHW", 5)], lambda *_: 1 / 0):
        module(torch.randn(2, 3, 8, 8))
    assert not module.first._forward_hooks


def tasks() -> list:
    chance = torch.Generator().manual_seed(0)
    numbers = torch.randn(20, generator=chance).tolist()
    several = [tuple(k for k in range(3) if (i >> k) & 1) for i in range(20)]
    classes = [i % 3 for i in range(20)]
    return [
        (Classify.of(classes), classes),
        (Classify.of(classes).balanced("weights", torch.tensor(classes)), classes),
        (KINDS["multilabel"].of(several), several),
        (Regress.of(numbers), numbers),
    ]


@pytest.mark.parametrize(("task", "labels"), tasks(), ids=["classify", "weighted", "multilabel", "regress"])
@pytest.mark.parametrize("penalty", [10.0, 1e-2])
def test_solution_in_the_span_is_the_optimum_in_all_features(task, labels, penalty):
    """The objective is convex: the gradient in all features vanishes at its optimum alone."""
    features = torch.randn(20, 60, generator=torch.Generator().manual_seed(1))
    features -= features.mean(0)
    problem = linear_solver.problem(features, task.targets(labels))
    assert problem.x.shape == (20, 19)  # 20 centred examples
    found = linear_solver.solve(task, problem, penalty)
    weight, bias = (part.double().requires_grad_() for part in (problem.weight(found), found.bias))
    loss = task.loss(features.double() @ weight.T + bias, problem.targets) + penalty / 2 * weight.square().sum()
    gradients = torch.autograd.grad(loss, (weight, bias))
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-5
    plain = linear_solver.solve(task, linear_solver.Problem(features, task.targets(labels)), penalty)
    torch.testing.assert_close(problem.weight(found), plain.weight, atol=5e-4, rtol=1e-3)


def separable(stage: torch.Tensor | None = None) -> ProbeData:
    """Return noise as pooled features, and a stage with the class in it, or another one."""
    chance = torch.Generator().manual_seed(0)
    targets = torch.arange(3).repeat(8)
    pooled = torch.randn(24, 10, generator=chance)
    informative = nn.functional.one_hot(targets, 3) + 0.3 * torch.randn(24, 3, generator=chance)
    stage = informative if stage is None else stage
    return ProbeData(torch.cat([pooled, stage], 1), targets, None, (StageOutput("a", "NTC", stage.shape[1]),))


def test_stages_are_read_where_they_help():
    task, data = Classify((0, 1, 2)), separable()
    fitted = linear_probe.choose(task, data, None, seed=0)
    assert stages_of(fitted.head) == data.stages
    assert fitted.loss < linear_probe.fit(task, data.last_stages(0), None, seed=0).loss


def test_a_head_reads_each_scaled_block_by_its_root_mean_square():
    data = separable()
    scaled = replace(data, stages=tuple(replace(stage, scaled=True) for stage in data.stages))
    blocks = data.features.split([10, 3], 1)
    divided = torch.cat([block / block.square().mean(1, keepdim=True).sqrt() for block in blocks], 1)
    task = Classify((0, 1, 2))
    fitted = linear_probe.fit(task, scaled, None, seed=0)
    by_hand = linear_probe.fit(task, replace(data, features=divided), None, seed=0)
    assert fitted.l2 == by_hand.l2
    torch.testing.assert_close(fitted.head(data.features), by_hand.head(divided))
    torch.testing.assert_close(fitted.head(3 * data.features), fitted.head(data.features))
    assert fitted.head(torch.zeros(1, 13)).isfinite().all()
    [outputs] = linear_probe.out_of_fold(task, scaled, [[torch.arange(12), torch.arange(12, 24)]], 0.1)
    [expected] = linear_probe.out_of_fold(
        task, replace(data, features=divided), [[torch.arange(12), torch.arange(12, 24)]], 0.1
    )
    torch.testing.assert_close(outputs, expected)


def misleading() -> ProbeData:
    """Return pooled features that tell the classes apart, and a stage of noise."""
    data = separable()
    noise = torch.randn(24, 2, generator=torch.Generator().manual_seed(2))
    stages = (StageOutput("a", "NTC", 2),)
    return ProbeData(torch.cat([data.features[:, 10:], noise], 1), data.targets, None, stages)


def test_pooled_features_alone_are_taken_where_they_are_better_in_every_fold():
    task, data = Classify((0, 1, 2)), misleading()
    fitted = linear_probe.choose(task, data, None, seed=0)
    staged = linear_probe.fit(task, data, None, seed=0)
    assert stages_of(fitted.head) == ()
    assert all(one < other for one, other in zip(fitted.folds, staged.folds, strict=True))


def test_fewer_than_five_folds_are_not_compared():
    data = misleading()
    few = torch.cat([(data.targets == label).nonzero()[:4, 0] for label in range(3)])
    part = ProbeData(data.features[few], data.targets[few], None, data.stages)
    assert stages_of(linear_probe.choose(Classify((0, 1, 2)), part, None, seed=0).head) == data.stages


def test_standardisation_is_folded_into_the_head():
    data, task = separable(), Classify((0, 1, 2))
    shifted = ProbeData(data.features * 100 + 7, data.targets, None, data.stages)
    one, two = (linear_probe.fit(task, part, 0.1, seed=0).head for part in (data, shifted))
    torch.testing.assert_close(one(data.features), two(shifted.features), atol=1e-3, rtol=1e-3)


@pytest.fixture(scope="module")
def staged(pretrained, tmp_path_factory) -> SimpleNamespace:
    """A probe on stages, and its saved folder."""
    folder = tmp_path_factory.mktemp("staged") / "model"
    model = zoo.load(pretrained, "cpu").finetune(pictures.pairs(5, ("red", "grey")), **STAGED, quiet=True)
    model.save(folder)
    return SimpleNamespace(model=model, folder=folder)


def test_a_saved_head_on_stages_predicts_the_same(staged):
    pictured = [image for image, _ in pictures.pairs(3, seed=7)]
    loaded = zoo.load(staged.folder, "cpu")
    assert len(stages_of(loaded.head)) == 2
    assert torch.equal(loaded.logits(pictured), staged.model.logits(pictured))
    by_hand = loaded.head(loaded.embed(pictured, stages=True))
    torch.testing.assert_close(loaded.logits(pictured), by_hand.detach(), atol=1e-3, rtol=1e-3)
    assert loaded.embed(pictured).shape[1] == loaded.backbone.dim
    assert torch.equal(loaded.module(loaded.preprocess(pictured)), staged.model.module(loaded.preprocess(pictured)))


def test_embedding_without_a_head_takes_the_last_stages(pretrained):
    model = zoo.load(pretrained, "cpu")
    wide = model.embed([pictures.array("red", 0)], stages=True)
    assert wide.shape[1] > model.backbone.dim
    model.backbone.module.forward = lambda images: Features(images.mean((2, 3)))
    with pytest.raises(RecipeError, match=r"no output of a stage of tiny/net can be pooled\nfix: embed its pooled"):
        model.embed([pictures.array("red", 0)], stages=True)


@pytest.mark.parametrize("damage", ["unknown", "layout", "dim", "text"])
def test_a_damaged_list_of_stages_raises(staged, tmp_path, damage):
    import json
    import shutil

    folder = shutil.copytree(staged.folder, tmp_path / "damaged")
    manifest = json.loads((folder / "zoo.json").read_text())
    wrong = {"unknown": {"module": "nowhere"}, "layout": {"layout": "CHW"}, "dim": {"dim": 0}, "text": {"dim": "x"}}
    manifest["stages"][0] |= wrong[damage]
    (folder / "zoo.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError):
        zoo.load(folder, "cpu")


def test_a_head_on_stages_is_where_the_next_fine_tuning_starts(staged, capsys):
    model = zoo.load(staged.folder, "cpu")
    before = model.head.weight.clone()
    model.finetune(pictures.pairs(1, ("red", "grey"), seed=3), valid=0, strategy="probe")
    assert "the pretrained head unchanged" in capsys.readouterr().out
    assert torch.equal(model.head.weight, before)


@pytest.mark.parametrize("strategy", ["lp-ft", "gradual", "lora"])
def test_tuning_starts_from_the_head_on_stages_and_keeps_it(pretrained, staged, strategy):
    model = zoo.load(pretrained, "cpu")
    still = {"lr": 1e-9, "backbone_lr": 1e-9, "steps": 3, "evals": 1, "calibrate": False}
    model.finetune(pictures.pairs(5, ("red", "grey")), **STAGED | {"strategy": strategy} | still, quiet=True)
    assert model.head.stages == staged.model.head.stages != ()
    torch.testing.assert_close(model.head.weight, staged.model.head.weight, atol=1e-6, rtol=0)
    assert model.history[0] == staged.model.history[0]


def test_gradients_reach_the_stages_through_the_head():
    backbone = images()
    head = StageHead(4, 2, stage_search.find(backbone))
    nn.init.ones_(head.weight)
    nn.init.zeros_(head.bias)
    with torch.no_grad():
        head.weight[:, :4] = 0  # the pooled features alone would give no gradient
    Network(backbone.module, head)(torch.randn(2, 3, 8, 8)).sum().backward()
    assert backbone.module.first.weight.grad.abs().sum() > 0
    assert not backbone.module.second.weight.grad.any()


def test_too_many_values_leave_the_pooled_features(pretrained, monkeypatch, capsys):
    monkeypatch.setattr("zoo.finetune.features.frozen_features.MAX_VALUES", 10)
    data = [(image, f"a new {label}") for image, label in pictures.pairs(4)]
    model = zoo.load(pretrained, "cpu").finetune(data, strategy="probe")
    assert stages_of(model.head) == ()
    assert "rows with stage outputs take more than 0 MiB" in capsys.readouterr().out
