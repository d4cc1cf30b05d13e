"""Documents, help pages, docstrings and comments use plain English and the usual terms of the field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.texts import DOCUMENTS, PACKAGES, help_pages, name_of, prose_of, sources_of

# Literal translations and private words that earlier versions used.
AVOIDED = re.compile(
    r"foretold|foretell|shortened to|\bsigns\b|strangers|\bmended\b|a training goes|cannot do without|not numbers|"
    r"\bbegun\b|goes on|\bnobody\b|\bhung\b|spoilt|\bscrub",
    flags=re.IGNORECASE,
)
# A reader who searches for a technique by its name must find it.
STANDARD_TERMS = (
    "chunked prefill",
    "continuous batching",
    "overlap scheduling",
    "CUDA graph capture",
    "heartbeat",
    "non-finite",
    "contextual calibration",
    "gradient clipping",
    "nucleus sampling",
    "tree attention",
    "KV cache",
    "fencing",
)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_a_document_avoids_private_words(path: Path) -> None:
    assert AVOIDED.findall(_one_line(path)) == []


@pytest.mark.parametrize("command", help_pages())
def test_a_help_page_avoids_private_words(command: str) -> None:
    assert AVOIDED.findall(help_pages()[command]) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_and_comments_avoid_private_words(package: str) -> None:
    found = {name_of(path): AVOIDED.findall(" ".join(prose_of(path).split())) for path in sources_of(package)}
    assert {name: words for name, words in found.items() if words} == {}


@pytest.mark.parametrize("term", STANDARD_TERMS)
def test_a_technique_is_found_by_its_usual_name(term: str) -> None:
    texts = [*map(_one_line, DOCUMENTS), *help_pages().values()]
    assert any(term.lower() in text.lower() for text in texts)


def _one_line(path: Path) -> str:
    return " ".join(path.read_text(encoding="utf-8").split())
