"""Export to a folder that AutoModelFor… of transformers, or sentence-transformers, opens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ExportError
from zoo.plugin import Entry, Exported, ImageInput, Trained
from zoo_hf import inputs, nets

State = dict[str, Tensor]
SMALL = 2.0**-12
"""Factor that keeps a value in the linear range of tanh: tanh(x / 4096) is x / 4096 within 2e-6 for |x| < 10."""
TANH = {
    **{"bert": ("bert.pooler.dense", "classifier"), "albert": ("albert.pooler", "classifier")},
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert", "mpnet"), ("classifier.dense", "classifier.out_proj")),
}
"""Families whose classifier is dense, tanh, linear on the class token: its linear layers by model_type."""
PROBLEMS = {"classify": "single_label_classification", "multilabel": "multi_label_classification"}
WHOLE = "--to onnx or torch-export, which hold the whole graph"
SENTENCE = "--to sentence-transformers, onnx or torch-export"
SENTENCE_MODULES = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"))


def exported(
    entry: Entry, config: Any, trained: Trained, files: Mapping[str, Path], pooling: tuple[str, ...]
) -> Exported:
    """Return the network as the class of transformers for its task; ExportError if that cannot express it."""
    kind = _model_class(entry, config, trained.task)
    _set_labels(config, trained)
    with torch.device("meta"):
        model: Any = nets.empty(partial(kind, config))
    wanted = model.state_dict()
    state = _renamed(trained.state, f"{model.base_model_prefix}.")
    if trained.weight is not None:
        assert trained.bias is not None
        head = (trained.weight, trained.bias)
        if entry.modality == "text" and trained.task != "tag":
            state |= _text_head(entry, model, state, head, pooling)
        else:
            state |= _linear_head(entry, wanted, state, head)
    state = _without_ties(model, state)
    _check(entry, kind.__name__, model, state)
    config.architectures = [kind.__name__]
    texts = _texts(entry, config, trained, files)
    opens = _auto_class(entry, trained.task)
    pipeline = "text-classification" if opens.endswith("SequenceClassification") else ""
    return Exported({"model.safetensors": state}, texts, opens, pipeline, _inputs(config))


def sentence(
    entry: Entry, config: Any, trained: Trained, files: Mapping[str, Path], pooling: tuple[str, ...]
) -> Exported:
    """Return a sentence-transformers folder: transformer, pooling, and the head as a dense layer that gives logits."""
    if trained.weight is None or trained.bias is None or trained.task == "tag" or config.is_encoder_decoder:
        what = f"a {trained.task} model of {entry.name} has no sentence embedding"
        raise ExportError(what, fix="--to transformers, onnx or torch-export")
    kind = nets.base_class(config, "text")
    with torch.device("meta"):
        model: Any = nets.empty(partial(kind, config))
    state = _renamed(trained.state, "")
    wanted = model.state_dict()
    state |= {
        k: torch.zeros(t.shape) for k, t in wanted.items() if k.startswith("pooler.") and k not in state
    }  # unused
    state = _without_ties(model, state)
    _check(entry, kind.__name__, model, state)
    config.architectures = [kind.__name__]
    outputs, dim = trained.weight.shape
    modes = {f"pooling_mode_{how}": how in pooling for how in nets.POOL}
    package = "sentence_transformers.models"
    parts = [
        {"idx": i, "name": str(i), "path": p, "type": f"{package}.{t}"} for i, (p, t) in enumerate(SENTENCE_MODULES)
    ]
    dense = {"in_features": dim, "out_features": outputs, "bias": True}
    texts = _texts(entry, config, trained, files) | {
        "modules.json": _json(parts),
        "sentence_bert_config.json": _json({"max_seq_length": trained.max_length, "do_lower_case": False}),
        "1_Pooling/config.json": _json({"word_embedding_dimension": dim // len(pooling), **modes}),
        "2_Dense/config.json": _json(dense | {"activation_function": "torch.nn.modules.linear.Identity"}),
    }
    head = {"linear.weight": trained.weight, "linear.bias": trained.bias}
    return Exported(
        {"model.safetensors": state, "2_Dense/model.safetensors": head},
        texts,
        "SentenceTransformer",
        inputs=_inputs(config),
    )


def _model_class(entry: Entry, config: Any, task: str) -> Any:
    from transformers.models.auto import modeling_auto as auto

    mappings: dict[str, Any] = {
        "tag": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
        "masked-lm": auto.MODEL_FOR_MASKED_LM_MAPPING,
        "causal-lm": auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    }
    pooled = auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    if entry.modality == "text":
        pooled = auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    mapping = mappings.get(task, pooled)
    if type(config) not in mapping:
        raise ExportError(f"transformers has no class for {task} with {config.model_type}", fix=WHOLE)
    return mapping[type(config)]


def _auto_class(entry: Entry, task: str) -> str:
    names = {"tag": "AutoModelForTokenClassification", "masked-lm": "AutoModelForMaskedLM"}
    names["causal-lm"] = "AutoModelForCausalLM"
    pooled = "AutoModelForSequenceClassification" if entry.modality == "text" else "AutoModelForImageClassification"
    return names.get(task, pooled)


def _set_labels(config: Any, trained: Trained) -> None:
    if trained.labels:
        config.id2label = dict(enumerate(trained.labels))
        config.label2id = {label: i for i, label in enumerate(trained.labels)}
        config.problem_type = PROBLEMS.get(trained.task, "regression" if trained.task == "regress" else None)


def _renamed(state: Mapping[str, Tensor], prefix: str) -> State:
    """Return the keys of transformers for those of zoo: `net.…` and `lm_head.full.…`."""
    found = {}
    for name, tensor in state.items():
        if name.startswith("net."):
            found[prefix + name.removeprefix("net.")] = tensor
        else:
            found[name.removeprefix("lm_head.full.")] = tensor
    return found


def _linear_head(entry: Entry, wanted: Mapping[str, Tensor], state: State, head: tuple[Tensor, Tensor]) -> State:
    """Return the head as the only parameters that the model has and the backbone has not."""
    new = [name for name in wanted if name not in state]
    shapes = {name: part for name in new for part in head if name.endswith(".weight" if part.ndim == 2 else ".bias")}
    if len(new) != 2 or len(shapes) != 2 or any(wanted[n].numel() != part.numel() for n, part in shapes.items()):
        raise ExportError(f"{entry.name}: its classifier in transformers has {', '.join(new) or 'no head'}", fix=WHOLE)
    return {name: part.reshape(wanted[name].shape) for name, part in shapes.items()}


def _text_head(entry: Entry, model: Any, state: State, head: tuple[Tensor, Tensor], pooling: tuple[str, ...]) -> State:
    """Return the parameters by which the sequence classifier of a family computes a linear head.

    A decoder scores its last token without a bias: the bias of the head goes to the last normalisation. BERT and
    RoBERTa have a dense layer and tanh before the classifier: both are scaled to the linear range of tanh.
    """
    weight, bias = head
    kind = model.config.model_type
    if "score.weight" in model.state_dict() and pooling == ("lasttoken",):
        return {"score.weight": weight, **_bias_before(entry, model, state, weight, bias)}
    if kind in TANH and pooling == ("cls_token",):
        dense, linear = TANH[kind]
        new = {f"{dense}.weight": SMALL * torch.eye(weight.shape[1]), f"{dense}.bias": torch.zeros(weight.shape[1])}
        return new | {f"{linear}.weight": weight / SMALL, f"{linear}.bias": bias}
    how = " and ".join(name.partition("_")[0] for name in pooling)
    what = f"{type(model).__name__} has no head on the {how} of the tokens, which this model reads"
    raise ExportError(what, fix=SENTENCE)


def _bias_before(entry: Entry, model: Any, state: State, weight: Tensor, bias: Tensor) -> State:
    """Return the bias of the last LayerNorm plus the smallest shift d with weight @ d = bias."""
    if "score.bias" in model.state_dict():
        return {"score.bias": bias}
    outer = [name for name, _ in model.named_modules() if not any(map(str.isdigit, name.split(".")))]
    norms = [name for name in outer if isinstance(model.get_submodule(name), nn.LayerNorm)]
    key = f"{norms[-1]}.bias" if norms else ""
    if not key or key not in state or state[key].shape != weight.shape[1:]:
        what = (
            f"{type(model).__name__} has no bias for its {len(bias)} outputs, and {entry.name} no LayerNorm to hold it"
        )
        raise ExportError(what, fix=SENTENCE)
    shift = torch.linalg.lstsq(weight.double(), bias.double()[:, None], driver="gelsd").solution[:, 0]
    return {key: (state[key].double() + shift).float()}


def _without_ties(model: nn.Module, state: State) -> State:
    """Return the state dict with each tensor of the model once: transformers ties the others when it loads them."""
    first: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), name)
    kept = set(first.values()) | (state.keys() - model.state_dict().keys())
    return {name: tensor for name, tensor in state.items() if name in kept}


def _check(entry: Entry, kind: str, model: nn.Module, state: State) -> None:
    wanted, named = model.state_dict(), model.state_dict(keep_vars=True)
    known = {id(named[name]) for name in state if name in named}
    missing = sorted(name for name in wanted if name not in state and id(named[name]) not in known)
    wrong = missing or sorted(state.keys() - wanted.keys())
    wrong = wrong or sorted(name for name, tensor in state.items() if tensor.shape != wanted[name].shape)
    if wrong:
        what = f"{entry.name} does not fit {kind} of transformers: {wrong[0]} is missing, unknown or of another shape"
        raise ExportError(what, fix=WHOLE)


def _texts(entry: Entry, config: Any, trained: Trained, files: Mapping[str, Path]) -> dict[str, str]:
    """Return config.json, and the configuration of the tokenizer or the image processor."""
    if isinstance(entry.input, ImageInput):
        spec = entry.input
        processor = {
            **{"image_processor_type": "CLIPImageProcessor", "do_convert_rgb": spec.channels == 3, "do_resize": True},
            **{"size": {"shortest_edge": int(spec.size / spec.crop)}, "do_center_crop": True, "do_rescale": True},
            **{"crop_size": {"height": spec.size, "width": spec.size}, "do_normalize": True, "rescale_factor": 1 / 255},
            **{"image_mean": list(spec.mean), "image_std": list(spec.std)},
            "resample": next(number for number, name in inputs.RESAMPLE.items() if name == spec.interpolation),
        }
        return {"config.json": config.to_json_string(), "preprocessor_config.json": _json(processor)}
    roles = inputs.special_tokens(files)
    made = inputs.tokenizer(entry.name, files, config.vocab_size)
    roles.setdefault("pad_token", str(made.fast.id_to_token(made.pad)))
    config.pad_token_id = made.pad
    tokenizer: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": trained.max_length,
        **roles,
    }
    tokenizer |= {
        "model_input_names": list(_inputs(config)),
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
    }
    return {"config.json": config.to_json_string(), "tokenizer_config.json": _json(tokenizer)}


def _inputs(config: Any) -> tuple[str, ...]:
    """Return the token tensors that the model takes; GPT-2 would use token_type_ids as tokens."""
    types = ("token_type_ids",) if getattr(config, "type_vocab_size", 0) > 1 else ()
    return ("input_ids", *types, "attention_mask")


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
