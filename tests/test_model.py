"""zoo.model.model end to end on tiny networks: load, finetune, evaluate, predict, embed, save, reload."""

from __future__ import annotations

import json

import pictures
import pytest
import torch

import zoo
from zoo.errors import ArtefactError, DataError, NameNotFound, RecipeError, ZooError
from zoo.finetune.freezing import eval_mode


@pytest.fixture
def name(isolated):
    return pictures.catalogue(isolated)


def state(model) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.backbone.module.state_dict().items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_finetune_save_and_load_round_trip(name, tmp_path, capsys):
    model = zoo.load(name, "cpu")
    trained = model.finetune(pictures.pairs(12), strategy="scratch", steps=60, batch_size=16, out=tmp_path / "m")
    assert trained is model
    assert model.metrics["accuracy"] > 0.8
    again = zoo.load(tmp_path / "m", "cpu")
    inputs = [pixels for pixels, _ in pictures.pairs(3, seed=1)]
    assert again.predict(inputs) == model.predict(inputs)
    assert torch.equal(again.embed(inputs), model.embed(inputs))
    assert again.evaluate(pictures.pairs(3, seed=1)) == model.evaluate(pictures.pairs(3, seed=1))
    output = capsys.readouterr().out
    assert "36 images, 3 classes -> classify; 20 % held out for validation (stratified, seed 0)" in output
    assert "majority class 0.333" in output


def test_probe_keeps_the_backbone_bit_identical(pretrained):
    model = zoo.load(pretrained, "cpu")
    before = state(model)
    model.finetune(pictures.pairs(5, ("red", "grey"), seed=2), strategy="probe")
    assert equal(before, state(model))
    assert model.metrics["accuracy"] == 1.0


def test_probe_runs_the_backbone_once_per_example(pretrained):
    model = zoo.load(pretrained, "cpu")
    seen = []
    model.backbone.module.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    model.finetune(pictures.pairs(5), strategy="probe", valid=0)
    assert sum(seen) == 15 + 2 * 2 + 3  # two random batches, one of them twice, show which stages can be pooled


def test_full_trains_all_parameters_and_freezes_batchnorm_statistics(pretrained):
    model = zoo.load(pretrained, "cpu")
    before = state(model)
    model.finetune(pictures.pairs(6, seed=3), strategy="full", steps=5, valid=0)
    after = state(model)
    parameters = {key for key, _ in model.backbone.module.named_parameters()}
    assert all(not torch.equal(before[key], after[key]) for key in parameters)
    assert all(torch.equal(before[key], after[key]) for key in before.keys() - parameters)


def test_batchnorm_train_updates_running_statistics(pretrained):
    model = zoo.load(pretrained, "cpu")
    before = state(model)
    model.finetune(pictures.pairs(6, seed=3), strategy="full", steps=5, valid=0, batchnorm="train")
    assert not torch.equal(before["bn1.running_mean"], state(model)["bn1.running_mean"])


def test_scratch_reinitialises_the_weights(pretrained):
    one, other = zoo.load(pretrained, "cpu"), zoo.load(pretrained, "cpu")
    other.finetune(pictures.pairs(6), strategy="full", steps=3, valid=0)
    for model in (one, other):
        model.finetune(pictures.pairs(4), strategy="scratch", steps=3, valid=0)
    assert equal(state(one), state(other))


@pytest.mark.parametrize("strategy", ["scratch", "probe", "full"])
def test_bf16_training_keeps_float32_parameters(pretrained, strategy):
    model = zoo.load(pretrained, "cpu").finetune(pictures.pairs(8), strategy=strategy, steps=20, precision="bf16")
    assert {p.dtype for p in model.backbone.module.parameters()} == {torch.float32}
    assert model.metrics["accuracy"] > 0.5
    assert model.evaluate(pictures.pairs(8))["accuracy"] > 0.5


def test_predict_does_not_cache_decoded_images(pretrained, tmp_path):
    root = pictures.folder(tmp_path / "data", 1)
    zoo.load(pretrained, "cpu").predict([root / "red" / "002.png"])
    assert not (tmp_path / "store" / "cache").exists()


