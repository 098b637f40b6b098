"""Import rules: tiers and layers of modules, checked in the source; modules loaded by fast commands."""

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
"""Libraries a plugin may import in addition to torch."""
LAYERS = (
    *("errors", "plugin", "console", "weights", "store", "catalogue", "data", "tasks", "finetune", "export", "model"),
    *("jobs", "evidence", "testing", "cli", "__main__"),
)
"""Modules and packages at the top of zoo/, lowest first; a layer imports only from itself and lower layers."""
UPWARD = {("zoo.model.model", "zoo.evidence.report.report")}
"""Imports of a higher layer, in functions alone: Model.report and finetune(report=True) open what reads a Model."""
MAX_TOP_LEVEL, MAX_FINETUNE = 18, 16
"""Maximum numbers of files and folders at the top of zoo/ and of zoo/finetune/."""
TIERS = {
    "zoo": 2,
    "zoo.__main__": 2,
    "zoo.errors": 0,
    "zoo.plugin": 0,
    "zoo.console": 1,
    "zoo.weights": 3,
    "zoo.weights.guard": 2,
    "zoo.weights.safetensors_header": 1,
    "zoo.store": 2,
    "zoo.catalogue": 2,
    "zoo.data": 2,
    "zoo.data.augmentation": 3,
    "zoo.data.batch_options": 3,
    "zoo.data.custom_augmentation": 3,
    "zoo.data.datasets": 3,
    "zoo.data.duplicates": 3,
    "zoo.data.image_batches": 3,
    "zoo.data.mixup": 3,
    "zoo.data.prepare": 3,
    "zoo.data.sampler": 3,
    "zoo.data.seeding": 3,
    "zoo.data.on_access": 3,
    "zoo.data.streaming.streamed_dataset": 3,
    "zoo.data.streaming.windows": 3,
    "zoo.data.streaming.in_memory": 3,
    "zoo.data.texts": 3,
    "zoo.tasks": 3,
    "zoo.finetune": 3,
    "zoo.finetune.recipe": 0,
    "zoo.model": 4,
    "zoo.model.artefact": 2,
    "zoo.model.model_card": 2,
    "zoo.jobs": 2,
    "zoo.evidence": 4,
    "zoo.export": 3,
    "zoo.export.formats": 1,
    "zoo.testing": 4,
    "zoo.testing.scaffold": 2,
    "zoo.testing.pytest_plugin": 2,
    "zoo.cli": 2,
}
"""0 and 1: standard library only.  2: heavy libraries inside functions only.  3 and 4: torch at the top."""


def modules(folder: Path, root: Path) -> list[tuple[str, Path]]:
    paths = sorted(folder.rglob("*.py"))
    return [(".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__"), p) for p in paths]


