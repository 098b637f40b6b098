"""The import tiers: who may import whom, read from the source; and what a quick command really imports."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGINS = [*(ROOT / "plugins" / f"zoo_{name}" for name in ("native", "timm", "hf")), ROOT / "plugins/example/acme_zoo"]
LIBRARIES = {"zoo_timm": {"timm"}, "zoo_hf": {"transformers", "tokenizers"}}
"""What a plugin imports beside torch: the library whose models it brings."""
ROOMS = (
    *("errors", "plugin", "console", "weights", "store", "catalogue", "data", "tasks", "finetune", "model", "testing"),
    *("cli", "__main__"),
)
"""What is at the top of zoo/, lowest first: a room imports from those before it, never from one after it."""
TOP_MOST = 15
"""Files and folders at the top of zoo/: its table of contents."""
TIERS = {
    "zoo": 2,
    "zoo.__main__": 2,
    "zoo.errors": 0,
    "zoo.plugin": 0,
    "zoo.console": 1,
    "zoo.weights": 3,
    "zoo.weights.safetensors_header": 1,
    "zoo.store": 2,
    "zoo.catalogue": 2,
    "zoo.catalogue.plugins": 1,
    "zoo.data": 2,
    "zoo.data.augmentation": 3,
    "zoo.data.batch_options": 3,
    "zoo.data.datasets": 3,
    "zoo.data.duplicates": 3,
    "zoo.data.image_batches": 3,
    "zoo.data.mixup": 3,
    "zoo.data.prepare": 3,
    "zoo.data.sampler": 3,
    "zoo.data.seeding": 3,
    "zoo.data.texts": 3,
    "zoo.tasks": 3,
    "zoo.finetune": 3,
    "zoo.finetune.recipe": 0,
    "zoo.model": 4,
    "zoo.model.artefact": 2,
    "zoo.model.model_card": 1,
    "zoo.testing": 4,
    "zoo.testing.scaffold": 2,
    "zoo.testing.pytest_plugin": 2,
    "zoo.cli": 2,
}
"""0 and 1: standard library only.  2: heavy libraries inside functions only.  3 and 4: torch at the top."""


def modules(folder: Path, above: Path) -> list[tuple[str, Path]]:
    paths = sorted(folder.rglob("*.py"))
    return [(".".join(p.relative_to(above).with_suffix("").parts).removesuffix(".__init__"), p) for p in paths]


def tier(module: str) -> int:
    """Return the tier of a module, or of the nearest package above it that has one."""
    while module not in TIERS:
        module, dot, _ = module.rpartition(".")
        assert dot, "give the module a tier"
    return TIERS[module]


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield (imported module, whether at import time); what only a type checker sees is left out."""
    yield from _imports(ast.parse(path.read_text(encoding="utf-8")), True)


