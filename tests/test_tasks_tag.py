"""zoo.tasks.tag: one tag per word, evaluated by entity if the tags encode entities."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch.nn import functional as F

from zoo.errors import DataError
from zoo.tasks import Tag

TRUTH = [("B-PER", "I-PER", "O", "B-LOC"), ("O",), ("B-LOC", "O")]
GUESS = [("B-PER", "I-PER", "O", "B-PER"), ("O",), ("B-LOC", "I-LOC")]


def outputs(task: Tag, guesses: list) -> list[torch.Tensor]:
    return [F.one_hot(part, len(task.labels)).float() * 4 for part in task.targets(guesses)]


def test_labels_are_sorted_with_o_first():
    assert Tag.of([("B-A", "O"), ("A", 2)]).labels == ("O", 2, "A", "B-A")
    assert Tag.of([["NOUN", "ADJ"]]).labels == ("ADJ", "NOUN")


def test_targets_are_one_tensor_per_text():
    task = Tag.of(TRUTH)
    assert [part.tolist() for part in task.targets([("O", "B-LOC"), (), ("O",)])] == [[0, 1], [], [0]]
    with pytest.raises(DataError, match=r"does not know: B-ORG; it knows O, B-LOC"):
        task.targets([("B-ORG",)])


@pytest.mark.parametrize("label", ["B-PER", None, 3])
def test_invalid_tags_raise_with_their_index(label):
    with pytest.raises(DataError, match=r"label of example 1 is .*, not a list of tags\nfix: give one tag"):
        Tag.of([("O",), label])
    with pytest.raises(DataError, match=r"label of example 0 is"):
        Tag(("O",)).targets([label])


def test_entity_f1_requires_exact_spans():
    task = Tag.of([*TRUTH, *GUESS])
    assert task.main_metric == "entity_f1"
    found = task.measure(outputs(task, GUESS), task.targets(TRUTH))
    # Three true and three predicted entities; only the first has the correct kind and boundaries.
    assert found["entity_f1"] == pytest.approx(1 / 3)
    assert found["entity_precision"] == found["entity_recall"] == pytest.approx(1 / 3)
    assert found["accuracy"] == pytest.approx(5 / 7)
    rows = torch.cat(outputs(task, GUESS))
    assert found["loss"] == pytest.approx(float(task.loss(rows, torch.cat(task.targets(TRUTH)))))


def test_word_tags_are_evaluated_per_word():
    truth, guess = [("DET", "NOUN"), ("VERB", "NOUN")], [("DET", "VERB"), ("VERB", "NOUN")]
    task = Tag.of(truth)
    found = task.measure(outputs(task, guess), task.targets(truth))
    assert task.main_metric == "macro_f1"
    words, guesses = sum(truth, ()), sum(guess, ())
    assert found["macro_f1"] == pytest.approx(f1_score(words, guesses, average="macro"))
    assert found["accuracy"] == pytest.approx(accuracy_score(words, guesses))
    assert "entity_f1" not in found


def test_entities_end_at_the_end_of_a_text():
    task = Tag(("O", "I-A"))
    truth = [("I-A",), ("I-A",)]
    found = task.measure(outputs(task, [("I-A",), ("O",)]), task.targets(truth))
    assert found["entity_recall"] == 0.5


def test_decode_returns_a_tag_for_each_word():
    task = Tag.of(TRUTH)
    answers = task.decode([*outputs(task, TRUTH), torch.zeros(0, 4)], top=3)
    assert [answer.label for answer in answers] == [*TRUTH, ()]
    assert answers[0].probability is None


def test_baseline_is_the_most_common_tag():
    assert Tag.of(TRUTH).baseline(TRUTH) == "commonest tag 0.429"


def test_class_balance_changes_only_the_loss():
    task = Tag.of(TRUTH)
    targets = task.targets(TRUTH)
    rows, flat = torch.randn(7, 4), torch.cat(targets)
    for how in ("weights", "logits"):
        balanced = task.balanced(how, targets)
        assert balanced.loss(rows, flat) != task.loss(rows, flat)
        parts = list(rows.split([4, 1, 2]))
        assert balanced.measure(parts, targets) == task.measure(parts, targets)
        assert balanced.to_dict() == task.to_dict()


@pytest.mark.parametrize(
    ("text", "tags", "message"),
    [
        (["a", "b"], ("O",), r"example 1 has 2 words and 1 tags\nfix: give one tag for each word"),
        ("a b", ("O", "O"), r"example 1 is 'a b', not a list of words\nfix: .*\.split\(\)"),
        (["a"], "O", r"label of example 1 is 'O' \(str\), not a list of tags"),
    ],
)
def test_mismatched_words_and_tags_raise(text, tags, message):
    Tag.check([["a"]], [("O",)])
    with pytest.raises(DataError, match=message):
        Tag.check([["a"], text], [("O",), tags])
