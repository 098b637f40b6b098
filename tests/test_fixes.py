"""Fixes: tables that relabel and drop examples; each wrong row is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zoo.data import fixes
from zoo.data.examples import Examples
from zoo.errors import DataError

HEADER = "input,id,label,suggested,reason,score,action\n"


def photos(*names: str, origin: str = "photos") -> Examples:
    paths = [Path(origin, name) for name in names]
    return Examples(paths, [path.parent.name for path in paths], origin)


def table(folder: Path, *rows: str) -> Path:
    path = folder / "fixes.csv"
    path.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return path


def fixed(examples: Examples, path: Path) -> tuple[Examples, fixes.Applied]:
    (found,), applied = fixes.apply(fixes.read(path), [examples])
    return found, applied


def test_rows_relabel_drop_and_keep(tmp_path):
    examples = photos("bird/1.png", "bird/2.png", "cat/1.png", "cat/3.png")
    path = table(
        tmp_path,
        "bird/2.png,,bird,cat,,0.1,relabel",
        "cat/3.png,,cat,,,,drop",
        "cat/1.png,,,,,,keep",
        "bird/1.png,,,cat,,,",
    )
    found, applied = fixed(examples, path)
    assert [str(item) for item in found.inputs] == ["photos/bird/1.png", "photos/bird/2.png", "photos/cat/1.png"]
    assert found.labels == ["bird", "cat", "cat"]
    assert (applied.relabelled, applied.dropped, len(applied.rows)) == (1, 1, 3)
    assert fixes.read(applied.to_dict()["rows"]) == applied.rows


def test_texts_are_named_by_id_or_in_full_and_copies_share_a_fix(tmp_path):
    texts = ["win money", "see you at noon", "win money", ("a", "pair")]
    examples = Examples(texts, ["ham", "ham", "ham", "spam"], "mails.csv")
    path = table(tmp_path, f"win…,{fixes.key_of('win money')},ham,spam,,,relabel", "see you at noon,,,,,,drop")
    found, applied = fixed(examples, path)
    assert found.labels == ["spam", "spam", "spam"]
    assert (applied.relabelled, applied.dropped) == (2, 1)


def test_images_in_memory_are_named_by_id(tmp_path):
    arrays = [np.full((4, 4, 3), value, np.uint8) for value in (1, 2)]
    found, _ = fixed(
        Examples(arrays, ["a", "b"], "memory"), table(tmp_path, f"x,{fixes.key_of(arrays[1])},b,a,,,relabel")
    )
    assert found.labels == ["a", "a"]


def test_labels_keep_their_types(tmp_path):
    found, _ = fixed(Examples(["x", "y"], [1, 2], "t"), table(tmp_path, "y,,2,1,,,relabel"))
    assert found.labels == [1, 1]
    found, _ = fixed(Examples(["x", "y"], [1.5, 2.0], "t"), table(tmp_path, "y,,2.0,7.25,,,relabel"))
    assert found.labels == [1.5, 7.25]
    found, _ = fixed(Examples(["x", "y"], [("a", "b"), ("a",)], "t"), table(tmp_path, "y,,a,a|b,,,relabel"))
    assert found.labels == [("a", "b"), ("a", "b")]


def test_a_fix_reaches_the_validation_part():
    train, valid = photos("a/1.png", "b/1.png", origin="p/train"), photos("a/1.png", "b/1.png", origin="p/valid")
    rows = [{"input": "valid/a/1.png", "action": "relabel", "suggested": "b"}]
    found, _ = fixes.apply(fixes.read(rows), [train, valid])
    assert [part.labels for part in found] == [["a", "b"], ["b", "b"]]


REFUSED = {
    "unknown input": ("dog/9.png,,,,,,drop", "is no input of photos"),
    "unknown id": ("x,0123456789abcdef,,,,,drop", "is no input of photos"),
    "ambiguous name": ("1.png,,,,,,drop", "is the name of 2 files"),
    "unknown label": ("bird/1.png,,,dog,,,relabel", "'dog' is no label of the data; it has bird, cat"),
    "other label": ("bird/1.png,,cat,,,,drop", "is labelled 'bird', not 'cat'"),
    "no label": ("bird/1.png,,,,,,relabel", "relabels without a label"),
    "unknown action": ("bird/1.png,,,,,,delete", "has the action 'delete'"),
    "no input": (",,,,,,drop", "names no input"),
    "nothing decided": ("bird/1.png,,,cat,,,", "decides nothing"),
    "everything dropped": ("bird/1.png,,,,,,drop\ncat/1.png,,,,,,drop", "the fixes drop all of photos"),
    "contradiction": ("bird/1.png,,,,,,drop\nphotos/bird/1.png,,,,,,keep", "contradict each other"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_rows_are_refused(case, tmp_path):
    row, said = REFUSED[case]
    with pytest.raises(DataError, match=said):
        fixed(photos("bird/1.png", "cat/1.png"), table(tmp_path, row))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("fixes.csv", "input,label\na,b\n", "has no column 'action'"),
        ("fixes.txt", "input", "is no table"),
        ("absent.csv", None, "does not exist"),
    ],
)
def test_other_tables_are_refused(name, content, said, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said):
        fixes.read(tmp_path / name)


def test_other_objects_are_refused():
    with pytest.raises(DataError, match="fixes of type int are no table"):
        fixes.read(5)
