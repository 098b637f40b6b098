"""run.py, which uses an export without zoo, and model.json, which it reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.export.source import Source
from zoo.plugin import ImageInput

TEMPLATES = Path(__file__).with_name("templates")
MODEL = "model.json"
TORCH = {
    "softmax": "{}.softmax(-1)",
    "sigmoid": "{}.sigmoid()",
    "none": "{}",
}
"""Activation -> expression of answers."""
IMPORTS = {
    "onnx": ("onnxruntime",),
    "torch-export": ("torch",),
    "timm": ("timm", "torch"),
    "transformers": ("torch", "transformers"),
    "sentence-transformers": ("sentence_transformers", "torch"),
}
LOAD = {
    "onnx": 'SESSION = onnxruntime.InferenceSession(str(HERE / "model.onnx"), providers=["CPUExecutionProvider"])',
    "torch-export": 'NET = torch.export.load(HERE / "model.pt2").module()',
    "timm": 'NET = timm.create_model(f"local-dir:{HERE}", pretrained=True).eval()',
    "transformers": 'NET = transformers.{opens}.from_pretrained(HERE, dtype="float32").eval()',
    "sentence-transformers": 'NET = sentence_transformers.SentenceTransformer(str(HERE), device="cpu").eval()',
}
COMPUTE = {
    "onnx": "    return SESSION.run(None, {node.name: inputs[node.name] for node in SESSION.get_inputs()})[0]",
    "torch-export": "    with torch.inference_mode():\n"
    '        return NET(*(torch.from_numpy(inputs[name]) for name in MODEL["inputs"])).numpy()',
    "timm": "    with torch.inference_mode():\n        return {answers}.numpy()",
    "transformers": "    with torch.inference_mode():\n        return {answers}.numpy()",
    "sentence-transformers": "    with torch.inference_mode():\n        return {answers}.numpy()",
}
"""Body of compute(inputs): named arrays (N, …) -> answers (N, K), of tokens (N, T, K)."""


def description(source: Source, form: str, inputs: Sequence[str]) -> dict[str, Any]:
    """Return what model.json says: task, labels, license and preprocessing."""
    how, entry = source.how, source.entry
    found: dict[str, Any] = {"format": form, "task": source.task.name, "labels": list(source.task.labels)}
    found |= {"activation": source.activation, "backbone": entry.name, "license": entry.license}
    if isinstance(how.input, ImageInput):
        spec = how.input
        numbers = {"size": spec.size, "crop": spec.crop, "interpolation": spec.interpolation}
        scale = {"channels": spec.channels, "mean": list(spec.mean), "std": list(spec.std)}
        return found | {"inputs": ["images"], **numbers, **scale}
    tokenizer = source.backbone.tokenizer
    assert tokenizer is not None
    tokens = {"max_length": how.length, "truncation": how.truncation, "pad": tokenizer.pad, "mask": tokenizer.mask}
    return found | {"inputs": list(inputs), **tokens, "pairs": source.pairs, "words": source.takes_words}


def script(source: Source, form: str, opens: str = "") -> str:
    """Return run.py of a format; `opens` is the class of the library that loads the folder."""
    is_image = isinstance(source.how.input, ImageInput)
    needs = {name.partition(".")[0].replace("_", "-") for name in IMPORTS[form]}
    needs |= {"numpy", "pillow" if is_image else "tokenizers"}
    usage = "photo.jpg …" if is_image else '"a text" "another" …'
    head = [f'"""Predict without zoo: python run.py {usage}   (needs {", ".join(sorted(needs))})."""\n']
    head += ["import json", "import sys", "from pathlib import Path\n", "import numpy as np"]
    head += [f"import {name}" for name in IMPORTS[form]]
    head += ["from PIL import Image, ImageOps" if is_image else "from tokenizers import Tokenizer", ""]
    head += ["HERE = Path(__file__).resolve().parent"]
    head += [
        f'MODEL = json.loads((HERE / "{MODEL}").read_text(encoding="utf-8"))',
        LOAD[form].replace("{opens}", opens),
    ]
    if not is_image:
        head += ['TOKENIZER = Tokenizer.from_file(str(HERE / "tokenizer.json"))']
        head += ["TOKENIZER.no_padding()", "TOKENIZER.no_truncation()"]
    reading = (TEMPLATES / ("images.py.txt" if is_image else "texts.py.txt")).read_text(encoding="utf-8")
    parts = ["\n".join(head), reading.rstrip(), _compute(source, form, is_image), _predict(source, form, is_image)]
    return "\n\n\n".join([*parts, _main(source, is_image)]) + "\n"


def _compute(source: Source, form: str, is_image: bool) -> str:
    shape = "(N, T, K)" if source.task.reads == "tokens" else "(N, K)"
    if form == "timm":
        logits = 'NET(torch.from_numpy(inputs["images"]))'
    elif form == "sentence-transformers":
        logits = 'NET({name: torch.from_numpy(inputs[name]) for name in MODEL["inputs"]})["sentence_embedding"]'
    elif is_image:
        logits = 'NET(pixel_values=torch.from_numpy(inputs["images"])).logits'
    else:
        logits = 'NET(**{name: torch.from_numpy(inputs[name]) for name in MODEL["inputs"]}).logits'
    body = COMPUTE[form].replace("{answers}", TORCH[source.activation].format(logits))
    return f'def compute(inputs):\n    """Return the answers {shape} to a batch of inputs."""\n{body}'


def _predict(source: Source, form: str, is_image: bool) -> str:
    lines = ["def predict(items):"]
    if is_image:
        lines += ['    """Return the answers to image files, (N, K)."""']
        lines += ["    images = np.stack([pixels(path) for path in items])"]
        if form in ("timm", "transformers"):
            lines += ['    mean, std = (np.float32(MODEL[name]).reshape(-1, 1, 1) for name in ("mean", "std"))']
            lines += ["    images = (images.astype(np.float32) / 255 - mean) / std"]
        return "\n".join([*lines, '    return compute({"images": images})'])
    if source.takes_words:
        lines += ['    """Return the answers to lists of words: for each item (words, K)."""']
        lines += ["    inputs, starts = batch(items)"]
        lines += ["    return [row[places] for row, places in zip(compute(inputs), starts, strict=True)]"]
    elif source.task.labelled:
        lines += ['    """Return the answers to texts, (N, K)."""', "    return compute(batch(items)[0])"]
    else:
        where = "the next token" if source.task.autoregressive else "the masked token"
        lines += [f'    """Return the probabilities of {where} of each text, (N, V)."""']
        lines += ["    inputs, _ = batch(items)"]
        place = '(inputs["input_ids"] == MODEL["mask"]).argmax(1)'
        if source.task.autoregressive:
            place = 'inputs["attention_mask"].sum(1) - 1'
        lines += [f"    logits = compute(inputs)[np.arange(len(items)), {place}]"]
        lines += ["    shares = np.exp(logits - logits.max(1, keepdims=True))"]
        lines += ["    return shares / shares.sum(1, keepdims=True)"]
    return "\n".join(lines)


def _main(source: Source, is_image: bool) -> str:
    lines = ['if __name__ == "__main__":', "    items = sys.argv[1:]"]
    if not is_image and source.pairs:
        lines += ["    items = list(zip(items[::2], items[1::2], strict=True))"]
    elif source.takes_words:
        lines += ["    items = [item.split() for item in items]"]
    lines += ["    for item, row in zip(items, predict(items), strict=True):"]
    if source.task.name == "regress":
        lines += ["        print(item, *(f'{value:.6g}' for value in row), sep=\"\\t\")"]
    elif source.task.name == "multilabel":
        lines += ['        print(item, *(label for label, p in zip(MODEL["labels"], row) if p >= 0.5), sep="\\t")']
    elif source.takes_words:
        lines += ["        print(*(f\"{w}/{MODEL['labels'][i]}\" for w, i in zip(item, row.argmax(1))))"]
    elif not source.task.labelled:
        lines += ['        print(item, TOKENIZER.decode([int(row.argmax())]), f"{row.max():.3f}", sep="\\t")']
    else:
        lines += ['        print(item, MODEL["labels"][row.argmax()], f"{row.max():.3f}", sep="\\t")']
    return "\n".join(lines)


def write(folder: Path, source: Source, form: str, inputs: Sequence[str], opens: str = "") -> None:
    """Write model.json, run.py, and tokenizer.json of a text model."""
    text = json.dumps(description(source, form, inputs), indent=1)  # ASCII
    (folder / MODEL).write_text(text + "\n", encoding="utf-8")
    if source.backbone.tokenizer is not None and not isinstance(source.how.input, ImageInput):
        fast = source.backbone.tokenizer.fast
        fast.no_padding()
        fast.no_truncation()
        (folder / "tokenizer.json").write_text(fast.to_str(), encoding="utf-8")
    if form in IMPORTS:
        (folder / "run.py").write_text(script(source, form, opens), encoding="utf-8")
