"""The fine-tuning engine: freezing, learning rates by stage, greedy soups, time limits, memory, reports."""

from __future__ import annotations

from contextlib import nullcontext

import pictures
import pytest
import torch
from torch import nn

import zoo
from zoo.errors import RecipeError
from zoo.finetune.defaults import Setting, resolve
from zoo.finetune.features.frozen_prefix import Replay
from zoo.finetune.inference import Measurement, Outputs
from zoo.finetune.network import Network
from zoo.finetune.recipe import Recipe
from zoo.finetune.runtime.memory import is_out_of_memory
from zoo.finetune.training import lr_finder, optimizer
from zoo.finetune.training.best_weights import BestWeights, Candidate, average, greedy_soup
from zoo.tasks import Classify

DATA = pictures.pairs(8)
QUICK = {"steps": 6, "evals": 2, "batch_size": 8}


def state(model) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.backbone.module.state_dict().items()}


def changed(model, before) -> set[str]:
    """Return the names of the tensors that differ from before."""
    return {name for name, value in model.backbone.module.state_dict().items() if not torch.equal(value, before[name])}


def stage_of(model, name: str) -> int:
    stages = model.backbone.stages
    return next(i for i, stage in enumerate(stages) for part in stage if name == part or name.startswith(f"{part}."))


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
@pytest.mark.parametrize("batchnorm", ["frozen", "train"])
def test_frozen_stages_stay_bit_identical(pretrained, augment, batchnorm):
    model = zoo.load(pretrained, "cpu")
    before = state(model)
    model.finetune(DATA, strategy="full", freeze_stages=2, augment=augment, batchnorm=batchnorm, valid=0, **QUICK)
    found = {stage_of(model, name) for name in changed(model, before)}
    assert found == set(range(2, len(model.backbone.stages)))


def test_cached_prefix_gives_the_same_losses(pretrained, capsys, monkeypatch):
    settings = {"strategy": "full", "freeze_stages": 3, "augment": "none", **QUICK}
    model = zoo.load(pretrained, "cpu").finetune(DATA, **settings)
    assert "stages run once" in capsys.readouterr().out
    monkeypatch.setattr(
        "zoo.finetune.strategies.frozen_prefix",
        lambda backbone, datasets, *_, **__: nullcontext(Replay(tuple(datasets), "")),
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
        ({"freeze_stages": 99}, r"freeze_stages=99, and this backbone has \d+ stages\nfix: freeze_stages=\d+"),
        ({"freeze_stages": 1, "strategy": "lora"}, r'freeze_stages=1 is for strategy="full"'),
    ],
)
def test_fields_that_do_not_fit_the_strategy_raise(pretrained, fields, message):
    with pytest.raises(RecipeError, match=message):
        zoo.load(pretrained, "cpu").finetune(DATA, **{"strategy": "full", **QUICK, **fields})


def hyperparameters(**fields):
    return resolve(Recipe(strategy="full", **fields), Setting(100, image_size=32))


def net() -> Network:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 4))
    return Network(backbone, nn.Linear(4, 2), stages=(("0",), ("1",), ("2",)))


def test_learning_rate_decays_by_stage_and_vectors_have_no_weight_decay():
    hp = hyperparameters(lr=1.0, backbone_lr=0.8, layer_decay=0.5, weight_decay=0.1)
    network = net()
    groups = optimizer.build(network, hp).param_groups
    found = {id(p): (group["peak"], group["weight_decay"]) for group in groups for p in group["params"]}
    names = dict(network.named_parameters())
    expected = {"backbone.0": 0.2, "backbone.1": 0.4, "backbone.2": 0.8, "head": 1.0}
    for part, rate in expected.items():
        assert found[id(names[f"{part}.weight"])] == (pytest.approx(rate), 0.1)
        assert found[id(names[f"{part}.bias"])] == (pytest.approx(rate), 0.0)


@pytest.mark.parametrize(("schedule", "middle"), [("cosine", 0.5), ("linear", 0.5)])
def test_learning_rate_warms_up_and_decays(schedule, middle):
    hp = hyperparameters(steps=100, warmup_ratio=0.2, schedule=schedule)
    shares = [optimizer.lr_factor(step, hp) for step in range(100)]
    assert shares[0] == pytest.approx(1 / 20)
    assert max(shares) == shares[19] == 1
    assert shares[60] == pytest.approx(middle)
    assert shares[-1] < 0.02


