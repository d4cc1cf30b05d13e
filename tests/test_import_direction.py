"""Imports go jobs → pipeline → actors → model and never back, and heavy libraries stay where they belong.

Reads the source, function bodies included: an import put inside a function is an import all the same.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = ("jobs", "pipeline", "actors", "model")
SOURCES = sorted(path for room in (*ROOMS, "tirazh") for path in (REPOSITORY / room).rglob("*.py"))
# What each room may import of ours. `tirazh._siblings` imports nothing and is open to all.
ALLOWED = {
    "model": {"model"},
    "actors": {"actors", "model"},
    "pipeline": {"pipeline", "actors", "model"},
    "jobs": {"jobs", "pipeline", "actors", "model"},
    "tirazh": {"tirazh", "jobs", "model"},
}
# Of `model`, what may be imported where torch is not wanted: these files import no torch when they are loaded.
TORCH_FREE = {
    *("model.config", "model.errors", "model.requests", "model.tokenizer", "model.checkpoint", "model.sequence_store"),
    *("model.label_file", "model.training_plan", "model.training_log", "model.training_checkpoint"),
    *("model.training_export", "model.lora"),
}
PLAIN = (
    *("model/errors.py", "model/config.py", "model/requests.py", "model/training_plan.py", "model/training_log.py"),
    *("actors/messages.py", "tirazh/_siblings.py"),
)
TORCH_LIBRARIES = {"torch", "deepspeed", "transformers"}


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def imports_of(path: Path, *, at_load_only: bool = False) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import. `import_module("x")` with a literal counts as one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = _not_run_at_load(tree) if at_load_only else set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: relative import; modules have one name here"
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            literal = node.args[0] if node.args else None
            if isinstance(literal, ast.Constant):
                yield node.lineno, str(literal.value)


def _not_run_at_load(tree: ast.Module) -> set[ast.AST]:
    """Everything inside functions and `if TYPE_CHECKING:`."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_typing = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if is_function or is_typing:
            skipped |= set(ast.walk(node)) - {node}
    return skipped


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_room_imports_only_the_rooms_below_it(path: Path) -> None:
    room = path.relative_to(REPOSITORY).parts[0]
    for line, module in imports_of(path):
        top = module.split(".")[0]
        if top in ALLOWED and module != "tirazh._siblings":
            assert top in ALLOWED[room], f"{name_of(path)}:{line} imports {module}; {room} must not"


def test_the_model_never_imports_ray() -> None:
    assert _importers("ray", under=("model",)) == set()


def test_only_two_files_import_deepspeed() -> None:
    """One for ranks that serve, one for workers that train."""
    assert _importers("deepspeed", under=ROOMS) <= {"model/tensor_parallel.py", "model/zero.py"}


@pytest.mark.parametrize("name", PLAIN)
def test_what_everyone_imports_needs_only_the_standard_library(name: str) -> None:
    for line, module in imports_of(REPOSITORY / name):
        top = module.split(".")[0]
        assert top in sys.stdlib_module_names or top in ROOMS, f"{name}:{line} imports {module}"


def test_the_pipeline_and_the_replica_import_no_torch() -> None:
    for path in (*_under("pipeline"), REPOSITORY / "actors/replica.py", REPOSITORY / "actors/messages.py"):
        for line, module in imports_of(path) if path.exists() else ():
            assert module.split(".")[0] not in TORCH_LIBRARIES, f"{name_of(path)}:{line} imports {module}"


def test_the_pipeline_takes_only_what_is_free_of_torch_from_the_model() -> None:
    for path in _under("pipeline"):
        for line, module in imports_of(path):
            if module.split(".")[0] == "model":
                assert _is_torch_free(module), f"{name_of(path)}:{line} imports {module}"


@pytest.mark.parametrize("module", sorted(TORCH_FREE))
def test_what_is_called_free_of_torch_is(module: str) -> None:
    path = _file_of(module)
    if path is None:
        pytest.skip(f"there is no {module} yet")
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


def _file_of(module: str) -> Path | None:
    base = REPOSITORY.joinpath(*module.split("."))
    found = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in found if module.split(".")[0] in ROOMS and path.exists()), None)


def _under(room: str) -> list[Path]:
    return sorted((REPOSITORY / room).rglob("*.py"))


def _importers(library: str, *, under: tuple[str, ...]) -> set[str]:
    paths = [path for room in under for path in _under(room)]
    return {name_of(path) for path in paths if any(module.split(".")[0] == library for _, module in imports_of(path))}
