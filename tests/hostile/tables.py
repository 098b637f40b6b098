"""Hostile tables and texts: nested, endless, expanding or contradictory cells."""

from __future__ import annotations

import base64
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import saved_models as saved

from hostile.case import Case

PRELOAD = ("zoo_hf.nets", "transformers.models.bert.modeling_bert", "pyarrow.parquet")
ROWS = "text,label\n" + "a lovely film,good\na dull film,bad\n" * 6
Write = Callable[[Path], object]


def table(name: str, content: str | bytes | Write, says: str = "", *options: str, **more: Any) -> Case:
    """Return a case that fine-tunes a tiny text model on a table of this name."""
    file = name.partition(":")[0]

    def prepare(folder: Path) -> list[str]:
        saved.copy("bert", folder)
        if callable(content):
            content(folder / file)
        else:
            (folder / file).write_bytes(
                content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
            )
        return ["finetune", "model", file, "--set", "strategy=probe", *options]

    return Case(name, prepare, says, **more)


def csv(label: Any, text: str = "a lovely film") -> str:
    """Return a table whose last row has this label and text."""
    return f"text,label\na dull film,1.5\nno film,2.5\n{text},{label}\nthe film,0.5\n"


def lines(label: str = '"good"', text: str = '"a lovely film"') -> str:
    """Return JSON lines whose last row has this label and text."""
    row = '{"text": "a dull film", "label": "bad"}\n'
    return row * 4 + f'{{"text": {text}, "label": {label}}}\n'


def parquet(columns: Callable[[], dict[str, Any]], **options: Any) -> Write:
    """Return a function that writes a Parquet file."""

    def write(path: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table(columns()), path, **options)

    return write


def repeated(count: int) -> dict[str, Any]:
    """Return columns of `count` equal rows, which take a few kB in Parquet."""
    import pyarrow

    indices = pyarrow.array(memoryview(bytes(count)), pyarrow.int8())
    values = pyarrow.DictionaryArray.from_arrays(indices, ["a lovely film"])
    return {"text": values, "label": values}


def long_and_repeated() -> dict[str, Any]:
    """Return 200 rows of one text of 10 MB."""
    import pyarrow

    text = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 200, pyarrow.int32()), ["x" * 10_000_000])
    return {"text": text, "label": ["good", "bad"] * 100}


def times() -> dict[str, Any]:
    """Return labels in the year 300,000."""
    import pyarrow

    return {"text": ["a", "b"], "label": pyarrow.array([2**62, 5], pyarrow.timestamp("us"))}


def nested(depth: int) -> dict[str, Any]:
    import pyarrow

    kind, value = pyarrow.string(), "a"
    for _ in range(depth):
        kind, value = pyarrow.list_(kind), [value]
    return {"text": ["a", "b"], "label": pyarrow.array([value, value], kind)}


def sparse(start: str) -> Write:
    def write(path: Path) -> None:
        path.write_text(start)
        os.truncate(path, 100_000_000_000)

    return write


def tower(depth: int, inner: str = "") -> str:
    return "[" * depth + inner + "]" * depth


def names(count: int) -> str:
    return ",".join(f"column{number}" for number in range(count))


