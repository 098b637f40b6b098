"""A tiny word tokenizer, a tiny text plugin, and separable labelled texts for tests."""

from __future__ import annotations

import random

from tokenizers import Tokenizer as Fast
from tokenizers import models, pre_tokenizers, processors

from zoo.plugin import Tokenizer

GOOD = ("great", "lovely", "superb", "fine", "joy")
BAD = ("awful", "dull", "poor", "grim", "bore")
PLAIN = ("the", "film", "was", "and", "a", "very", "plot", "cast", "ending", "music")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def fast(words: tuple[str, ...] = GOOD + BAD + PLAIN) -> Fast:
    """Return a word-level tokenizer that adds [CLS] and [SEP]."""
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *words))}
    made = Fast(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=20))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.add_special_tokens(list(SPECIAL))
    return made


def tokenizer() -> Tokenizer:
    """Return the tokenizer as plugins do."""
    return Tokenizer(fast(), pad=0, mask=4, end=3)


def reviews(count: int = 40, seed: int = 0) -> list[tuple[str, str]]:
    """Return (text, label) pairs: reviews of 3 to 12 words, one of them good or bad."""
    chance = random.Random(seed)
    found = []
    for number in range(count):
        label = ("good", "bad")[number % 2]
        words = chance.choices(PLAIN, k=chance.randint(2, 11))
        words.insert(chance.randrange(len(words) + 1), chance.choice(GOOD if label == "good" else BAD))
        found.append((" ".join(words), label))
    return found


PLUGIN = '''
from types import SimpleNamespace
import torch
import words
from torch import nn
from zoo.plugin import Backbone, Classifier, Features, Plugin

class Net(nn.Module):
    """Embed words and mix each with the mean of the words up to it; pooled is the mean over the text."""

    def __init__(self, size, dim, head):
        super().__init__()
        self.table = nn.Embedding(size, dim)
        self.mix = nn.Linear(2 * dim, dim)
        if head:
            self.lm_head = nn.Linear(dim, size, bias=False)
            self.lm_head.weight = self.table.weight

    def forward(self, inputs):
        mask = inputs["attention_mask"].bool()
        x = self.table(inputs["input_ids"]) * mask[:, :, None]
        before = x.cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device)[None, :, None]
        tokens = (x + self.mix(torch.cat([x, before], 2)).tanh()) * mask[:, :, None]
        return Features(tokens.sum(1) / mask.sum(1, keepdim=True).clamp(min=1), tokens, mask)

class Toy(Plugin):
    api = 1

    def build(self, entry, files):
        size, dim, head = 25, entry.dim or 16, bool(entry.options.get("lm_head"))
        net = Net(size, dim, head)

        def generate(inputs, new, temperature):
            ids = inputs["input_ids"]
            for _ in range(new):
                tokens = net({"input_ids": ids, "attention_mask": torch.ones_like(ids)}).tokens
                ids = torch.cat([ids, net.lm_head(tokens[:, -1]).argmax(1, keepdim=True)], 1)
            return ids

        parts = dict(lm_head=net.lm_head, generate=generate) if head else {}
        stages = (("table",), ("mix",))
        return Backbone(net, dim, entry.input, stages, ("mix",), tokenizer=words.tokenizer(), **parts)

plugin = Toy()
'''
CATALOGUE = """
["toy/words"]
modality = "text"
dim = 16
tasks = ["classify", "multilabel", "regress", "tag", "causal-lm", "masked-lm"]
input = { files = [], max_length = 64, pairs = true }
SOURCE
"""


def pretrained(install, folder) -> str:
    """Install the plugin with weights in `folder` and return the name of its row."""
    import torch
    from safetensors.torch import save_file

    chance = torch.Generator().manual_seed(3)
    state = {"table.weight": torch.randn(25, 16, generator=chance) * 0.5}
    state |= {"mix.weight": torch.randn(16, 32, generator=chance) / 6, "mix.bias": torch.zeros(16)}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    source = f'source = "{folder.as_uri()}"\nfiles = [{{ path = "model.safetensors" }}]'
    install("toy", PLUGIN, CATALOGUE.replace("SOURCE", source))
    return "toy/words"
