"""The site: every page of docs/ is in it, its links lead somewhere, and its reference has what the code has."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

import tirazh
from docs.site import reference
from docs.site.hooks import navigation
from docs.site.links import linked_file, site_path, with_site_links
from tests.conftest import REPOSITORY
from tests.docs.texts import help_pages
from tirazh.jobs.settings import KINDS, settings_of

DOCS = REPOSITORY / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="needs mkdocs-material: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Links(HTMLParser):
    """Collects the addresses and the anchors of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.anchors |= {value for name, value in attributes if name in ("id", "name") and value}
        self.targets += [value for name in ("href", "src") if (value := values.get(name))]


@pytest.mark.timeout(900)
def test_the_site_is_built_strictly_and_every_link_leads_somewhere(site: Path) -> None:
    pages = {path: _Links(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert list(_broken(pages)) == []


def _broken(pages: dict[Path, _Links]) -> Iterator[str]:
    """Yield every link of a page to a file or an anchor that the site does not have."""
    for page, links in pages.items():
        for target in links.targets:
            address, anchor = urldefrag(target)
            if urlsplit(target).scheme in ("http", "https", "mailto", "data"):
                continue
            found = (page.parent / unquote(address)).resolve() if address else page
            found = found / "index.html" if found.is_dir() else found
            if not found.is_file():
                yield f"{page}: {target}"
            elif anchor and found in pages and unquote(anchor) not in pages[found].anchors:
                yield f"{page}: {target}"


def test_a_page_loads_nothing_from_another_server(site: Path) -> None:
    start = (site / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"https?:[^\"]*\"", start) == []


def test_every_document_is_a_page_and_the_first_one_shows_the_sparse_attention(site: Path) -> None:
    for path in DOCS.rglob("*.md"):
        place = path.relative_to(DOCS).with_suffix("")
        place = place.parent if place.name == "README" else place
        assert (site / place / "index.html").is_file(), place
    assert "pictures/attention.svg" in (site / "index.html").read_text(encoding="utf-8")


def test_the_navigation_has_every_page_of_the_index_once() -> None:
    text = (DOCS / "README.md").read_text(encoding="utf-8")
    nav = str(navigation(text, sorted(reference.pages())))
    for path in DOCS.rglob("*.md"):
        place = path.relative_to(DOCS).as_posix()
        if "decisions/" not in place:
            assert nav.count(f"'{place}'") == 1, place


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_of_a_kind_has_every_setting_with_its_help(kind: str) -> None:
    page = reference.settings_page(kind)
    for setting in settings_of(kind).values():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{setting.name}` |")]
        assert ("| • |" in row) == setting.is_identity
        assert row.count(" | ") == 5 or "\\|" in row


def test_the_reference_has_the_help_of_every_command_and_the_docstring_of_every_public_name() -> None:
    commands = " ".join(reference.commands_page().split())
    for name, help_page in help_pages().items():
        assert f"## {name} " in commands
        assert help_page.split("options:")[0].split("]")[-1].strip() in commands
    names = reference.python_page()
    for name in tirazh.__all__:
        if callable(getattr(tirazh, name)):
            assert f"\n## {name}\n" in names
    assert "input: str | os.PathLike" in names


def test_links_between_documents_become_links_of_the_site() -> None:
    assert site_path("docs/tutorials/nightly.md") == "tutorials/nightly.md"
    assert site_path("benchmarks/RESULTS.md") == "repository/benchmarks/RESULTS.md"
    changed = with_site_links("[a](../benchmarks/RESULTS.md#b) [c](https://x.y) [d](output.md)", "scale.md")
    assert changed == "[a](repository/benchmarks/RESULTS.md#b) [c](https://x.y) [d](output.md)"
    back = with_site_links(
        "[a](../docs/engine.md)\n```\n[b](../docs/engine.md)\n```\n", "repository/benchmarks/NOTES.md"
    )
    assert back == "[a](../../engine.md)\n```\n[b](../docs/engine.md)\n```\n"
    assert linked_file("docs/a.md", "nothing.md") is None


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: path.relative_to(DOCS).as_posix())
def test_a_file_that_a_document_shows_is_the_file(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name, block in re.findall(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
        assert block == (REPOSITORY / name).read_text(encoding="utf-8"), name


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: path.relative_to(DOCS).as_posix())
def test_a_list_heading_or_table_begins_after_an_empty_line(path: Path) -> None:
    """GitHub shows it without one, the site does not."""
    text = re.sub(r"^```.*?^```", "```", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for before, line in itertools.pairwise(text.splitlines()):
        kind = block_kind(line)
        assert kind is None or not before.strip() or block_kind(before) == kind or before.startswith("  "), line


def block_kind(line: str) -> str | None:
    """Return the kind of block that a line of Markdown is part of, or None for a paragraph."""
    for kind, start in (("list", "- "), ("numbered list", r"\d+\. "), ("heading", "#+ "), ("table", r"\|")):
        if re.match(start, line):
            return kind
    return None
