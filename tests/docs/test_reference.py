"""The runbook, the Python API page, the index and the README's first screen are complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tirazh
from tests.conftest import REPOSITORY
from tests.docs.texts import DOCUMENTS, PACKAGES, fenced_blocks, name_of, sources_of
from tirazh import errors

RUNBOOK = (REPOSITORY / "docs/runbook.md").read_text(encoding="utf-8")
ERRORS = sorted(
    name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)
)
EXIT_CODES = (0, 1, 2, 3, 130, 143)
FIRST_SCREEN = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()[:40]


def anchors_of(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub builds them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ERRORS)
def test_the_runbook_has_a_section_for_every_error_class(name: str) -> None:
    assert f"\n### {name}\n" in RUNBOOK


@pytest.mark.parametrize("code", EXIT_CODES)
def test_the_runbook_has_a_section_for_every_exit_code(code: int) -> None:
    assert f"\n### Exit code {code}\n" in RUNBOOK


def test_a_heading_of_the_runbook_is_there_once() -> None:
    headings = re.findall(r"^#+ .+$", RUNBOOK, flags=re.MULTILINE)
    assert sorted(headings) == sorted(set(headings))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_a_link_with_an_anchor_leads_to_a_heading(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)#([\w-]+)\)", path.read_text(encoding="utf-8")):
        document = path.parent / target if target else path
        assert anchor in anchors_of(document), f"{name_of(path)} links to {target}#{anchor}"


def test_every_page_is_in_the_index() -> None:
    index = (REPOSITORY / "docs/README.md").read_text(encoding="utf-8")
    linked = {(REPOSITORY / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#:\s]+)\)", index)}
    pages = [path for path in (REPOSITORY / "docs").rglob("*.md") if path.parent.name != "decisions"]
    assert [name_of(path) for path in pages if path.name != "README.md" and path not in linked] == []


def test_every_decision_is_in_their_index() -> None:
    folder = REPOSITORY / "docs/decisions"
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (folder / "README.md").read_text(encoding="utf-8")))
    assert linked == {path.name for path in folder.glob("*.md")} - {"README.md"}


def documented_names() -> list[str]:
    """Return the names that the Python API page writes as `tirazh.NAME`."""
    text = (REPOSITORY / "docs/python-api.md").read_text(encoding="utf-8")
    return sorted(set(re.findall(r"\btirazh\.([A-Za-z_]\w*)", text)))


@pytest.mark.parametrize("name", documented_names())
def test_a_documented_name_can_be_imported(name: str) -> None:
    assert name in tirazh.__all__
    assert hasattr(tirazh, name)


def test_every_public_name_is_documented() -> None:
    assert set(tirazh.__all__) <= {*documented_names(), "__version__"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_python_in_a_document_compiles(path: Path) -> None:
    for block in fenced_blocks(path, "python"):
        compile(block, name_of(path), "exec")


@pytest.mark.parametrize(
    "wanted", ["pip install", "on disk", "It is for people who", "![One sparse head", "vLLM", "SGLang", "Ray Data LLM"]
)
def test_the_first_screen_of_the_readme_has_what_a_newcomer_needs(wanted: str) -> None:
    assert any(wanted in line for line in FIRST_SCREEN)


def test_the_example_of_the_first_screen_has_at_most_six_lines() -> None:
    (example, *_) = fenced_blocks(REPOSITORY / "README.md", "python")
    assert len([line for line in example.splitlines() if line]) <= 6
    assert all(line in FIRST_SCREEN for line in example.splitlines())


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_a_code_name_in_a_document_occurs_in_the_code(path: Path, words_of_code: frozenset[str]) -> None:
    """Code names are words in backticks with an underscore inside, such as `load_pretrained`."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    names = [quoted.split(".")[-1] for quoted in re.findall(r"`([A-Za-z]\w*(?:\.[a-z]\w*)?)`", text)]
    assert [name for name in names if "_" in name.strip("_") and name not in words_of_code] == []


@pytest.fixture(scope="module")
def words_of_code() -> frozenset[str]:
    folders = (*PACKAGES, "tests", "examples")
    files = [path for folder in folders for path in sources_of(folder)] + list((REPOSITORY / "model").rglob("*.c"))
    return frozenset(word for path in files for word in re.findall(r"\w+", path.read_text(encoding="utf-8")))