def _imports(node: ast.AST, at_top: bool) -> Iterator[tuple[str, bool]]:
    if isinstance(node, ast.Import):
        yield from ((alias.name, at_top) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        module = node.module or ""
        found = [f"{module}.{alias.name}" for alias in node.names] if module.partition(".")[0] == "zoo" else [module]
        yield from ((name, at_top) for name in found)
    elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        for child in node.orelse:
            yield from _imports(child, at_top)
    else:
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from _imports(child, at_top and not inside)


def foreign(name: str) -> bool:
    return name.partition(".")[0] not in {"zoo", *sys.stdlib_module_names}


CORE = modules(ROOT / "zoo", ROOT)
KNOWN = {name for name, _ in CORE}


def own(name: str) -> str:
    """Return the module that an import of ours means: zoo.errors for zoo.errors.ZooError."""
    return name if name in KNOWN else name.rpartition(".")[0]


@pytest.mark.parametrize(("module", "path"), CORE, ids=[name for name, _ in CORE])
def test_a_module_imports_only_what_its_tier_may(module, path):
    rank = tier(module)
    allowed = (
        {"click"} if module.startswith("zoo.cli") else {"pytest"} if module == "zoo.testing.pytest_plugin" else set()
    )
    for name, at_top in imports(path):
        if name.partition(".")[0] == "zoo":
            assert own(name) in KNOWN, f"{module} imports {name}, which is not there"
            assert tier(own(name)) <= rank or (not at_top and rank >= 2), f"{module} (tier {rank}) imports {name}"
        elif foreign(name) and name not in allowed:
            assert rank >= 3 or (rank == 2 and not at_top), f"{module} (tier {rank}) imports {name}"


DOORS = {"zoo", "zoo.store", "zoo.testing"}
"""Packages that import their public names lazily (PEP 562), and show them to type checkers."""


@functools.cache
def edges() -> dict[str, set[str]]:
    """Return which modules each module imports, inside functions and for type checkers too."""
    found: dict[str, set[str]] = {}
    for module, path in CORE:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {name for node in nodes for name, _ in _imports(node, True) if name.partition(".")[0] == "zoo"}
        found[module] = set() if module in DOORS else {own(name) for name in names} - {module}
    return found


def test_no_import_cycle():
    left = dict(edges())
    while free := [module for module, needed in left.items() if not needed & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"these import each other in a circle, or import from one: {sorted(left)}"


@pytest.mark.parametrize(("module", "path"), CORE, ids=[name for name, _ in CORE])
def test_no_import_goes_up(module, path):
    def room(name: str) -> int:
        return ROOMS.index(name.split(".")[1]) if "." in name else len(ROOMS)

    above = {name for name in edges()[module] if room(name) > room(module)}
    assert not above, f"{module} imports {', '.join(above)}: of a room above its own"


PUBLIC = {"Model.finetune", "finetune"}
"""Functions of users, with as many arguments as they need."""


@pytest.mark.parametrize(("module", "path"), CORE, ids=[name for name, _ in CORE])
def test_files_and_signatures_are_short(module, path):
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 400, f"{module} has more than 400 lines"
    for owner in ast.walk(ast.parse(source)):
        prefix = f"{owner.name}." if isinstance(owner, ast.ClassDef) else ""
        for node in ast.iter_child_nodes(owner):
            if isinstance(node, ast.FunctionDef) and prefix + node.name not in PUBLIC:
                names = {a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
                assert len(names - {"self", "cls"}) <= 6, f"{module}.{prefix}{node.name}: more than six parameters"


def test_the_top_of_the_package_is_a_table_of_contents():
    names = [path.name for path in (ROOT / "zoo").iterdir() if path.name != "__pycache__"]
    assert len(names) <= TOP_MOST, sorted(names)
    inside = [path.name for path in (ROOT / "zoo" / "finetune").iterdir() if path.name != "__pycache__"]
    assert len(inside) <= TOP_MOST, sorted(inside)
    rooms = {name.removesuffix(".py") for name in names} - {"__init__", "py.typed"}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize(("module", "path"), CORE, ids=[name for name, _ in CORE])
def test_core_imports_no_plugin_and_no_family(module, path):
    families = {"zoo_native", "zoo_timm", "zoo_hf", "acme_zoo", "timm", "transformers", "torchvision"}
    assert not families & {name.partition(".")[0] for name, _ in imports(path)}


PLUGIN_MODULES = [pair for folder in PLUGINS for pair in modules(folder, folder.parent)]


@pytest.mark.parametrize(("module", "path"), PLUGIN_MODULES, ids=[name for name, _ in PLUGIN_MODULES])
def test_a_plugin_imports_only_the_contract_and_its_own(module, path):
    package = module.partition(".")[0]
    for name, _ in imports(path):
        if name.partition(".")[0] == "zoo":
            assert name.startswith(("zoo.plugin.", "zoo.errors.")), f"{module} imports {name}"
        elif foreign(name):
            assert name.partition(".")[0] in {package, "torch", *LIBRARIES.get(package, ())}, f"{module} imports {name}"


def loaded(code: str) -> set[str]:
    """Return the modules that a fresh process has loaded after `code`."""
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint(*sys.modules, file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in run.stderr.split()}


QUICK = {
    "import zoo": "import zoo",
    "zoo --help": "from zoo.cli import main; main(['--help'])",
    "zoo list": "from zoo.cli import main; main(['list'])",
    "zoo info": "from zoo.cli import main; main(['info', 'native/resnet18.tv_in1k'])",
}


@pytest.mark.parametrize("command", QUICK)
def test_a_quick_command_imports_nothing_heavy_and_no_plugin(command):
    heavy = {"torch", "numpy", "PIL", "huggingface_hub", "safetensors", "accelerate", "sklearn", "rich", "matplotlib"}
    assert not loaded(QUICK[command]) & (
        heavy | {"zoo_native", "zoo_timm", "zoo_hf", "acme_zoo"} | LIBRARIES["zoo_timm"] | LIBRARIES["zoo_hf"]
    )


def test_import_zoo_loads_the_standard_library_only():
    extra = loaded("import zoo") - loaded("pass") - set(sys.stdlib_module_names)
    assert extra == {"zoo"}
