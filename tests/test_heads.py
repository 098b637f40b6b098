"""Heads: rows of a pretrained classifier are found by label."""

from __future__ import annotations

import pytest

from zoo.finetune.heads import match_labels

NAMES = (("tench", "Tinca tinca"), ("hen",), ("crane", "bird"), ("crane", "machine"), ("tabby", "tabby cat"))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (("hen", "tench"), [1, 0]),
        (("Hen", "tinca_tinca"), [1, 0]),
        (("TABBY-CAT", " hen "), [4, 1]),
        (("bird", "machine"), [2, 3]),
        (("crane", "hen"), None),  # fits two classes
        (("hen", "robin"), None),  # one is unknown
        (("hens", "tench"), None),  # another form of the word may be another thing
        (("tabby", "tabby cat"), None),  # two labels, one class
        ((0, 1), None),  # numbers are not names
        (("hen", 1), None),
    ],
)
def test_labels_match_pretrained_classes_all_or_none(labels, expected):
    assert match_labels(labels, NAMES) == expected


def test_synonyms_of_one_class_are_not_ambiguous():
    assert match_labels(["a_b"], [("A b", "a-b")]) == [0]