def test_non_finite_loss_raises_with_the_names_of_the_batch(pretrained):
    names = []

    def poison(module, inputs, output):
        names.append(1)
        return output._replace(pooled=output.pooled * float("nan")) if len(names) > 2 else output

    model = zoo.load(pretrained, "cpu")
    model.backbone.module.register_forward_hook(poison)
    with pytest.raises(RecipeError, match=r"the loss is nan at step 3, on image \d+, image \d+.*\nfix: a smaller"):
        model.finetune(DATA, strategy="full", valid=0, **QUICK)


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_losses(pretrained, capsys):
    settings = {"strategy": "full", "valid": 0, "augment": "none", **QUICK}
    expected = zoo.load(pretrained, "cpu").finetune(DATA, **settings)
    model = zoo.load(pretrained, "cpu")

    def small(module, inputs):
        if len(inputs[0]) > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    model.backbone.module.register_forward_pre_hook(small)
    model.finetune(DATA, **settings)
    said = capsys.readouterr().out
    assert "memory    out of memory: micro-batches of 4, 8 examples a step as before" in said
    assert "memory    out of memory: micro-batches of 2, 8 examples a step as before" in said
    for ours, theirs in zip(model.history, expected.history, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_memory_too_small_for_one_example_raises(pretrained):
    def full(module, inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = zoo.load(pretrained, "cpu")
    model.backbone.module.register_forward_pre_hook(full)
    with pytest.raises(RecipeError, match=r"memory is too small .*\nfix: a smaller batch_size"):
        model.finetune(DATA, strategy="full", valid=0, **QUICK)


def test_out_of_memory_halves_the_inference_batch(pretrained):
    model = zoo.load(pretrained, "cpu")
    expected = model.embed([pixels for pixels, _ in DATA])

    def small(module, inputs):
        if len(inputs[0]) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.backbone.module.register_forward_pre_hook(small)
    torch.testing.assert_close(model.embed([pixels for pixels, _ in DATA]), expected)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_max_time_reduces_the_steps(pretrained, capsys):
    model = zoo.load(pretrained, "cpu").finetune(DATA, strategy="full", max_time="3s", steps=100_000, evals=2)
    assert "steps fit into" in capsys.readouterr().out
    assert model.recipe.steps < 100_000
    assert model.training["seconds"] < 8


def test_probe_features_are_cached(pretrained, monkeypatch, capsys):
    monkeypatch.setattr("zoo.finetune.features.feature_cache.WORTH", 0.0)
    first = zoo.load(pretrained, "cpu").finetune(DATA, strategy="probe")
    model = zoo.load(pretrained, "cpu")
    calls = []
    model.backbone.module.register_forward_hook(lambda *_: calls.append(1))
    again = model.finetune(DATA, strategy="probe", l2=first.recipe.l2)
    assert len(calls) == 3  # of the search for stages that can be pooled, on random inputs
    assert again.metrics == first.metrics
    assert "from the feature cache" in capsys.readouterr().out
    zoo.load(pretrained, "cpu").finetune(pictures.pairs(7), strategy="probe")
    assert "computed once" in capsys.readouterr().out


def test_views_of_one_image_share_a_fold(pretrained, capsys):
    model = zoo.load(pretrained, "cpu").finetune(DATA, strategy="probe", views=3)
    assert "54 features" in capsys.readouterr().out  # 18 training images, three times
    assert model.metrics["accuracy"] > 0.5


def test_test_data_is_measured_at_the_end(pretrained, tmp_path, capsys):
    model = zoo.load(pretrained, "cpu").finetune(DATA, strategy="full", test=0.25, **QUICK)
    assert model.summary.train + model.summary.valid == 18
    assert model.summary.test == 6
    assert set(model.tested) == set(model.metrics)
    said = capsys.readouterr().out
    assert "(6 test examples, not used for any choice)" in said
    assert "best of several" not in said
    own = zoo.load(pretrained, "cpu").finetune(DATA, strategy="full", test=pictures.pairs(2, seed=9), **QUICK)
    assert own.tested == own.evaluate(pictures.pairs(2, seed=9))


def test_report_says_that_the_best_evaluation_was_selected(pretrained, capsys):
    zoo.load(pretrained, "cpu").finetune(DATA, strategy="full", **QUICK)
    assert "the best of several by this very data: test=0.2 keeps some apart" in capsys.readouterr().out


def test_lr_finder_suggests_a_rate_and_restores_the_model(pretrained):
    model = zoo.load(pretrained, "cpu")
    before, modes = state(model), [part.training for part in model.backbone.module.modules()]
    found = model.find_lr(DATA, batch_size=8)
    assert 1e-5 < found.lr < 1
    assert list(found.rates) == sorted(found.rates)
    assert len(found.rates) == len(found.losses)
    assert not changed(model, before)
    assert modes == [part.training for part in model.backbone.module.modules()]


@pytest.mark.parametrize("strategy", ["full", "lp-ft", "lora"])
def test_lr_finder_trains_only_what_the_strategy_trains(pretrained, strategy):
    model = zoo.load(pretrained, "cpu")
    parameters = dict(model.backbone.module.named_parameters())
    first = next(iter(parameters.values())).requires_grad_(False)  # as somebody left it
    before, trained = state(model), []
    model.backbone.module.register_forward_pre_hook(
        lambda module, _: trained.extend(
            stage_of(model, name)
            for name, p in module.named_parameters()
            if p.requires_grad and "lora" not in name and torch.is_grad_enabled()
        )
    )
    settings = {} if strategy == "lora" else {"freeze_stages": 2}
    model.find_lr(DATA, strategy=strategy, batch_size=8, augment="none", **settings)
    assert set(trained) == (set() if strategy == "lora" else set(range(2, len(model.backbone.stages))))
    assert not changed(model, before)
    assert not first.requires_grad
    assert all(p.requires_grad for p in list(parameters.values())[1:])


def test_lr_finder_explains_why_a_probe_has_no_rate(pretrained):
    with pytest.raises(RecipeError, match=r'strategy="probe" has no learning rate: its head is solved\nfix: strategy='):
        zoo.load(pretrained, "cpu").find_lr(DATA, strategy="probe")


def test_lr_finder_ignores_noise_of_the_first_batches():
    rates = [10 ** (-7 + 7 * step / 99) for step in range(100)]
    falls = [1 / (1 + (rate / 1e-3) ** 2) for rate in rates]  # steepest per decade at 1e-3
    noise = torch.randn(100, generator=torch.Generator().manual_seed(0)).mul(0.02).tolist()
    first = [0.5 * (step == 3) - 0.5 * (step == 5) for step in range(100)]  # of single batches, at the beginning
    losses = [sum(parts) for parts in zip(falls, noise, first, strict=True)]
    assert 3e-4 < lr_finder._steepest(rates, losses) < 3e-3
    with pytest.raises(RecipeError, match="falls at no learning rate"):
        lr_finder._steepest(rates, [1.0] * 100)


def task_and_net():
    task = Classify((0, 1))
    network = Network(nn.Identity(), nn.Linear(1, 2))
    return task, network


def outputs(count: int) -> Outputs:
    return Outputs(torch.zeros(count, 2), torch.zeros(count, dtype=torch.long))


def offered(pairs, examples):
    """Return the best weights of evaluations with these accuracies and losses, and since_best after each."""
    task, network = task_and_net()
    best, since = BestWeights(), []
    for number, (accuracy, loss) in enumerate(pairs):
        found = Measurement({"accuracy": accuracy, "loss": loss}, outputs(examples))
        best.offer(Candidate.of(f"{number}", number, task, found), network)
        since.append(best.since_best)
    return best, since


@pytest.mark.parametrize(("examples", "step"), [(40, 1), (4_000, 0)])
def test_accuracies_closer_than_the_validation_data_resolves_are_ranked_by_loss(examples, step):
    """One of 40 examples more is chance, with a loss twice as high; 100 of 4,000 are not."""
    best, _ = offered([(0.725, 1.89), (0.70, 0.74)], examples)
    assert best.first.step == step


def test_loss_decides_nothing_beyond_the_resolution():
    best, _ = offered([(0.5, 0.1), (0.9, 0.5)], 40)
    assert best.first.metrics == {"accuracy": 0.9, "loss": 0.5}


def test_patience_counts_evaluations_without_a_better_metric_or_loss():
    """While the loss falls a network is learning, though its accuracy was higher by chance at first."""
    _, since = offered([(0.3, 2.3), (0.1, 2.2), (0.1, 2.0), (0.1, 2.1), (0.1, 2.0), (0.6, 2.5)], 40)
    assert since == [0, 0, 0, 1, 2, 0]


@pytest.mark.parametrize(("warmup_ratio", "last"), [(0.0, 10), (0.5, 28)])
def test_patience_does_not_count_evaluations_of_the_warm_up(pretrained, monkeypatch, warmup_ratio, last):
    """No evaluation is better than the first, so patience=4 ends the run four evaluations after the warm-up."""
    found = Measurement({"accuracy": 0.5, "macro_f1": 0.5, "loss": 1.0}, outputs(6))
    monkeypatch.setattr("zoo.finetune.training.loop.measure", lambda *_, **__: found)
    settings = {"steps": 40, "evals": 20, "patience": 4, "warmup_ratio": warmup_ratio, "calibrate": False}
    model = zoo.load(pretrained, "cpu").finetune(DATA, strategy="full", **{**QUICK, **settings})
    assert model.history[-1]["step"] == last


def test_soup_is_kept_only_if_it_improves_validation():
    task, network = task_and_net()
    states = [{"head.weight": torch.tensor([[x], [-x]]), "head.bias": torch.zeros(2)} for x in (1.0, 3.0, -8.0)]
    best = BestWeights(3)
    for number, (each, accuracy) in enumerate(zip(states, (0.8, 0.7, 0.6), strict=True)):
        network.load_state_dict(each)
        found = Measurement({"accuracy": accuracy, "loss": 1.0}, outputs(100))
        best.offer(Candidate.of(f"{number}", number, task, found), network)

    def measure():
        gain = abs(float(network.head.weight.detach()[0, 0]) - 2.0)  # the mean of the first two is best
        return Measurement({"accuracy": 0.9 - gain, "loss": 1.0}, outputs(100))

    assert greedy_soup(best, network, task, measure) == 2
    assert float(network.head.weight[0, 0]) == 2.0
    assert best.kept[0].metrics["accuracy"] == pytest.approx(0.9)


def test_average_keeps_integer_tensors():
    one, two = ({"w": torch.full((2,), x), "count": torch.tensor(int(x))} for x in (1.0, 3.0))
    assert average([one, two])["w"].tolist() == [2.0, 2.0]
    assert average([one, two])["count"] == 1
