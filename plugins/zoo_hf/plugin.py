"""The plugin of the names hf/org/repo: Hub repositories with architectures of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import PluginError
from zoo.plugin import (
    Backbone,
    Classifier,
    Entry,
    Exported,
    File,
    ImageInput,
    Plugin,
    Repository,
    TextInput,
    Trained,
)
from zoo_hf import configs, facts, inputs

if TYPE_CHECKING:
    from torch import Tensor

    from zoo_hf.facts import Facts

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PREPROCESSOR, POOLING = "preprocessor_config.json", "1_Pooling/config.json"
SENTENCE = "sentence_bert_config.json"
ZOO_PREFIXES = ("net.", "lm_head.full.")
"""Prefixes of state dict keys saved by zoo."""
TASKS = ("classify", "multilabel", "regress")


class HuggingFace(Plugin):
    """Models of transformers: image features are the input of their classifiers, texts are pooled by their config."""

    api = 1

    def build(self, entry: Entry, files: Mapping[str, Path]) -> Backbone:
        """Build the model of a row without weights; raises PluginError if transformers lacks its architecture."""
        config = _config(entry, files)
        build = _image if entry.modality == "image" else _text
        return build(entry, files, config)

    def adapt(self, entry: Entry, state: dict[str, Tensor], files: Mapping[str, Path]) -> dict[str, Tensor]:
        """Convert a checkpoint with any head to the keys of the module."""
        if all(name.startswith(ZOO_PREFIXES) for name in state):
            return state
        import torch

        from zoo_hf import nets, states

        config = _config(entry, files)
        with torch.device("meta"):
            make = partial(_language_model, config, entry) if _has_lm_head(entry) else None
            model: Any = nets.empty(make or partial(nets.base, config, entry.modality))
        found = states.adapt(model, state)
        if make is None:
            return {f"net.{name}": tensor for name, tensor in found.items()}
        below = f"{model.base_model_prefix}."
        return {
            f"net.{name.removeprefix(below)}" if name.startswith(below) else f"lm_head.full.{name}": tensor
            for name, tensor in found.items()
        }

    def classifier(self, entry: Entry, state: Mapping[str, Tensor], files: Mapping[str, Path]) -> Classifier | None:
        """Return the classifier of a checkpoint, if it is a linear layer on the pooled features with named classes."""
        import torch

        from zoo_hf import nets

        values = configs.read(files.get(CONFIG))
        places = nets.classifiers(_config(entry, files), entry.modality, bool(configs.read(files.get(POOLING))))
        found = [key for key in state if key.endswith(".weight") and key.split(".")[0] in places]
        if len(found) != 1 or state[found[0]].ndim != 2:
            return None
        weight = state[found[0]]
        names = values.get("id2label") or {}
        labels = [str(names.get(str(index), f"LABEL_{index}")) for index in range(len(weight))]
        if any(label == f"LABEL_{index}" for index, label in enumerate(labels)):
            return None
        bias = state.get(found[0].replace(".weight", ".bias"), torch.zeros(len(weight)))
        return Classifier(tuple(tuple(part.strip() for part in label.split(",")) for label in labels), weight, bias)

    def export(self, library: str, entry: Entry, trained: Trained, files: Mapping[str, Path]) -> Exported | None:
        """Return the network as a class of transformers, or in the layout of sentence-transformers."""
        from zoo_hf import exporting, nets

        kinds = {"transformers": exporting.exported, "sentence-transformers": exporting.sentence}
        if library not in kinds or (library == "sentence-transformers" and entry.modality == "image"):
            return None
        config = _config(entry, files)
        pooling = nets.pooling(config, configs.read(files.get(POOLING))) if entry.modality == "text" else ()
        return kinds[library](entry, config, trained, files, pooling)

    def resolve(self, name: str, look: Callable[[str], Repository]) -> Entry | None:
        """Return a row for a repository, org/repo, from its file list and configuration files.

        Raises PluginError if it has no safetensors or config.json, or an unknown architecture.
        """
        source = f"hf://{name}"
        found = look(source)
        if CONFIG not in found.files:
            raise PluginError(f"hf/{name} has no {CONFIG}: it is not a transformers model", fix="zoo list hf/")
        small = (CONFIG, PREPROCESSOR, POOLING, SENTENCE, "tokenizer_config.json", INDEX)
        read = found.fetch(*(path for path in small if path in found.files))
        values = configs.read(read[CONFIG], f"{CONFIG} of hf/{name}")
        known = facts.read(f"hf/{name}", values)
        image = known.modality == "image"
        others = (CONFIG, PREPROCESSOR) if image else (CONFIG, POOLING, SENTENCE, *inputs.TOKENIZER)
        weights = _weights(name, found.files, read)
        files = tuple(found.files[path] for path in (*weights, *others) if path in found.files)
        spec = _image_input(f"hf/{name}", known, read) if image else _text_input(f"hf/{name}", known, files, read)
        saved = [str(architecture) for architecture in values.get("architectures") or ()]
        tasks = TASKS if image else (*TASKS, "tag", *_language_tasks(known, saved, POOLING in found.files))
        return Entry(f"hf/{name}", "hf", known.modality, spec, source=source, files=files, tasks=tasks)


def _weights(name: str, files: Mapping[str, File], read: Mapping[str, Path]) -> list[str]:
    """Return the paths of the weights: one file, or an index and its shards."""
    if WEIGHTS in files:
        return [WEIGHTS]
    if INDEX in files:
        shards = sorted(set(configs.read(read[INDEX]).get("weight_map", {}).values()))
        return [*shards, INDEX]
    legacy = [path for path in files if path.endswith((".bin", ".h5", ".msgpack", ".pth"))]
    has = f"it has {', '.join(legacy[:3])}, which may contain code" if legacy else "it has no weights"
    raise PluginError(
        f"hf/{name} has no {WEIGHTS}: {has}",
        fix="choose a repository with safetensors, or convert the weights (zoo convert) and add a row to zoo.toml",
    )


def _image_input(name: str, known: Facts, read: Mapping[str, Path]) -> ImageInput:
    values = inputs.with_size(known.image_size, configs.read(read.get(PREPROCESSOR)))
    processor = facts.processor(known, values)
    if processor is None:
        config = configs.make(name, configs.read(read[CONFIG]), "image")
        processor = inputs.processor(name, config, values)
    return inputs.image_input(processor, known.channels)


def _text_input(name: str, known: Facts, files: tuple[File, ...], read: Mapping[str, Path]) -> TextInput:
    inputs.check_vocabulary(name, [file.path for file in files])
    sentence, tokenizer = configs.read(read.get(SENTENCE)), configs.read(read.get("tokenizer_config.json"))
    paths = tuple(file.path for file in files if file.path in inputs.TOKENIZER)
    return TextInput(paths, facts.length(known, tokenizer, sentence), pairs=not known.causal)


def _config(entry: Entry, files: Mapping[str, Path]) -> Any:
    if CONFIG not in files:
        what = f"{entry.name}: {CONFIG} is not among its files"
        raise PluginError(what, fix=f'add {{ path = "{CONFIG}" }} to files in its row')
    return configs.make(entry.name, configs.read(files[CONFIG], f"{CONFIG} of {entry.name}"), entry.modality)


def _image(entry: Entry, files: Mapping[str, Path], config: Any) -> Backbone:
    from zoo_hf import nets

    if not isinstance(entry.input, ImageInput):
        raise PluginError(f"{entry.name}: its row has no image input", fix="set size, mean and std of input")
    made = inputs.preprocessor(entry.name, config, configs.read(files.get(PREPROCESSOR)))
    net = nets.empty(partial(nets.base, config, "image"))
    module = nets.Vision(net, config, inputs.is_blue_first(made))
    shape = (1, entry.input.channels, entry.input.size, entry.input.size)
    try:
        dim = entry.dim or nets.width(module, config, shape)
    except Exception as error:  # detectors, segmenters etc. fail in different ways
        what = f"{entry.name}: {config.model_type} cannot extract features of a single image: {error}"
        raise PluginError(what, fix=configs.ANOTHER) from error
    return Backbone(
        module,
        dim,
        entry.input,
        nets.stages(net, "net."),
        nets.lora_targets(net, "net."),
        attention=nets.attention(net),
    )


def _text(entry: Entry, files: Mapping[str, Path], config: Any) -> Backbone:
    from zoo_hf import nets

    pooling = nets.pooling(config, configs.read(files.get(POOLING)))
    made = inputs.tokenizer(entry.name, files, config.vocab_size)
    full: Any = nets.empty(partial(_language_model, config, entry)) if _has_lm_head(entry) else None
    net = nets.empty(partial(nets.base, config, "text")) if full is None else getattr(full, full.base_model_prefix)
    takes = {"input_ids", "attention_mask"}
    if getattr(config, "type_vocab_size", 0) > 1:  # GPT-2 would use token_type_ids as tokens
        takes.add("token_type_ids")
    module = nets.Text(net, pooling, frozenset(takes))
    dim = _width(config) * len(pooling)
    parts = nets.stages(net, "net."), nets.lora_targets(net, "net.")
    if full is None:
        return Backbone(module, dim, entry.input, *parts, tokenizer=made, attention=nets.attention(net))
    module.lm_head = nets.LanguageHead(full)
    known = {name for name, _ in net.named_parameters(prefix="net")}
    own = tuple(name for name, _ in module.named_parameters() if name not in known)
    stages = (*parts[0][:-1], (*parts[0][-1], *own))
    generate_fn = partial(nets.generate, net, module.lm_head, made.pad) if configs.decodes(config) else None
    return Backbone(
        module,
        dim,
        entry.input,
        stages,
        parts[1],
        tokenizer=made,
        lm_head=module.lm_head,
        generate=generate_fn,
        attention=nets.attention(net),
    )


def _width(config: Any) -> int:
    return int(getattr(config, "word_embed_proj_dim", None) or config.hidden_size)


def _has_lm_head(entry: Entry) -> bool:
    return bool(entry.options.get("lm_head"))


def _language_tasks(known: Facts, saved: list[str], embeds: bool) -> tuple[str, ...]:
    """Return the language modelling task of a repository, from the architecture it was saved with.

    A base model (BertModel) may include the head; sentence embedding and fine-tuned models do not.
    """
    if embeds or (saved and not any(name.endswith(("LM", "Model", "ForPreTraining")) for name in saved)):
        return ()
    if known.causal:
        return ("causal-lm",)
    return ("masked-lm",) if known.masked else ()


def _language_model(config: Any, entry: Entry) -> Any:
    """Create the model with its language modelling head; raises PluginError if the family has none."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    mapping = MODEL_FOR_CAUSAL_LM_MAPPING if configs.decodes(config) else MODEL_FOR_MASKED_LM_MAPPING
    if type(config) not in mapping:
        raise PluginError(f"{entry.name}: {config.model_type} has no language modelling head", fix='task="classify"')
    made: Any = mapping[type(config)]
    return made(config)


plugin = HuggingFace()
