"""Imports go jobs → pipeline → actors → model and never back, and heavy libraries stay where they belong.

It reads the source code, function bodies included: an import inside a function counts.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("jobs", "pipeline", "actors", "model")
SOURCES = sorted(path for folder in (*FOLDERS, "tirazh") for path in (REPOSITORY / folder).rglob("*.py"))
CODE = sorted(
    {
        *SOURCES,
        *(path for folder in ("tests", "benchmarks", "examples") for path in (REPOSITORY / folder).rglob("*.py")),
    }
)
# The folders that each folder may import. Every module may import `tirazh.errors`.
ALLOWED = {
    "model": {"model"},
    "actors": {"actors", "model"},
    "pipeline": {"pipeline", "actors", "model"},
    "jobs": {"jobs", "pipeline", "actors", "model"},
    "tirazh": {"jobs", "pipeline", "model"},
}
# Modules of `model` that load no torch, so that `pipeline` may import them.
TORCH_FREE = {
    "tirazh.model.architectures",
    "tirazh.model.checkpoints.directory",
    "tirazh.model.checkpoints.files",
    "tirazh.model.checkpoints.task",
    "tirazh.model.config",
    "tirazh.model.cpu_features",
    "tirazh.model.constraints.grammar",
    "tirazh.model.constraints.schema_text",
    "tirazh.model.constraints.tokens",
    "tirazh.model.convert",
    "tirazh.model.requests",
    "tirazh.model.tokenizer",
    "tirazh.model.training.adapter",
    "tirazh.model.training.batch_order",
    "tirazh.model.training.checkpoint",
    "tirazh.model.byte_text",
    "tirazh.model.training.disk_room",
    "tirazh.model.training.export",
    "tirazh.model.training.label_file",
    "tirazh.model.training.log",
    "tirazh.model.training.lora",
    "tirazh.model.training.config",
    "tirazh.model.training.selection",
    "tirazh.model.training.sequence_store",
}
PLAIN = (
    "actors/messages.py",
    "model/architectures.py",
    "model/config.py",
    "model/requests.py",
    "model/training/log.py",
    "model/training/config.py",
    "model/training/selection.py",
    "tirazh/errors.py",
)
TORCH_LIBRARIES = {"torch", "deepspeed", "transformers"}


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


@cache
def imports_of(path: Path, *, at_load_only: bool = False) -> tuple[tuple[int, str], ...]:
    """Return (line, dotted module) of every import. `import_module("x")` with a literal counts."""
    return tuple(_find_imports(path, at_load_only))


def _find_imports(path: Path, at_load_only: bool) -> Iterator[tuple[int, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = _not_run_at_load(tree) if at_load_only else set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: relative import; write the full name of the module"
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            literal = node.args[0] if node.args else None
            if isinstance(literal, ast.Constant):
                yield node.lineno, str(literal.value)


def _not_run_at_load(tree: ast.Module) -> set[ast.AST]:
    """Return all nodes inside functions and `if TYPE_CHECKING:`."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_typing = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if is_function or is_typing:
            skipped |= set(ast.walk(node)) - {node}
    return skipped


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_folder_imports_only_the_folders_below_it(path: Path) -> None:
    folder = path.relative_to(REPOSITORY).parts[0]
    for line, module in imports_of(path):
        below = _folder_of(module)
        if below is not None:
            assert below in ALLOWED[folder], f"{name_of(path)}:{line} imports {module}; {folder} must not"


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_no_file_imports_a_folder_by_its_bare_name(path: Path) -> None:
    """`import model` could import a `model.py` of the user's directory."""
    for line, module in imports_of(path):
        assert module.split(".")[0] not in FOLDERS, f"{name_of(path)}:{line} imports {module}; write tirazh.{module}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_package_holds_each_folder_by_a_relative_link(folder: str) -> None:
    link = REPOSITORY / "tirazh" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("..") / folder


@pytest.mark.parametrize("folder", FOLDERS)
def test_modules_and_subfolders_of_a_folder_do_not_import_each_other_in_cycles(folder: str) -> None:
    """A subfolder counts as one node, so `plan.py` may not import `output/` if `output/` imports `plan.py`."""
    graph: dict[str, set[str]] = {}
    for path in _under(folder):
        node = path.relative_to(REPOSITORY / folder).parts[0].removesuffix(".py")
        for _, module in imports_of(path):
            parts = module.split(".")
            if parts[:2] == ["tirazh", folder] and len(parts) > 2 and parts[2] != node:
                graph.setdefault(node, set()).add(parts[2])
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_the_model_never_imports_ray() -> None:
    assert _importers("ray", under=("model",)) == set()


def test_only_two_modules_import_deepspeed() -> None:
    """One for the ranks of inference, one for the workers of training."""
    assert _importers("deepspeed", under=FOLDERS) <= {"model/tensor_parallel.py", "model/training/zero.py"}


@pytest.mark.parametrize("name", PLAIN)
def test_widely_imported_modules_need_only_the_standard_library(name: str) -> None:
    for line, module in imports_of(REPOSITORY / name):
        top = module.split(".")[0]
        assert top in {*sys.stdlib_module_names, "tirazh"}, f"{name}:{line} imports {module}"


def test_the_pipeline_and_the_replica_import_no_torch() -> None:
    for path in (*_under("pipeline"), REPOSITORY / "actors/replica.py", REPOSITORY / "actors/messages.py"):
        for line, module in imports_of(path) if path.exists() else ():
            assert module.split(".")[0] not in TORCH_LIBRARIES, f"{name_of(path)}:{line} imports {module}"


def test_the_pipeline_imports_only_torch_free_modules_of_the_model() -> None:
    for path in _under("pipeline"):
        for line, module in imports_of(path):
            if _folder_of(module) == "model":
                assert _is_torch_free(module), f"{name_of(path)}:{line} imports {module}"


@pytest.mark.parametrize("module", sorted(TORCH_FREE))
def test_torch_free_modules_load_no_torch(module: str) -> None:
    path = _file_of(module)
    if path is None:
        pytest.skip(f"there is no module {module}")
    _assert_loads_no_torch(module, seen=set())


def _assert_loads_no_torch(module: str, *, seen: set[str]) -> None:
    path = _file_of(module)
    if path is None or module in seen:
        return
    seen.add(module)
    for line, imported in imports_of(path, at_load_only=True):
        assert imported.split(".")[0] not in TORCH_LIBRARIES, f"{name_of(path)}:{line} imports {imported}"
        _assert_loads_no_torch(imported, seen=seen)


def _is_torch_free(module: str) -> bool:
    return any(module == name or module.startswith(name + ".") for name in TORCH_FREE)


def _folder_of(module: str) -> str | None:
    """Return `pipeline` for `tirazh.pipeline.plan`; None for other libraries and for `tirazh.errors`."""
    parts = module.split(".")
    return parts[1] if parts[0] == "tirazh" and len(parts) > 1 and parts[1] in FOLDERS else None


def _file_of(module: str) -> Path | None:
    base = REPOSITORY.joinpath(*module.split("."))
    found = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in found if module.split(".")[0] == "tirazh" and path.exists()), None)


def _under(folder: str) -> list[Path]:
    return sorted((REPOSITORY / folder).rglob("*.py"))


def _importers(library: str, *, under: tuple[str, ...]) -> set[str]:
    paths = [path for folder in under for path in _under(folder)]
    return {name_of(path) for path in paths if any(module.split(".")[0] == library for _, module in imports_of(path))}
