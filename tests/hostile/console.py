"""Foreign text in arguments, file names, labels and licences: escapes, line breaks, bidirectional controls, lengths."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import pictures

from hostile.case import Case

TEXTS = {
    "escape": "a\x1b[31m\x1b]0;title\x07b",
    "line break": "a\nerror: b\r\u2028c\x85d",
    "bidirectional": "a\u202egnp.\u2066exe\u200f",
    "not UTF-8": "a\udcff\udc80b",
    "300 characters": "b" * 300,
    "100,000 characters": "\u202e" * 100_000,
    "empty": "",
    "a user's home": "~no-such-user/x",
    "a look-alike": "n\u0430tive/resnet18.tv_in1k",
}
COMMANDS: dict[str, list[str]] = {
    "info": ["info", "{}"],
    "pull": ["pull", "{}"],
    "verify": ["verify", "{}"],
    "rm": ["rm", "{}"],
    "convert": ["convert", "./{}", "out.safetensors"],
    "convert to": ["convert", "data", "./{}"],
    "finetune a name": ["finetune", "{}", "data"],
    "finetune data": ["finetune", "native/resnet14.letters", "./{}"],
    "evaluate": ["evaluate", "{}", "data"],
    "predict": ["predict", "./{}", "data"],
    "plugin new": ["plugin", "new", "{}"],
    "set": ["finetune", "native/resnet14.letters", "data", "--set", "seed={}"],
    "set a field": ["finetune", "native/resnet14.letters", "data", "--set", "{}=1"],
    "strategy": ["finetune", "native/resnet14.letters", "data", "--strategy", "{}"],
    "device": ["finetune", "native/resnet14.letters", "data", "--device", "{}x"],
    "info --json": ["info", "--", "{}"],
}
NUMBERS = {
    "seed": ["--seed", "20000000000000"],
    "seed of 30 digits": ["--seed", "9" * 30],
    "seed of 400 digits": ["--set", f"seed={'9' * 400}"],
    "seed of 5,000 digits": ["--set", f"seed={'9' * 5000}"],
    "negative seed": ["--seed", "-1"],
    "steps": ["--set", "steps=1000000000000000000000"],
    "epochs": ["--epochs", "1e300"],
    "epochs of infinity": ["--epochs", "inf"],
    "batch size": ["--batch-size", "9" * 40],
    "lr of nan": ["--lr", "nan"],
    "lr of 400 digits": ["--set", f"lr={'9' * 400}"],
    "nested value": ["--set", f"lr={'[' * 100_000}"],
    "nested value that closes": ["--set", f"lr={'[' * 500}{']' * 500}"],
    "max time": ["--set", f"max_time={'9' * 400}s"],
    **{
        field: ["--set", f"{field}={'9' * 30}"]
        for field in ("views", "soup", "lora_rank", "max_length", "freeze_stages", "patience", "evals", "stop_after")
    },
}
SAVED = {
    "evaluate": ["evaluate", "model", "data"],
    "evaluate --json": ["evaluate", "model", "data", "--json"],
    "predict": ["predict", "model", "{}", "--top", "9"],
    "predict --json": ["predict", "model", "{}", "--json"],
    "info": ["info", "tiny/net"],
    "list": ["list", "tiny/"],
    "list --json": ["list", "tiny/", "--json"],
    "pull": ["pull", "tiny/net", "--dry-run"],
}


def arguments(words: list[str], text: str, folder: Path) -> list[str]:
    """A command with a text in the place of {}."""
    (folder / "data").mkdir()
    return [word.replace("{}", text) for word in words]


def numbers(words: list[str], folder: Path) -> list[str]:
    """Fine-tuning with a number out of range."""
    (folder / "data").mkdir()
    return ["finetune", "native/resnet14.letters", "data", *words]


def data(folder: Path) -> str:
    """Write images in folders with hostile names, and a tiny backbone with a hostile licence; returns its name."""
    from PIL import Image

    for index, label in enumerate(text for text in TEXTS.values() if 0 < len(text) < 200 and "/" not in text):
        (folder / "data" / label).mkdir(parents=True)
        for copy in range(2):
            Image.new("RGB", (16, 16), (index * 40, copy, 0)).save(folder / "data" / label / f"{copy}\x1b[2J\u202e.png")
    name = pictures.catalogue(folder)
    with (folder / "zoo.toml").open("a") as file:
        file.write('license = "mit\\u001b[31m\\n---\\nlicense: gpl\\u202e"\npretrained_on = "\\u009b[1m<b>"\n')
    return name


def finetune(folder: Path) -> list[str]:
    """Fine-tuning on them, to a folder with a hostile name."""
    return ["finetune", data(folder), "data", "--out", "o\x1b[31m\u202e", "--strategy", "scratch", "--set", "steps=1"]


def saved(words: list[str], folder: Path) -> list[str]:
    """A command with a model that was fine-tuned on them."""
    import zoo

    with redirect_stdout(None):
        model = zoo.load(data(folder), "cpu")
        model.finetune(folder / "data", strategy="scratch", steps=1, valid=0, out=folder / "model")
    image = next((folder / "data").glob("*/*.png"))
    return [word.replace("{}", str(image)) for word in words]


def variants() -> Iterator[Case]:
    """Yield the cases; one text of each command is in the fast suite."""
    for row, (command, words) in enumerate(COMMANDS.items()):
        for column, (kind, text) in enumerate(TEXTS.items()):
            if text or command not in ("convert", "convert to", "finetune data", "predict", "device"):
                heavy = bool((row - column) % len(TEXTS))
                yield Case(f"{command}: {kind}", partial(arguments, words, text), heavy=heavy)
    for index, (name, words) in enumerate(NUMBERS.items()):
        yield Case(f"number: {name}", partial(numbers, words), heavy=bool(index % 4))
    left = ("o*/*", "store/**", "store/*/*", "store/*/*/*", ".zoo-*")
    yield Case("hostile labels: finetune", finetune, code=0, keeps=left)
    for name, words in SAVED.items():
        yield Case(f"hostile labels: {name}", partial(saved, words), code=0, keeps=left, heavy=True)


CASES = list(variants())