CELLS = {
    **{"null": "null", "nested": '[["a"]]', "mixed": '["a", 1, null]', "an object": '{"a": 1}', "a float": "0.5"},
    **{"NaN": "NaN", "infinite": "1e999", "of 5,000 digits": "9" * 5000, "a surrogate": '"\\ud800"'},
    **{"an escape": '"\\u001b[31m\\u202e"', "900 deep": tower(900), "50,000 deep": tower(50_000)},
}
"""Values of a cell, as JSON."""
SURVIVED = {"label a surrogate": 0, "label an escape": 0, "text an escape": 0}
"""Those that a text or a label may have, with their exit status."""
CSV: dict[str, tuple[str | bytes | Write, str]] = {
    "numbers with one NaN": (csv("NaN"), "has 'NaN' in label, where all other rows have numbers"),
    "numbers with one missing": (csv(""), "has no value in label"),
    "a label of 1e308": (csv("1e308"), "exceed the range"),
    "a label of 1e999": (csv("1e999"), "is inf (float)"),
    "a label of 5,000 digits": (csv("9" * 5000), "is inf (float)"),
    "no header": ("a lovely film,good\na dull film,bad\n", "cannot infer"),
    "two columns of one name": ("text,text,label\na,b,c\n", "two columns called 'text'"),
    "an unclosed quote": (ROWS + '"a,b\n', "unclosed quote"),
    "a row too long": (ROWS + "a" + "," * 100_000 + "\n", "has 100001 values"),
    "100,000 columns": (names(100_000) + "\n" + "1," * 99_999 + "1\n", "cannot infer the input column"),
    "100,000 columns of one name": ("a," * 100_000 + "a\n" + "1," * 100_000 + "1\n", "two columns called 'a'"),
    "a field of 128 MB": (lambda path: path.write_text(csv("1", "x" * 128_000_000)), "more than 10,000,000 characters"),
    "escapes in a header": ("\x1b[31m\u202e,\x07,b,c\n1,2,3,4\n", "cannot infer"),
    "a header of 1 MB": ("x" * 1_000_000 + ",b,c\n1,2,3\n", ""),
    "NUL": (ROWS + "a\0b,good\n", "contains NUL bytes"),
    "100 GB": (sparse(ROWS), "contains NUL bytes"),
    "no UTF-8": (ROWS.encode() + b"\xff\xfe,good\n", "is not valid UTF-8"),
    "half of UTF-16": (b"\xff\xfe" + ROWS.encode("utf-16-le") + b"\x00", "is not valid"),
    "nothing": ("", "is empty"),
    "a header only": ("text,label\n", "has no rows"),
    "a pipe": (os.mkfifo, "is not a regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "too many levels"),
}
JSON: dict[str, tuple[str | Write, str]] = {
    "50,000 brackets": ("[" * 50_000, "nested too deeply"),
    "a number": ("1", "not objects"),
    "100,000 keys": ("".join(f'{{"key{number}": 1}}\n' for number in range(100_000)), "cannot infer"),
    "columns of different length": ('{"text": ["a"], "label": []}', "differ in length"),
    "half": ('{"text": "a", "la', "not valid JSON"),
}
MANY_ROWS = zlib.decompress(
    base64.b85decode(
        "c-jka3^EjD5fu@Y@BvZ`LJSOCDvS&a42d8jNt8iUNK{M*C?g=sR>vk|#sC5+qM~fGB{-NEAV7kH5y}!{(7+-"
        "pC<r7t6+jX!jEu}oqAZd&rVJ8n#mO0|xrw4I45B=$OcE@HsTC!v3_da-yI6n%tT~BEsW}W{ERr&kI%*6uqCAqO3~U0D5-"
        "cS^m7+{yEMhfcEsSb5Y8*f(YA_~AFeU=6k_0)CL6iyPU;!Xy12lk5QjLKHXfDVU7N{u@<H5$9VHCT<sCI@?t%p&DByVBZr3tf1>;#k8p"
        "PS!b-"
        "e6*ol#$?Z3<~lOx1w@@l^_S$?Z40e(JsK4@CKM81Ox)HlR;EOh5?N4<ml+?2nV*d3=#?jiA9B_sU^C}1qHf^MMe4L3T3H9#hLke3Pxsn"
        "26~2)Izaz`yrc&7egH6?0synrTtx"
    )
)
"""A fuzzed file of two rows whose row group claims 46 billion."""
PARQUET: dict[str, tuple[bytes | Write, str]] = {
    "200 million rows": (parquet(lambda: repeated(200_000_000)), "has 200,000,000 rows"),
    "200 texts of 10 MB": (parquet(long_and_repeated, compression="zstd"), "000 bytes of values"),
    "200 texts of 10 MB, in a dictionary": (
        parquet(long_and_repeated, dictionary_pagesize_limit=1 << 30),
        "2,000,000,000 bytes of values",
    ),
    "the year 300,000": (parquet(times), "cannot be read"),
    "lists 40 deep": (parquet(lambda: nested(40)), "not str, int, float"),
    "noise": (b"PAR1" + bytes(range(256)) * 4 + b"PAR1", "cannot be read"),
    "2 rows of 46 billion": (MANY_ROWS, "it has 2 rows, its row groups have 46,281,979,518"),
    "a text": (ROWS, "cannot be read"),
    "a huge footer": (b"PAR1" + b"\xff\xff\xff\x7fPAR1", "cannot be read"),
}
IN_SUITE = {
    *("numbers with one NaN", "a label of 1e308", "100 GB", "50,000 brackets", "the year 300,000"),
    *(
        "noise",
        "2 rows of 46 billion",
        "a pipe",
        "a label 900 deep",
        "a text 50,000 deep",
        "f.csv: escapes",
        "f.csv: an action with escapes",
    ),
}


def fixes(name: str, content: str | bytes | Write, says: str) -> Case:
    """Return a case that fine-tunes on a good table with this table of fixes."""
    made = table(name, content, says, heavy=name not in IN_SUITE)

    def prepare(folder: Path) -> list[str]:
        command = made.prepare(folder)
        (folder / "data.csv").write_text(ROWS)
        return [*command[:2], "data.csv", "--fixes", command[2], *command[3:]]

    return Case(name, prepare, says, heavy=made.heavy)


HEADER = "input,id,label,suggested,reason,score,action\n"
FIXES: dict[str, tuple[str | bytes | Write, str]] = {
    "f.csv: escapes": (HEADER + "\x1b[31m\u202efilm,,,,,,drop\n", "is no input of data.csv"),
    "f.csv: an action with escapes": (HEADER + "a dull film,,,,,,\x1b[2J\u202e\n", "has the action"),
    "f.csv: an action of 1 MB": (HEADER + "a dull film,,,,,," + "x" * 1_000_000 + "\n", "has the action"),
    "f.csv: a label of 1 MB": (HEADER + "a dull film,,," + "x" * 1_000_000 + ",,,relabel\n", "is no label of the data"),
    "f.csv: a path of 100,000 parts": (HEADER + "../" * 100_000 + "etc/passwd,,,,,,drop\n", "is no input of data.csv"),
    "f.csv: an id that is none": (HEADER + "a dull film,ffff/../..,,,,,drop\n", "is no input of data.csv"),
    "f.csv: NUL": (HEADER + "a\0b,,,,,,drop\n", "contains NUL bytes"),
    "f.csv: an unclosed quote": (HEADER + '"a dull film,,,,,,drop\n', "unclosed quote"),
    "f.csv: a header only": (HEADER, "decides nothing"),
    "f.csv: two columns of one name": ("input,input,action\na dull film,b,drop\n", "two columns called 'input'"),
    "f.csv: a pipe": (os.mkfifo, "is not a regular file"),
    "f.jsonl: nested": ('{"input": [["a"]], "action": {"a": 1}}\n', "has the action"),
    "f.jsonl: 50,000 deep": (f'{{"input": {tower(50_000)}, "action": "drop"}}\n', "nested too deeply"),
    "f.parquet: noise": (b"PAR1" + bytes(range(256)) * 4 + b"PAR1", "cannot be read"),
}
CASES = [
    *(fixes(name, *found) for name, found in FIXES.items()),
    *(table(f"a.csv: {name}", *found, heavy=name not in IN_SUITE) for name, found in CSV.items()),
    *(table(f"a.json: {name}", *found, heavy=name not in IN_SUITE) for name, found in JSON.items()),
    *(table(f"a.parquet: {name}", *found, heavy=name not in IN_SUITE) for name, found in PARQUET.items()),
    *(
        table(
            f"a.jsonl: a {column} {name}",
            lines(**{column: cell}),
            heavy=f"a {column} {name}" not in IN_SUITE,
            code=SURVIVED.get(f"{column} {name}", 1),
            keeps=("runs/*/*",),
        )
        for column in ("label", "text")
        for name, cell in CELLS.items()
    ),
]
