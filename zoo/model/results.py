"""Results of prediction as a table: the columns of each task, and one row for each answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.data.items import Item
from zoo.model.answers import Answer, Result
from zoo.tasks import Prediction, Task
from zoo.tasks.metrics import entities
from zoo.tasks.tag import WORDS

Row = dict[str, Any]
INT64 = 2**63


def columns(task: Task) -> dict[str, str]:
    """Return the columns of a task's predictions with their types: input first, the error of an unreadable one last.

    text, integer and number are values; labels, texts, spans, entities and vector are lists.
    """
    return {"input": "text", **_columns(task), "error": "text"}


def _columns(task: Task) -> dict[str, str]:
    shares = {f"p_{label}": "number" for label in task.labels}
    match task.name:
        case "classify":
            return {"label": _type(task), "probability": "number", **shares}
        case "multilabel":
            return {"labels": "labels", **shares}
        case "regress":
            return {_number_column(label): "number" for label in task.labels}
        case "tag":
            return {
                "words": "texts",
                "tags": "texts",
                "probabilities": "vector",
                "spans": "spans",
                "entities": "entities",
            }
        case "masked-lm":
            return {"label": "text", "probability": "number"}
        case _:
            return {"text": "text"}


def _number_column(label: Any) -> str:
    """Return the column of a number: its name, unless a column of every table has it."""
    return f"{label}_value" if label in ("input", "error") else str(label)


def _type(task: Task) -> str:
    return "integer" if all(isinstance(label, int) and abs(label) < INT64 for label in task.labels) else "text"


def row(task: Task, answer: Answer) -> Row:
    """Return the values of an answer by column; those of an unreadable input are its name and error."""
    name = answer.item.name
    shown = list(name) if isinstance(name, tuple) else name
    if answer.error is not None:
        return {"input": shown, "error": answer.error.what}
    return {"input": shown, **_values(task, answer.item, answer.result)}


def _values(task: Task, item: Item, result: Result) -> Mapping[str, Any]:
    found, shares = result.prediction, {}
    if result.probabilities is not None and task.reads == "pooled":
        shares = dict(zip((f"p_{label}" for label in task.labels), result.probabilities.tolist(), strict=True))
    match task.name:
        case "classify":
            label = found.label if _type(task) == "integer" else str(found.label)
            return {"label": label, "probability": found.probability, **shares}
        case "multilabel":
            return {"labels": list(map(str, found.label)), **shares}
        case "regress":
            values = found.label if isinstance(found.label, tuple) else (found.label,)
            return dict(zip(map(_number_column, task.labels), values, strict=True))
        case "tag":
            return _tagged(item.value, found, result)
        case "masked-lm":
            return {"label": found.label, "probability": found.probability}
        case _:
            return {"text": found.label}


def _tagged(text: Any, found: Prediction, result: Result) -> Mapping[str, Any]:
    """Return words, tags, character spans (start, end) and entities; of a list of words, in the words with spaces."""
    whole, words, spans = words_of(text)
    tags = list(map(str, found.label))
    assert result.probabilities is not None
    merged = []
    for kind, start, end in entities(tags):
        begin, close = spans[start][0], spans[end - 1][1]
        merged.append({"kind": kind, "text": whole[begin:close], "start": begin, "end": close})
    likeliest = result.probabilities.max(1).values.tolist() if tags else []
    return {"words": words, "tags": tags, "probabilities": likeliest, "spans": spans, "entities": merged}


def words_of(text: Any) -> tuple[str, list[str], list[list[int]]]:
    """Return a text (of a list of words, joined by spaces), its words, and the [start, end] of each in characters."""
    if isinstance(text, str):
        found = list(WORDS.finditer(text))
        return text, [match[0] for match in found], [list(match.span()) for match in found]
    spans, start = [], 0
    for word in text:
        spans.append([start, start + len(word)])
        start += len(word) + 1
    return " ".join(text), list(text), spans
