"""zoo.tasks.label_match: labels found among the names of pretrained classes."""

from __future__ import annotations

import pytest

from zoo.tasks.label_match import match

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
def test_labels_match_classes_all_or_none(labels, expected):
    assert match(labels, NAMES) == expected


def test_a_name_twice_in_one_class_is_one_name():
    assert match(["a_b"], [("A b", "a-b")]) == [0]
