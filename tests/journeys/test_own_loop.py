"""Journey: the nn.Module of a model in one's own training loop, optimiser and state dict; images and texts."""

from __future__ import annotations

import pictures
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import zoo
from zoo.plugin import Features


def test_a_backbone_with_ones_own_head_learns(pretrained):
    backbone = zoo.load(pretrained, "cpu").backbone
    pairs = pictures.pairs(8)
    names = sorted({label for _, label in pairs})
    inputs = zoo.load(pretrained, "cpu").preprocess([image for image, _ in pairs])
    targets = torch.tensor([names.index(label) for _, label in pairs])
    network = nn.Sequential(Pooled(backbone.module), nn.Linear(backbone.dim, len(names)))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = cross_entropy(network.train()(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert (network.eval()(inputs).argmax(1) == targets).float().mean() > 0.9


class Pooled(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: Features = self.backbone(images)
        return features.pooled


def test_training_the_module_changes_what_the_model_predicts(pretrained, tmp_path):
    model = zoo.load(pretrained, "cpu")
    image, module = pictures.array("red", 0), model.module
    assert torch.allclose(module.eval()(model.preprocess(image)), model.logits(image), atol=1e-5)
    other = next(label for label in model.task.labels if label != model.predict(image).label)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(30):
        optimizer.zero_grad()
        target = torch.tensor([model.task.labels.index(other)])
        cross_entropy(module(model.preprocess(image)), target).backward()
        optimizer.step()
    assert model.predict(image).label == other
    assert zoo.load(model.save(tmp_path / "own"), "cpu").predict(image).label == other


def test_a_state_dict_moves_to_another_copy(pretrained):
    one, two = zoo.load(pretrained, "cpu"), zoo.load(pretrained, "cpu")
    with torch.no_grad():
        next(one.module.parameters()).add_(1)
    two.module.load_state_dict(one.module.state_dict())
    image = pictures.array("blue", 0)
    assert torch.equal(one.logits(image), two.logits(image))


def test_frozen_layers_of_ones_own_stay(pretrained):
    model = zoo.load(pretrained, "cpu")
    frozen = {name: p.clone() for name, p in model.backbone.module.named_parameters()}
    model.backbone.module.requires_grad_(False)
    network = model.module
    trained = [p for p in network.parameters() if p.requires_grad]
    assert len(trained) == 2  # weight and bias of the head
    optimizer = torch.optim.SGD(trained, lr=0.1)
    cross_entropy(network(model.preprocess(pictures.array("red", 0))), torch.tensor([0])).backward()
    optimizer.step()
    assert all(torch.equal(frozen[name], p) for name, p in model.backbone.module.named_parameters())


@pytest.mark.parametrize("form", ["array", "tensor", "list"])
def test_preprocess_gives_a_batch(pretrained, form):
    model, image = zoo.load(pretrained, "cpu"), pictures.array("red", 0)
    given = {"array": image, "tensor": torch.from_numpy(image).permute(2, 0, 1), "list": [image, image]}[form]
    batch = model.preprocess(given)
    size = model.input.size
    assert batch.shape == (2 if form == "list" else 1, model.input.channels, size, size)
