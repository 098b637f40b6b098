"""The fine-tuning engine: freezing, rates by stage, averages, budgets, memory, honest endings."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pictures
import pytest
import torch
from torch import nn

import zoo
from zoo.errors import RecipeError
from zoo.finetune.defaults import Situation, settle
from zoo.finetune.features.frozen_prefix import Replay
from zoo.finetune.memory import is_full
from zoo.finetune.network import Network
from zoo.finetune.recipe import Recipe, seconds
from zoo.finetune.training import lr_finder, optimizer
from zoo.finetune.training.best_weights import Best, average, beyond_noise, measured, stirred
from zoo.tasks import Classify

DATA = pictures.pairs(8)
QUICK = {"steps": 6, "evals": 2, "batch_size": 8, "autotune": False}


def state(model) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.backbone.module.state_dict().items()}


def changed(model, before) -> set[str]:
    """Return the names of what is no longer as it was."""
    return {name for name, value in model.backbone.module.state_dict().items() if not torch.equal(value, before[name])}


def stage_of(model, name: str) -> int:
    stages = model.backbone.stages
    return next(i for i, stage in enumerate(stages) for part in stage if name == part or name.startswith(f"{part}."))


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_frozen_stages_stay_bit_identical(pretrained, augment, norm):
    model = zoo.load(pretrained, "cpu")
    before = state(model)
    model.finetune(DATA, strategy="full", freeze=2, augment=augment, norm=norm, **QUICK)
    found = {stage_of(model, name) for name in changed(model, before)}
    assert found == set(range(2, len(model.backbone.stages)))


def test_a_cached_prefix_changes_nothing_but_the_time(pretrained, capsys, monkeypatch):
    settings = {"strategy": "full", "freeze": 3, "augment": "none", **QUICK}
    model = zoo.load(pretrained, "cpu").finetune(DATA, **settings)
    assert "stages run once" in capsys.readouterr().out
    monkeypatch.setattr(
        "zoo.finetune.strategies.replayed", lambda backbone, sets, *_, **__: nullcontext(Replay(tuple(sets), "", False))
    )
    other = zoo.load(pretrained, "cpu").finetune(DATA, **settings)
    for ours, theirs in zip(model.history, other.history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_gradual_trains_the_last_stages_first(pretrained, capsys):
    model = zoo.load(pretrained, "cpu")
    trained = []
    model.backbone.module.register_forward_pre_hook(
        lambda module, _: (
            trained.append(sum(p.requires_grad for p in module.parameters())) if torch.is_grad_enabled() else None
        )
    )
    model.finetune(DATA, strategy="gradual", augment="none", **QUICK)
    assert trained == sorted(trained)
    assert len(set(trained)) == 3
    assert [row["step"] for row in model.history] == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"freeze": 99}, r"freeze=99, and this backbone has \d+ stages\nfix: freeze=\d+"),
        ({"freeze": 1, "strategy": "lora"}, r'freeze=1 is for strategy="full"'),
        ({"budget": "soon"}, r"budget='soon' is no span of time\nfix: budget=\"90s\""),
        ({"budget": 0}, "budget=0 is no span of time"),
        ({"layer_decay": 2}, "layer_decay=2 is not a share above 0 up to 1"),
        ({"mix": "cutmix2"}, "mix='cutmix2' is not one of"),
    ],
)
def test_settings_that_make_no_sense_are_told(pretrained, fields, message):
    with pytest.raises(RecipeError, match=message):
        zoo.load(pretrained, "cpu").finetune(DATA, **{"strategy": "full", **QUICK, **fields})


def test_spans_of_time():
    assert [seconds(span) for span in (None, 5, "5", "90s", "5m", "1.5h")] == [None, 5, 5, 90, 300, 5400]


def net() -> Network:
    torch.manual_seed(0)
    return Network(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 4)), nn.Linear(4, 2))


def test_each_stage_has_its_share_of_the_rate_and_vectors_do_not_decay():
    recipe = Recipe(lr=1.0, backbone_lr=0.8, layer_decay=0.5, weight_decay=0.1)
    network = net()
    groups = optimizer.optimizer(network, recipe, (("0",), ("1",), ("2",))).param_groups
    found = {id(p): (group["peak"], group["weight_decay"]) for group in groups for p in group["params"]}
    names = dict(network.named_parameters())
    expected = {"backbone.0": 0.2, "backbone.1": 0.4, "backbone.2": 0.8, "head": 1.0}
    for part, rate in expected.items():
        assert found[id(names[f"{part}.weight"])] == (pytest.approx(rate), 0.1)
        assert found[id(names[f"{part}.bias"])] == (pytest.approx(rate), 0.0)


@pytest.mark.parametrize(("schedule", "middle"), [("cosine", 0.5), ("linear", 0.5)])
def test_the_rate_rises_and_falls(schedule, middle):
    recipe = Recipe(steps=100, warmup=0.2, schedule=schedule)
    shares = [optimizer.share(step, recipe) for step in range(100)]
    assert shares[0] == pytest.approx(1 / 20)
    assert max(shares) == shares[19] == 1
    assert shares[60] == pytest.approx(middle)
    assert shares[-1] < 0.02


def test_training_names_the_batch_whose_loss_is_not_finite(pretrained):
    names = []

    def poison(module, inputs, output):
        names.append(1)
        return output._replace(pooled=output.pooled * float("nan")) if len(names) > 2 else output

    model = zoo.load(pretrained, "cpu")
    model.backbone.module.register_forward_hook(poison)
    with pytest.raises(RecipeError, match=r"the loss is nan at step 3, on image \d+, image \d+.*\nfix: a smaller rate"):
        model.finetune(DATA, strategy="full", valid=0, **QUICK)


def test_a_full_memory_halves_what_runs_at_once_and_changes_nothing(pretrained, capsys):
    settings = {"strategy": "full", "valid": 0, "augment": "none", **QUICK}
    expected = zoo.load(pretrained, "cpu").finetune(DATA, **settings)
    model = zoo.load(pretrained, "cpu")

    def small(module, inputs):
        if len(inputs[0]) > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    model.backbone.module.register_forward_pre_hook(small)
    model.finetune(DATA, **settings)
    said = capsys.readouterr().out
    assert "memory    full: 4 examples at once now, 8 a step as before" in said
    assert "memory    full: 2 examples at once now, 8 a step as before" in said
    for ours, theirs in zip(model.history, expected.history, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_a_memory_that_is_too_small_is_told(pretrained):
    def full(module, inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = zoo.load(pretrained, "cpu")
    model.backbone.module.register_forward_pre_hook(full)
    with pytest.raises(RecipeError, match=r"memory is too small .*\nfix: a smaller batch_size"):
        model.finetune(DATA, strategy="full", valid=0, **QUICK)


def test_features_are_made_with_less_memory_too(pretrained):
    model = zoo.load(pretrained, "cpu")
    expected = model.embed([pixels for pixels, _ in DATA])

    def small(module, inputs):
        if len(inputs[0]) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.backbone.module.register_forward_pre_hook(small)
    torch.testing.assert_close(model.embed([pixels for pixels, _ in DATA]), expected)
    assert not is_full(RuntimeError("shapes do not match"))


def test_a_budget_is_kept(pretrained, capsys):
    model = zoo.load(pretrained, "cpu").finetune(DATA, strategy="full", budget="3s", steps=100_000, evals=2)
    assert "steps fit into" in capsys.readouterr().out
    assert model.recipe.steps < 100_000
    assert model.data["seconds"] < 8


def test_probe_features_are_known_the_second_time(pretrained, monkeypatch, capsys):
    monkeypatch.setattr("zoo.finetune.features.feature_cache.WORTH", 0.0)
    first = zoo.load(pretrained, "cpu").finetune(DATA, strategy="probe")
    model = zoo.load(pretrained, "cpu")
    calls = []
    model.backbone.module.register_forward_hook(lambda *_: calls.append(1))
    again = model.finetune(DATA, strategy="probe", l2=first.recipe.l2)
    assert calls == []
    assert again.metrics == first.metrics
    assert "known from an earlier run" in capsys.readouterr().out
    zoo.load(pretrained, "cpu").finetune(pictures.pairs(7), strategy="probe")
    assert "computed once" in capsys.readouterr().out


def test_views_are_kept_together_when_the_penalty_is_chosen(pretrained, capsys):
    model = zoo.load(pretrained, "cpu").finetune(DATA, strategy="probe", views=3)
    assert "54 features" in capsys.readouterr().out  # 18 training images, three times
    assert model.metrics["accuracy"] > 0.5


def test_a_test_set_is_measured_once_at_the_end(pretrained, tmp_path, capsys):
    model = zoo.load(pretrained, "cpu").finetune(DATA, strategy="full", test=0.25, **QUICK)
    assert model.data["examples"] + model.data["valid"] == 18
    assert set(model.tested) == set(model.metrics)
    said = capsys.readouterr().out
    assert "(6 examples by which nothing was chosen)" in said
    assert "best of several" not in said
    own = zoo.load(pretrained, "cpu").finetune(DATA, strategy="full", test=pictures.pairs(2, seed=9), **QUICK)
    assert own.tested == own.evaluate(pictures.pairs(2, seed=9))


def test_selection_on_validation_data_is_said(pretrained, capsys):
    zoo.load(pretrained, "cpu").finetune(DATA, strategy="full", **QUICK)
    assert "the best of several by this very data: test=0.2 keeps some apart" in capsys.readouterr().out


def test_a_finder_suggests_a_rate_and_puts_everything_back(pretrained):
    model = zoo.load(pretrained, "cpu")
    before, modes = state(model), [part.training for part in model.backbone.module.modules()]
    found = model.find_lr(DATA, batch_size=8)
    assert 1e-5 < found.lr < 1
    assert list(found.rates) == sorted(found.rates)
    assert len(found.rates) == len(found.losses)
    assert not changed(model, before)
    assert modes == [part.training for part in model.backbone.module.modules()]
    with pytest.raises(RecipeError, match="a probe is solved"):
        model.find_lr(DATA, strategy="probe")


def test_a_finder_takes_no_chance_for_a_fall():
    rates = [10 ** (-7 + 7 * step / 99) for step in range(100)]
    falls = [1 / (1 + (rate / 1e-3) ** 2) for rate in rates]  # fastest per decade at 1e-3
    chance = torch.randn(100, generator=torch.Generator().manual_seed(0)).mul(0.02).tolist()
    first = [0.5 * (step == 3) - 0.5 * (step == 5) for step in range(100)]  # what single batches do to the first means
    losses = [sum(parts) for parts in zip(falls, chance, first, strict=True)]
    assert 3e-4 < lr_finder._steepest(rates, losses) < 3e-3
    with pytest.raises(RecipeError, match="falls at no learning rate"):
        lr_finder._steepest(rates, [1.0] * 100)


def task_and_net():
    task = Classify((0, 1))
    network = Network(nn.Identity(), nn.Linear(1, 2))
    return task, network


def test_a_soup_is_kept_only_when_it_wins():
    task, network = task_and_net()
    states = [{"head.weight": torch.tensor([[x], [-x]]), "head.bias": torch.zeros(2)} for x in (1.0, 3.0, -8.0)]
    best = Best(3)
    for number, (each, accuracy) in enumerate(zip(states, (0.8, 0.7, 0.6), strict=True)):
        network.load_state_dict(each)
        best.offer(measured(f"{number}", number, task, {"accuracy": accuracy, "loss": 1.0}, None), network)

    def measure():
        gain = abs(float(network.head.weight.detach()[0, 0]) - 2.0)  # the mean of the first two is best
        return {"accuracy": 0.9 - gain, "loss": 1.0}, None

    assert stirred(best, network, task, measure) == 2
    assert float(network.head.weight[0, 0]) == 2.0
    assert best.kept[0].metrics["accuracy"] == pytest.approx(0.9)


def test_an_average_leaves_whole_numbers_alone():
    one, two = ({"w": torch.full((2,), x), "count": torch.tensor(int(x))} for x in (1.0, 3.0))
    assert average([one, two])["w"].tolist() == [2.0, 2.0]
    assert average([one, two])["count"] == 1


def test_a_win_has_to_exceed_its_standard_error():
    targets = torch.zeros(100, dtype=torch.long)
    right, wrong = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])

    def guesses(hits):
        return torch.stack([right if hit else wrong for hit in hits])

    before = guesses([True] * 90 + [False] * 10)
    assert beyond_noise(before, guesses([True] * 95 + [False] * 5), targets)  # five better, none worse
    assert not beyond_noise(before, before, targets)
    mixed = guesses([False] * 4 + [True] * 92 + [False] * 4)  # six better, four worse: 2 < sqrt(10)
    assert not beyond_noise(before, mixed, targets)


def test_rates_of_vision_transformers_fall_towards_the_input():
    now = Situation(examples=500, image_size=224, stages=14, norms=False)
    assert settle(Recipe(strategy="full"), now).layer_decay == 0.75
    assert settle(Recipe(strategy="full", layer_decay=0.9), now).layer_decay == 0.9
    assert math.isclose(settle(Recipe(strategy="full"), Situation(examples=500, image_size=224)).layer_decay or 0, 1.0)


def test_few_photos_are_probed_by_several_views():
    few = Situation(examples=142, image_size=224)
    assert settle(Recipe(), few).views == 4
    assert settle(Recipe(views=1), few).views == 1
    assert settle(Recipe(augment="none"), few).views == 1
    assert settle(Recipe(), Situation(examples=5_000, image_size=224)).views == 1
    assert settle(Recipe(), Situation(examples=142, image_size=28)).views == 1


def test_many_photos_are_varied_and_mixed_and_few_are_not():
    many, few = Situation(examples=50_000, image_size=224), Situation(examples=500, image_size=224)
    recipe = Recipe(strategy="full")
    assert (settle(recipe, many).augment, settle(recipe, many).mix) == ("rand", "both")
    assert (settle(recipe, few).augment, settle(recipe, few).mix) == ("crop-flip", "none")
