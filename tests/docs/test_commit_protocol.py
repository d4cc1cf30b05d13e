"""docs/commit-protocol.md: every claim names a test, and every test that it names exists."""

from __future__ import annotations

import ast
import re

from tests.docs.texts import REPOSITORY

PAGE = (REPOSITORY / "docs/commit-protocol.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"(tests/[\w/]+\.py)::(test_\w+)", PAGE)))


def test_every_named_test_exists() -> None:
    tests = {path: _tests_in(path) for path, _ in NAMED}
    assert [f"{path}::{name}" for path, name in NAMED if name not in tests[path]] == []


def test_every_section_about_behaviour_names_tests() -> None:
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))
    assert [title for title, text in sections.items() if "::test_" not in text] == []
    assert len(NAMED) > 25


def _tests_in(path: str) -> set[str]:
    tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
