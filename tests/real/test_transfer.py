"""Transfer with real weights on real photos and mails, with the default strategy, including save and load."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import torch

import zoo

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import real_data

pytestmark = pytest.mark.real
LITE0 = "timm/tf_efficientnet_lite0.in1k"
MINILM = "hf/sentence-transformers/all-MiniLM-L6-v2"
SENTENCES = ["A cat sleeps on the sofa.", "The kitten naps on a couch.", "Interest rates rose again in March."]


def halves(seed: int) -> tuple[list, list]:
    """Return training and validation photos, half of each class."""
    train, valid = [], []
    for folder in sorted(real_data.photos().iterdir()):
        paths = random.Random(seed).sample(sorted(folder.iterdir()), len(list(folder.iterdir())))
        half = len(paths) // 2
        train += [(path, folder.name) for path in paths[:half]]
        valid += [(path, folder.name) for path in paths[half:]]
    return train, valid


def test_minilm_embeddings_match_transformers(hub):
    from transformers import AutoModel, AutoTokenizer

    model = zoo.load(MINILM, "cpu")
    folder = real_data.minilm()
    batch = AutoTokenizer.from_pretrained(folder)(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder).eval()(**batch).last_hidden_state
    mask = batch["attention_mask"][:, :, None]
    expected = (hidden * mask).sum(1) / mask.sum(1)
    found = model.embed(SENTENCES)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    near, far = torch.cosine_similarity(found[:1], found[1:]).tolist()
    assert near > 0.6 > 0.2 > far


def test_default_strategy_on_photos(hub, tmp_path):
    scores = []
    for seed in range(3):
        train, valid = halves(seed)
        model = zoo.load(LITE0, "cpu").finetune(train, valid=valid, seed=seed)
        scores.append(model.metrics["accuracy"])
    print("photos:", *(f"{score:.3f}" for score in scores))
    assert sum(scores) / 3 > 0.8
    model.save(tmp_path / "photos")
    some = [path for path, _ in valid[:5]]
    assert zoo.load(tmp_path / "photos", "cpu").predict(some) == model.predict(some)


def test_default_strategy_on_mails(hub, tmp_path):
    train, valid = real_data.mail_split()
    model = zoo.load(MINILM, "cpu").finetune(train, valid=valid, precision="bf16", out=tmp_path / "mails")
    print("mails:", model.metrics)
    assert model.recipe.strategy == "lp-ft"
    assert model.metrics["macro_f1"] > 0.85
    assert (
        zoo.load(tmp_path / "mails", "cpu").predict("CONGRATULATIONS! You have WON $1,000,000, click here").label
        == "spam"
    )


def test_probe_tags_numbers_in_mails(hub):
    texts = [text.split()[:40] for text, _ in real_data.mail_split(1)[0][:120]]
    pairs = [(words, ["NUMBER" if any(map(str.isdigit, word)) else "O" for word in words]) for words in texts]
    model = zoo.load(MINILM, "cpu").finetune(pairs, strategy="probe")
    assert model.task.name == "tag"
    assert (
        model.metrics["macro_f1"] > 0.6
    )  # majority tag: 0.486; a frozen sentence encoder retains little about single words
