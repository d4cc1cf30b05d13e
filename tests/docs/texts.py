"""The texts that the document tests read: documents, help pages, and the prose in source files."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

from tests.conftest import REPOSITORY
from tirazh.jobs.cli import build_parser

DOCUMENTS = sorted(
    [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / "benchmarks").rglob("*.md")]
)
PACKAGES = ("tirazh", "jobs", "pipeline", "actors", "model", "benchmarks")


def name_of(path: Path) -> str:
    """Return a path relative to the repository."""
    return path.relative_to(REPOSITORY).as_posix()


def sources_of(package: str) -> list[Path]:
    """Return the Python files of a package, without the folders that are linked into it."""
    return sorted(path for path in (REPOSITORY / package).rglob("*.py") if path.resolve() == path)


def help_pages() -> dict[str, str]:
    """Return the help text of every command by its name, on one line each."""
    parser, commands = build_parser()
    pages = {"tirazh": parser.format_help()} | {name: command.format_help() for name, command in commands.items()}
    return {name: " ".join(page.split()) for name, page in pages.items()}


def prose_of(path: Path) -> str:
    """Return the docstrings and comments of a Python file."""
    source = path.read_text(encoding="utf-8")
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docstrings = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    return "\n".join([*docstrings, *comments])


def fenced_blocks(path: Path, language: str) -> list[str]:
    """Return the contents of a document's fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
