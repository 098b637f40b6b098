"""Hostile plugins and catalogues: code that ends or leaves the process, names of others, rows that are no rows."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import crowd

from hostile.case import Case

API = crowd.CODE.replace("api = 1", "api = property(lambda self: {})")
CODES = {
    "os._exit(0)": "import os; os._exit(0)",
    "os._exit(3)": "import os; os._exit(3)",
    "SystemExit": "raise SystemExit",
    "SystemExit(0)": "import sys; sys.exit(0)",
    "SystemExit of a text": "import sys; sys.exit('bye\\x1b[31m\\n\\u202e')",
    "quit": "quit()",
    "abort": "import os; os.abort()",
    "segmentation fault": "import ctypes; ctypes.string_at(0)",
    "SIGKILL": "import os; os.kill(os.getpid(), 9)",
    "SIGTERM": "import os; os.kill(os.getpid(), 15)",
    "recursion": "def f(): f()\nf()",
    "an error of 1 MB": "raise ValueError('\\x1b' * 1_000_000)",
    "an error without text": "class E(Exception):\n    def __str__(self): raise SystemExit\nraise E",
    "BaseException": "class E(BaseException): pass\nraise E('a\\nb')",
    "GeneratorExit": "raise GeneratorExit",
    "ExceptionGroup": "raise ExceptionGroup('two', [ValueError(), SystemExit])",
    "syntax": "def (",
    "a NUL": "x = '\0'",
    "a missing library": "import no_such_library_\u0430",
    "a library with a hostile name": "raise ModuleNotFoundError('no', name='x; rm -rf ~\\x1b')",
    "nothing": "",
    "a module that goes": "import sys; del sys.modules[__name__]",
    "zoo that goes": "import sys; sys.modules['zoo'] = None; plugin = None",
    "closed files": "import os; os.closerange(3, 256); raise OSError",
    "closed streams": "import os; os.closerange(0, 3); raise OSError",
    "forks and leaves": "import os\nif os.fork(): os._exit(0)\nraise OSError",
    "a fork that stays": "import os, time\nif not os.fork(): time.sleep(20)\nos._exit(0)",
    "a fork that returns": "import os; os.fork(); raise OSError('once')",
    "a session of its own": "import os, time\nif not os.fork():\n    os.setsid(); time.sleep(5); os._exit(0)\n1 / 0",
    "api that exits": API.format("exit(0)"),
    "api that leaves": API.format("__import__('os')._exit(0)"),
    "api that raises": API.format("1 / 0"),
    "api of 400 digits": crowd.CODE.replace("api = 1", "api = 10 ** 400"),
    "api below 1": crowd.CODE.replace("api = 1", "api = -1"),
    "api without repr": "class R:\n    def __repr__(self): exit(0)\nclass P: api = R()\nplugin = P()",
    "attributes that exit": "class P:\n    def __getattr__(self, name): raise SystemExit\nplugin = P()",
    "a signature that exits": "class F:\n    def __call__(self): pass\n    __signature__ = property(lambda s: exit())\n"
    f"{crowd.CODE}\nCrowd.build = F()\n",
    "resolve that exits": crowd.CODE + "    \nCrowd.resolve = lambda self, name, look: exit(0)\n",
    "resolve of nothing": crowd.CODE + "\nCrowd.resolve = lambda self, name, look: object()\n",
    "build that exits": crowd.CODE + "\nCrowd.build = lambda self, entry, files: exit(0)\n",
    "build of nothing": crowd.CODE,
    "exit handlers": "import atexit, os; atexit.register(os._exit, 0); raise OSError",
    "a thread that stays": "import threading, time\nthreading.Thread(target=time.sleep, args=(30,)).start()\n1 / 0",
}
IN_SUITE = ("os._exit(0)", "abort", "a fork that stays", "a fork that returns", "api that exits", "build that exits")
ROW = json.dumps({**crowd.ROW})
ENTRY_POINTS = {
    "a NUL": "b\0d = crowd_bad:plugin",
    "a NUL as target": "bad = crowd\0bad:plugin",
    "a long name": f"{'b' * 300} = crowd_bad:plugin",
    "a long target": f"bad = {'c' * 300}:plugin",
    "a path as name": "../../bad = crowd_bad:plugin",
    "an escape": "b\x1b[31m = crowd_bad:plugin",
    "a look-alike": "n\u0430tive = crowd_bad:plugin",
    "a first-party name": "native = crowd_bad:plugin",
    "a first-party name in capitals": "NATIVE = crowd_bad:plugin",
    "all first-party names": "native = crowd_bad:plugin\ntimm = crowd_bad:plugin\nhf = crowd_bad:plugin",
    "no target": "bad =",
    "code as target": "bad = os:system('x')",
    "a relative target": "bad = ..crowd_bad:plugin",
    "no name": "= crowd_bad:plugin",
    "2 MB": "x = y:z\n" * 250_000,
    "30,000 names": "".join(f"bad{index} = no_such:plugin\n" for index in range(30_000)),
}
CATALOGUES: dict[str, str | bytes] = {
    "half a surrogate pair": '{"bad/a": {"license": "\\ud800"}}',
    "half a pair in a name": '{"bad/\\udfff": {}}',
    "half a pair in an option": f'{{"bad/a": {ROW[:-1]}, "options": {{"\\uDC00": 1}}}}}}',
    "escapes in a licence": json.dumps({"bad/a": {**crowd.ROW, "license": "\x1b[31m\n\u202e" * 1000}}),
    "escapes in a source": json.dumps({"bad/a": {**crowd.ROW, "source": "hf://\x1b[31m\n"}}),
    "escapes in an alias": json.dumps({"bad/a": {**crowd.ROW, "aliases": ["bad/\x1b[31m\n"]}}),
    "escapes in an unknown key": json.dumps({"bad/a": {**crowd.ROW, "x\x1b[31m\n": 1}}),
    "a nested option": f'{{"bad/a": {ROW[:-1]}, "options": {{"a": {"[" * 800}{"]" * 800}}}}}}}',
    "a nested row": '{"bad/a": ' + "[" * 900 + "]" * 900 + "}",
    "nested 100,000 deep": "[" * 100_000,
    "a number of 5,000 digits": f'{{"bad/a": {{"dim": {"9" * 5000}}}}}',
    "a count of 400 digits": json.dumps({"bad/a": {**crowd.ROW, "params": 10**400}}),
    "a metric of infinity": '{"bad/a": {"metrics": {"x": 1e999}}}',
    "a size of 9 digits": json.dumps({"bad/a": {**crowd.ROW, "input": {"size": 10**9, "mean": [0.5], "std": [0.5]}}}),
    "a long name": json.dumps({f"bad/{'a' * 300}": crowd.ROW}),
    "a look-alike": json.dumps({"b\u0430d/a": crowd.ROW}),
    "a name of native": json.dumps({"native/resnet18.tv_in1k": crowd.ROW}),
    "one name 50,000 times": '{"bad/a": 1' + ', "bad/a": 2' * 50_000 + "}",
    "not UTF-8": b"\xff\xfe\x00",
    "empty": "",
    "null": "null",
    "17 MB": " " * (17 << 20),
    "15 MB of lists": "[" + "[]," * (5 << 20),
}
HARMLESS = ("escapes in a licence", "escapes in a source", "escapes in an alias", "a nested option")
"""Catalogues that are valid: what they hold is escaped where it is printed."""
TOML: dict[str, str | bytes] = {
    "dots": "a" + ".a" * 100_000 + " = 1",
    "dots in a header": "[a" + ".a" * 100_000 + "]",
    "quoted dots": '"a"' + '."a"' * 100_000 + " = 1",
    "5 MB of comments": "#" * (5 << 20),
    "3 MB of rows": "".join(f'["mine/{index}"]\n' for index in range(200_000)),
    "nested lists": "a = " + "[" * 100_000,
    "nested tables": "a = " + "{a=" * 100_000,
    "an integer of 5,000 digits": f'["mine/a"]\ndim = {"9" * 5000}',
    "a date": '["mine/a"]\ndim = 2020-01-01',
    "escapes": '["mine/a"]\nlicense = "\\u001b[31m"\nx = "\\u202e"',
    "a look-alike": f'["n\u0430tive/a"]\n{crowd.ROW}',
    "a name of native": '["native/resnet18.tv_in1k"]\nmodality = "text"\ninput = { files = [], max_length = 9 }',
    "not UTF-8": b'["mine/\xff"]',
    "a NUL": '["mine/a"]\nsource = "file:///\0"',
    "a saved number": '["mine/a"]\nsaved = 3',
    "a saved NUL": '["mine/a"]\nsaved = "a\\u0000b"',
    "a saved home": '["mine/a"]\nsaved = "~no-such-user/x"',
    "a saved folder of 300 characters": f'["mine/a"]\nsaved = "{"b" * 300}"',
}
MANIFESTS: dict[str, str | None] = {
    "nested": "[" * 100_000,
    "nested entry": '{"entry": {"options": {"a": ' + "[" * 900 + "]" * 900 + '}}, "files": {}}',
    "half a pair": '{"entry": {"license": "\\ud800"}, "files": {}}',
    "a list": "[]",
    "files of a list": '{"entry": {}, "files": []}',
    "17 MB": " " * (17 << 20),
    "a named pipe": None,
}


def site(folder: Path) -> Path:
    """Return a folder on sys.path."""
    sys.path.insert(0, str(folder / "site"))
    return folder / "site"


def plugin(code: str, words: list[str], folder: Path) -> list[str]:
    """A command that imports a plugin."""
    os.environ["PYTHONFAULTHANDLER"] = ""
    crowd.install(site(folder), "bad", code)
    (folder / "data" / "a").mkdir(parents=True)
    return words


def entry_points(lines: str, words: list[str], folder: Path) -> list[str]:
    """A command beside a distribution with these entry points."""
    crowd.install(site(folder), "bad")
    path = folder / "site" / "crowd_bad-1.0.dist-info" / "entry_points.txt"
    path.write_text(f"[zoo.plugins]\n{lines}\n")
    return words


def catalogue(content: str | bytes, words: list[str], folder: Path) -> list[str]:
    """A command beside a plugin with this catalogue."""
    crowd.install(site(folder), "bad")
    path = folder / "site" / "crowd_bad" / "catalogue.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return words


def toml(content: str | bytes, words: list[str], folder: Path) -> list[str]:
    """A command in a folder with this zoo.toml."""
    (folder / "zoo.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    return words


def special(name: str, kind: str, words: list[str], folder: Path) -> list[str]:
    """A command in a folder where a file is a named pipe, a device or a folder."""
    if kind == "a named pipe":
        os.mkfifo(folder / name)
    elif kind == "a folder":
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to(kind)
    return words


def manifest(content: str | None, words: list[str], folder: Path) -> list[str]:
    """A command with a saved model in zoo.toml, whose zoo.json is hostile."""
    (folder / "zoo.toml").write_text('["mine/a"]\nsaved = "m"\n')
    (folder / "m").mkdir()
    if content is None:
        os.mkfifo(folder / "m" / "zoo.json")
    else:
        (folder / "m" / "zoo.json").write_text(content)
    return words


LIST, INFO, OTHER = ["list", "native/"], ["info", "bad/a"], ["info", "native/resnet18.tv_in1k"]
FINETUNE = ["finetune", "bad/a", "data"]


def variants() -> Iterator[Case]:
    """Yield the cases; a choice of those that are cheap is in the fast suite."""
    for name, code in CODES.items():
        words = ["info", "bad/b"] if name.startswith("resolve") else FINETUNE
        heavy = name not in IN_SUITE
        yield Case(f"plugin: {name}", partial(plugin, code, words), keeps=("store/plugins/bad",), heavy=heavy)
        yield Case(f"zoo plugins: {name}", partial(plugin, code, ["plugins"]), code=0, heavy=True)
    for index, (name, lines) in enumerate(ENTRY_POINTS.items()):
        yield Case(f"entry point: {name}", partial(entry_points, lines, OTHER), code=0, heavy=bool(index % 4))
        yield Case(f"entry point: {name}: list", partial(entry_points, lines, LIST), code=0, heavy=True)
        yield Case(f"entry point: {name}: plugins", partial(entry_points, lines, ["plugins"]), code=0, heavy=True)
    for index, (name, content) in enumerate(CATALOGUES.items()):
        code, heavy = int(name not in HARMLESS), bool(index % 2) or "MB" in name
        yield Case(f"catalogue: {name}", partial(catalogue, content, INFO), code=code, heavy=heavy)
        yield Case(f"catalogue: {name}: list", partial(catalogue, content, ["list"]), code=0, heavy=index > 0)
    for index, (name, content) in enumerate(TOML.items()):
        heavy = bool(index % 2) or "MB" in name
        yield Case(f"zoo.toml: {name}", partial(toml, content, OTHER), heavy=heavy)
        yield Case(f"zoo.toml: {name}: list", partial(toml, content, LIST), code=0, heavy=index > 0)
    for name, document in MANIFESTS.items():
        yield Case(f"zoo.json: {name}", partial(manifest, document, ["info", "mine/a"]), heavy="MB" in name)
        yield Case(f"zoo.json: {name}: list", partial(manifest, document, LIST), code=0, heavy=True)
    for file in ("zoo.toml", "zoo.lock"):
        for kind in ("a named pipe", "a folder", "/dev/zero", "/proc/self/mem"):
            code = int(kind == "/proc/self/mem")  # claims to be a regular file
            yield Case(f"{file}: {kind}", partial(special, file, kind, OTHER), code=code, heavy=kind == "a folder")


CASES = list(variants())