@pytest.mark.parametrize("strategy", ["scratch", "probe", "full"])
def test_same_seed_gives_a_bit_identical_model(pretrained, strategy):
    models = [zoo.load(pretrained, "cpu") for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        torch.rand(3)  # advance the global generator: it must not matter
        model.finetune(pictures.pairs(8), strategy=strategy, steps=6, seed=seed, augment="shift")
    first, again, other = models
    assert equal(state(first), state(again))
    assert equal(first.head.state_dict(), again.head.state_dict())
    assert first.history == again.history
    assert not equal(first.head.state_dict(), other.head.state_dict())


def test_finetune_does_not_change_the_global_random_state(pretrained):
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    zoo.load(pretrained, "cpu").finetune(pictures.pairs(4), strategy="full", steps=2, valid=0)
    assert torch.equal(torch.rand(2), expected)


def test_best_validation_weights_are_restored(pretrained):
    model = zoo.load(pretrained, "cpu")
    valid = pictures.pairs(6, seed=9)
    model.finetune(
        pictures.pairs(4), strategy="full", steps=20, valid=valid, lr=0.5, max_grad_norm=0, evals=20, patience=0
    )
    best = max(model.history, key=lambda row: (row["valid_accuracy"], -row["valid_loss"]))
    assert model.metrics["accuracy"] == best["valid_accuracy"]
    assert model.evaluate(valid) == pytest.approx(model.metrics)


def test_early_stopping_after_patience_evaluations(pretrained):
    model = zoo.load(pretrained, "cpu")
    model.finetune(pictures.pairs(8), strategy="full", steps=100, evals=50, patience=2, lr=1e-9)
    assert model.history[-1]["step"] < 100


def test_saved_model_can_be_finetuned_and_saved_again(pretrained, tmp_path):
    model = zoo.load(pretrained, "cpu").finetune(pictures.pairs(6, ("grey", "red")), strategy="full", steps=5)
    saved = model.save(tmp_path / "next")
    assert [p.label for p in zoo.load(saved).predict([pictures.array("grey", 7)])] == ["grey"]


def test_saved_model_in_a_catalogue_is_a_backbone(pretrained, isolated):
    (isolated / "zoo.toml").write_text(f'["mine/colours"]\nsaved = "{pretrained}"\n')
    model = zoo.load("mine/colours", "cpu")
    assert equal(state(model), state(zoo.load(pretrained, "cpu")))
    assert model.head is None
    model.finetune(pictures.pairs(5, ("blue", "grey")), strategy="probe")
    assert model.metrics["accuracy"] == 1.0


def test_saved_model_loads_without_catalogue_store_or_network(pretrained, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "nothing"))
    assert zoo.load(pretrained, "cpu").predict(pictures.array("red", 1)).label == "red"


def test_manifest_records_entry_task_recipe_and_data(pretrained):
    manifest = json.loads((pretrained / "zoo.json").read_text())
    assert manifest["format"] == 3
    assert manifest["task"] == {"name": "classify", "labels": ["blue", "green", "red"]}
    assert manifest["recipe"]["strategy"] == "scratch"
    assert manifest["data"]["train"] == 30
    assert set(manifest["files"]) == {"zoo.safetensors"}
    assert "tiny/net" in (pretrained / "README.md").read_text()


def test_predicted_probabilities_sum_to_one(pretrained):
    (answer,) = zoo.load(pretrained, "cpu").predict([pictures.array("green", 3)], top=3)
    assert answer.label == "green"
    assert sum(p for _, p in answer.top) == pytest.approx(1, abs=1e-5)


def test_greyscale_backbone_accepts_colour_images(isolated):
    model = zoo.load(pictures.catalogue(isolated, "grey", size=12, channels=1), "cpu")
    assert model.embed([pictures.array("red", 0, (30, 20))]).shape == (1, 16)