def tier(module: str) -> int:
    """Return the tier of a module, or of its closest parent package that has one."""
    while module not in TIERS:
        module, dot, _ = module.rpartition(".")
        assert dot, "add the module to TIERS"
    return TIERS[module]


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield (imported module, whether at import time); skips TYPE_CHECKING blocks."""
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


def is_third_party(name: str) -> bool:
    return name.partition(".")[0] not in {"zoo", *sys.stdlib_module_names}


CORE = modules(ROOT / "zoo", ROOT)
KNOWN = {name for name, _ in CORE}


def module_of(name: str) -> str:
    """Return the module of an imported name: zoo.errors for zoo.errors.ZooError."""
    return name if name in KNOWN else name.rpartition(".")[0]


@pytest.mark.parametrize(("module", "path"), CORE, ids=[name for name, _ in CORE])
def test_module_imports_only_what_its_tier_allows(module, path):
    own_tier = tier(module)
    allowed = (
        {"click"} if module.startswith("zoo.cli") else {"pytest"} if module == "zoo.testing.pytest_plugin" else set()
    )
    for name, at_top in imports(path):
        if name.partition(".")[0] == "zoo":
            assert module_of(name) in KNOWN, f"{module} imports {name}, which does not exist"
            assert tier(module_of(name)) <= own_tier or (not at_top and own_tier >= 2), (
                f"{module} (tier {own_tier}) imports {name}"
            )
        elif is_third_party(name) and name not in allowed:
            assert own_tier >= 3 or (own_tier == 2 and not at_top), f"{module} (tier {own_tier}) imports {name}"


LAZY_PACKAGES = {"zoo", "zoo.store", "zoo.testing"}
"""Packages that import their public names lazily (PEP 562), except for type checkers."""


@functools.cache
def edges() -> dict[str, set[str]]:
    """Return the zoo modules each module imports, including imports in functions and TYPE_CHECKING blocks."""
    found: dict[str, set[str]] = {}
    for module, path in CORE:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {name for node in nodes for name, _ in _imports(node, True) if name.partition(".")[0] == "zoo"}
        found[module] = set() if module in LAZY_PACKAGES else {module_of(name) for name in names} - {module}
        found[module] -= {higher for lower, higher in UPWARD if lower == module}
    return found


@pytest.mark.parametrize(("lower", "higher"), UPWARD)
def test_upward_imports_are_in_functions(lower, higher):
    found = {at_top for name, at_top in imports(dict(CORE)[lower]) if module_of(name) == higher}
    assert found == {False}


def test_no_import_cycle():
    remaining = dict(edges())
    while free := [module for module, needed in remaining.items() if not needed & remaining.keys()]:
        for module in free:
            del remaining[module]
    assert not remaining, f"modules in an import cycle, or importing from one: {sorted(remaining)}"


@pytest.mark.parametrize(("module", "path"), CORE, ids=[name for name, _ in CORE])
def test_no_import_from_a_higher_layer(module, path):
    def layer(name: str) -> int:
        return LAYERS.index(name.split(".")[1]) if "." in name else len(LAYERS)

    higher = {name for name in edges()[module] if layer(name) > layer(module)}
    assert not higher, f"{module} imports {', '.join(higher)} from a higher layer"


PUBLIC = {"Model.finetune", "Model.generate", "compare", "finetune", "rank", "report", "search"}
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


def test_top_level_modules_are_the_layers():
    names = [path.name for path in (ROOT / "zoo").iterdir() if path.name != "__pycache__"]
    assert len(names) <= MAX_TOP_LEVEL, sorted(names)
    inside = [path.name for path in (ROOT / "zoo" / "finetune").iterdir() if path.name != "__pycache__"]
    assert len(inside) <= MAX_FINETUNE, sorted(inside)
    layers = {name.removesuffix(".py") for name in names} - {"__init__", "py.typed"}
    assert layers == set(LAYERS)


@pytest.mark.parametrize(("module", "path"), CORE, ids=[name for name, _ in CORE])
def test_core_imports_no_plugins_or_model_libraries(module, path):
    families = {"zoo_native", "zoo_timm", "zoo_hf", "acme_zoo", "timm", "transformers", "torchvision"}
    assert not families & {name.partition(".")[0] for name, _ in imports(path)}


PLUGIN_MODULES = [pair for folder in PLUGINS for pair in modules(folder, folder.parent)]


@pytest.mark.parametrize(("module", "path"), PLUGIN_MODULES, ids=[name for name, _ in PLUGIN_MODULES])
def test_plugin_imports_only_the_plugin_contract_and_itself(module, path):
    package = module.partition(".")[0]
    for name, _ in imports(path):
        if name.partition(".")[0] == "zoo":
            assert name.startswith(("zoo.plugin.", "zoo.errors.")), f"{module} imports {name}"
        elif is_third_party(name):
            assert name.partition(".")[0] in {package, "torch", *LIBRARIES.get(package, ())}, f"{module} imports {name}"


def loaded(code: str) -> set[str]:
    """Return the top-level modules loaded in a subprocess after running `code`."""
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint(*sys.modules, file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in run.stderr.split()}


FAST = {
    "import zoo": "import zoo",
    "zoo --help": "from zoo.cli import main; main(['--help'])",
    "zoo list": "from zoo.cli import main; main(['list'])",
    "zoo info": "from zoo.cli import main; main(['info', 'native/resnet18.tv_in1k'])",
}


@pytest.mark.parametrize("command", FAST)
def test_fast_command_imports_no_heavy_libraries_or_plugins(command):
    heavy = {"torch", "numpy", "PIL", "huggingface_hub", "safetensors", "accelerate", "sklearn", "rich", "matplotlib"}
    assert not loaded(FAST[command]) & (
        heavy | {"zoo_native", "zoo_timm", "zoo_hf", "acme_zoo"} | LIBRARIES["zoo_timm"] | LIBRARIES["zoo_hf"]
    )


def test_import_zoo_loads_only_the_standard_library():
    extra = loaded("import zoo") - loaded("pass") - set(sys.stdlib_module_names)
    assert extra == {"zoo"}
