"""Why a model works: known answers of each measure on arrays and made-up nets."""

from __future__ import annotations

import pytest
import torch
import words
from torch import nn

from zoo.data import texts
from zoo.data.datasets import LabelledDataset
from zoo.data.examples import Examples
from zoo.data.image_batches import Images
from zoo.data.prepare import Prepared
from zoo.evidence.report.explain import depth, filters, moved, neighbours, patches, similarity, word_saliency
from zoo.evidence.report.explain.attribution import integrated_gradients, occlusion
from zoo.evidence.report.explain.contrasts import chosen
from zoo.evidence.report.explain.stages import Readings, outputs_by_stage, stage_of
from zoo.evidence.report.facts import Part
from zoo.evidence.report.features import Examined
from zoo.finetune.features import stage_search
from zoo.plugin import Backbone, Features, ImageInput, TextInput
from zoo.tasks import Classify
from zoo.tasks.multilabel import Multilabel
from zoo.tasks.regress import Regress
from zoo.tasks.tag import Tag

SPEC = ImageInput(16, (0.5,) * 3, (0.5,) * 3)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def biased_cka(one, two):
    one, two = one - one.mean(0), two - two.mean(0)
    return float((one.T @ two).norm() ** 2 / ((one.T @ one).norm() * (two.T @ two).norm()))


def test_cka_of_equal_features_is_1_whatever_their_rotation_scale_and_mean():
    features = random(60, 20)
    rotation = torch.linalg.qr(random(20, 20, seed=1)).Q
    found = similarity.compare(features, 3 * features @ rotation + 5)
    assert found.cka == pytest.approx(1, abs=1e-5)
    assert found.floor < 0.2


def test_debiased_cka_of_independent_features_is_0_where_the_biased_one_is_high():
    found = [similarity.compare(random(60, 500, seed=i), random(60, 500, seed=100 + i)) for i in range(20)]
    assert biased_cka(random(60, 500), random(60, 500, seed=100)) > 0.85
    assert abs(sum(each.cka for each in found)) / len(found) < 0.02
    assert sum(each.cka > each.floor for each in found) <= 4  # the floor is the 95th percentile of chance


def test_inner_product_of_gram_matrices_is_the_unbiased_estimator_of_hsic():
    one, two = random(12, 5).double(), random(12, 7, seed=1).double()
    count, ones = 12, torch.ones(12, dtype=torch.float64)
    k, m = ((each @ each.T).fill_diagonal_(0) for each in (one, two))
    sums = (ones @ k @ ones) * (ones @ m @ ones) / ((count - 1) * (count - 2)) - 2 / (count - 2) * ones @ k @ m @ ones
    expected = (torch.trace(k @ m) + sums) / (count * (count - 3))  # Song et al. 2012, equation 5
    found = (similarity.gram(one) * similarity.gram(two)).sum() / (count * (count - 3))
    assert float(found) == pytest.approx(float(expected))


def test_no_cka_of_three_examples_or_constant_features():
    assert similarity.compare(random(3, 4), random(3, 4)) is None
    assert similarity.compare(random(9, 4), torch.ones(9, 4)) is None


def test_integrated_gradients_sum_to_the_difference_of_the_outputs():
    net = nn.Sequential(nn.Linear(6, 20), nn.GELU(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1))
    for number, parameter in enumerate(net.parameters()):
        parameter.data = random(*parameter.shape, seed=number) / 2
    start, end = random(6, seed=50), random(6, seed=51)
    found, error = integrated_gradients(lambda x: net(x)[:, 0], end, start)
    with torch.no_grad():
        assert float(found.sum()) == pytest.approx(float(net(end) - net(start)), abs=0.01)
    assert error < 0.01


def test_integrated_gradients_of_a_linear_output_are_exact():
    weight = torch.tensor([1.0, -2.0, 0.0])
    found, _ = integrated_gradients(lambda x: x @ weight, torch.tensor([3.0, 1.0, 9.0]), torch.tensor([1.0, 1.0, 1.0]))
    torch.testing.assert_close(found, torch.tensor([2.0, 0.0, 0.0]))