def test_finetune_evaluate_and_predict_on_an_image_folder(pretrained, tmp_path):
    root = pictures.folder(tmp_path / "data", 6)
    model = zoo.load(pretrained, "cpu").finetune(root, strategy="probe")
    assert model.evaluate(root)["accuracy"] == 1.0
    assert model.predict([str(root / "red" / "012.png")])[0].label == "red"


def test_eval_mode_restores_training_modes(pretrained):
    module = zoo.load(pretrained, "cpu").backbone.module.train()
    module.bn1.eval()
    with eval_mode(module):
        assert not any(part.training for part in module.modules())
    assert module.training
    assert not module.bn1.training


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"data": "nowhere"}, DataError, "nowhere does not exist"),
        ({"data": [("a.png", 1), ("b.png", 1)]}, DataError, "one class only"),
        ({"data": [("a.png", 1), ("b.png", 2)]}, DataError, "each class of .* has one example only"),
        ({"valid": 1.5}, DataError, "valid=1.5 is not a share"),
        ({"test": 1.5}, DataError, "test=1.5 is not a share between 0 and 1\nfix: test=0.2"),
        ({"valid": [(pictures.array("grey", 0), "grey")]}, DataError, "labels that .* does not have: grey"),
        ({"task": "detect"}, RecipeError, "task='detect' is not one of classify"),
        ({"strategy": "lora2"}, RecipeError, "strategy='lora2' is not one of"),
        ({"strategy": "full", "lr": float("inf")}, RecipeError, "lr=inf"),
    ],
)
def test_invalid_input_raises_before_training(pretrained, arguments, error, message):
    model = zoo.load(pretrained, "cpu")
    before = state(model)
    with pytest.raises(error, match=message):
        model.finetune(**({"data": pictures.pairs(3)} | arguments))
    assert equal(before, state(model))


def test_diverged_loss_raises_with_its_step(pretrained):
    with pytest.raises(RecipeError, match=r"the loss is (nan|inf) at step \d+.*\nfix: a smaller learning rate"):
        zoo.load(pretrained, "cpu").finetune(
            pictures.pairs(4),
            strategy="full",
            steps=30,
            valid=0,
            lr=1e9,
            optimizer="sgd",
            max_grad_norm=0,
            warmup_ratio=0,
        )


def test_probe_of_an_untrained_backbone_raises(name):
    with pytest.raises(RecipeError, match="needs pretrained weights"):
        zoo.load(name, "cpu").finetune(pictures.pairs(4), strategy="probe")


def test_predict_without_a_head_raises(name):
    with pytest.raises(RecipeError, match=r"tiny/net has no head yet.*\nfix: zoo\.load"):
        zoo.load(name, "cpu").predict([pictures.array("red", 0)])


@pytest.mark.parametrize("top", [0, -1, 1.5])
def test_invalid_top_raises(pretrained, top):
    with pytest.raises(RecipeError, match="is not a whole number above 0"):
        zoo.load(pretrained, "cpu").predict([pictures.array("red", 0)], top=top)


def test_predict_on_empty_input_raises(pretrained):
    with pytest.raises(DataError, match="nothing to predict"):
        zoo.load(pretrained, "cpu").predict([])


def test_unknown_device_raises(name):
    with pytest.raises(ZooError, match=r"device='tpu9' cannot be used.*\nfix: device=\"auto\""):
        zoo.load(name, "tpu9")


def test_load_of_a_folder_without_manifest_raises(tmp_path):
    with pytest.raises(ArtefactError, match="is not a saved model"):
        zoo.load(tmp_path)


def test_load_of_an_unknown_name_raises(isolated):
    with pytest.raises(NameNotFound):
        zoo.load("native/resnet19", "cpu")


def test_a_failed_save_leaves_the_model_without_a_folder(pretrained, tmp_path):
    model = zoo.load(pretrained, "cpu").finetune(pictures.pairs(4), strategy="probe", l2=0.1, quiet=True)
    taken = tmp_path / "taken"
    taken.write_text("mine")
    with pytest.raises(ArtefactError):
        model.save(taken)
    assert model.folder is None
    assert model.save(tmp_path / "model") == model.folder