def test_occlusion_finds_the_planted_corner():
    image = random(3, 28, 28) * 0.1
    image[:, 22:, :6] = 5
    heat = occlusion(lambda images: images[:, :, 22:, :6].mean((1, 2, 3)), image, 7)
    assert heat.shape == (7, 7)
    assert int(heat.argmax()) == 6 * 7
    assert heat[:4].abs().max() == 0
    assert heat[:, 3:].abs().max() == 0


class Net(nn.Module):
    """Two 1 x 1 convolutions and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 4, 1)

    def forward(self, images):
        return Features(self.second(self.first(images).relu()).mean((2, 3)))


def backbone() -> Backbone:
    torch.manual_seed(0)
    return Backbone(Net(), 4, SPEC, (("first",), ("second.weight", "second.bias")))


def test_a_frozen_stage_moved_exactly_0_and_a_scaled_one_by_its_scale():
    before, after = backbone(), backbone()
    assert moved.is_unchanged(after, before)
    assert moved.weight_distances(after, before) == [0, 0]
    for parameter in after.module.second.parameters():
        parameter.data *= 1.25
    assert not moved.is_unchanged(after, before)
    assert moved.weight_distances(after, before) == pytest.approx([0, 0.25])
    assert moved.parameter_counts(after) == [20, 24]


def test_outputs_are_those_of_the_stage_that_their_module_belongs_to():
    net = backbone()
    assert {number: output.module for number, output in outputs_by_stage(net).items()} == {1: "first", 2: "second"}
    assert [output.module for output in stage_search.find(net)] == ["first"]  # a head needs the pooled features once
    assert [stage_of(net, name) for name in ("first", "first.bias", "second.bias")] == [1, 1, 2]


def test_a_probe_finds_the_depth_that_knows_the_task():
    targets = torch.arange(120) % 3
    informed = nn.functional.one_hot(targets, 3) + 0.3 * random(120, 3)
    values = (random(120, 6, seed=1), informed)
    parts = [
        Readings((1, None), tuple(value[rows] for value in values), targets[rows])
        for rows in (slice(80), slice(80, None))
    ]
    found = depth.probe_each(Classify(("a", "b", "c")), *parts)
    chance, known = found.probes
    assert known.score > 0.9
    assert chance.score < 0.55
    assert chance.low < chance.score < chance.high
    assert found.items[0].mean() == pytest.approx(chance.score)


def test_filters_are_those_of_the_convolution_on_the_pixels_with_zero_as_grey():
    net = backbone()
    net.module.first.weight.data = torch.zeros(5, 3, 1, 1)
    net.module.first.weight.data[2, 0] = 2.0  # red
    found = filters.first_filters(net)
    assert (found.module, found.shape, found.pictures.shape) == ("first", (5, 3, 1, 1), (5, 1, 1, 3))
    assert found.pictures[0, 0, 0].tolist() == [255, 128, 128]
    assert found.pictures[1:].min() == found.pictures[1:].max() == 128
    assert "texts" in filters.first_filters(Backbone(nn.Identity(), 4, TextInput((), 8), ()))


def test_patches_are_where_a_channel_responds_most():
    pixels = torch.full((12, 3, 16, 16), 60, dtype=torch.uint8)
    targets = torch.arange(12) % 2
    pixels[targets == 1, 0, 2:6, 10:14] = 250  # a red square
    net = backbone()
    net.module.first.weight.data = torch.zeros(5, 3, 1, 1)
    net.module.first.weight.data[3, 0] = 1.0
    net.module.first.bias.data.zero_()
    inputs = Images(pixels, SPEC, torch.arange(12))
    examples = Examples(list(pixels), ["red" if t else "grey" for t in targets.tolist()], "squares")
    data, examined = LabelledDataset(inputs, targets), Examined(torch.arange(12), pixels)
    part = Part("train", Prepared(examples, inputs), tuple(range(12)), data, None, targets, pixels, examined)
    channels = patches.top_patches(net, part, range(12))
    assert channels[0].stage == 1
    assert channels[0].channel == 3
    assert channels[0].field == pytest.approx(1 / 16)
    assert {patch.item.truth for patch in channels[0].patches} == {"red"}
    assert all(patch.picture[..., 0].max() == 250 for patch in channels[0].patches)


def test_tokens_become_a_map_without_the_class_token():
    tokens = random(2, 10, 6)
    found = patches.as_map(tokens, "NTC", (3, 3))
    assert found.shape == (2, 6, 3, 3)
    torch.testing.assert_close(found[1, :, 0, 2], tokens[1, 3])
    assert patches.as_map(tokens, "NTC", (4, 4)) is None
    assert patches.as_map(tokens, "NTC", None) is None


def test_nearest_examples_are_by_the_angle_around_the_mean():
    train = random(30, 8) + 100
    found = neighbours.nearest(train, train[[4]] * 2 - train.mean(0))
    assert found[0][0] == (4, pytest.approx(1))
    assert len(found[0]) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the film  was great, and lovely", ("the", "film", "was", "great,", "and", "lovely")),
        (("the film", "was great"), ("the", "film", "was", "great")),
        (["the", "film"], ("the", "film")),
    ],
)
def test_words_have_the_sum_of_their_tokens(text, expected):
    tokenizer = words.tokenizer()
    spans = texts.token_spans(text, tokenizer, length=12, truncation="head")
    found = word_saliency.by_word(text, spans, torch.ones(len(spans)))
    assert tuple(word for word, _ in found) == expected
    assert sum(share for _, share in found) == sum(span is not None for span in spans)


@pytest.mark.parametrize("truncation", ["head", "tail", "head-tail"])
def test_spans_are_those_of_the_tokens_that_truncation_keeps(truncation):
    tokenizer, text = words.tokenizer(), "the film was and a very plot cast ending music"
    spans = texts.token_spans(text, tokenizer, length=6, truncation=truncation)
    found = texts.tokenise([text], TextInput((), 6), tokenizer, length=6, truncation=truncation)
    named = [tokenizer.fast.token_to_id(text[slice(*span[1])]) for span in spans if span]
    assert named == found.ids[1:-1].tolist()


def part_of(values, targets):
    features = torch.zeros(len(values), 2)
    examined = Examined(torch.arange(len(values)), features)
    return Part("valid", None, tuple(range(len(values))), None, values, targets, features, examined)


def test_contrasts_are_the_wrong_answer_against_the_truth_and_right_ones_against_the_next():
    outputs = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.5], [0.0, 5.0, 4.0]])
    wrong, *right = chosen(Classify(("a", "b", "c")), part_of(outputs, torch.tensor([1, 1, 1])))
    assert (wrong.index, wrong.towards, wrong.against, wrong.wrong) == (0, "a", "b", True)
    assert float(outputs[0] @ wrong.weight) == 2
    assert [(each.index, each.towards, each.against, each.wrong) for each in right] == [(2, "b", "c", False)]


def test_contrasts_of_other_tasks_speak_of_the_wrong_label_word_or_number():
    outputs = torch.tensor([[2.0, -3.0]])
    (found,) = chosen(Multilabel(("x", "y")), part_of(outputs, torch.tensor([[1.0, 1.0]])))
    assert (found.towards, found.against, found.weight.tolist()) == ("not y", "y", [0, -1])
    (found,) = chosen(Regress((1.0,), (10.0,)), part_of(torch.tensor([[0.5]]), torch.tensor([[2.0]])))
    assert (found.towards, found.against, found.weight.tolist()) == ("lower", "higher", [-10])
    rows = [torch.tensor([[1.0, 0.0], [0.0, 4.0]])]
    (found,) = chosen(Tag(("O", "B-X")), part_of(rows, [torch.tensor([0, 0])]))
    assert (found.word, found.towards, found.against) == (1, "B-X", "O")
