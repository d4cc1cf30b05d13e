"""Hooks of mkdocs: adds the reference and linked files of the repository, rewrites links, makes the navigation.

`python -m mkdocs build --strict` runs them, from the directory of the repository.
"""

from __future__ import annotations

import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.site import reference
from docs.site.links import REPOSITORY, linked_outside, site_path, with_site_links

INDEX = "README.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the navigation from the index page, so that both name the same pages."""
    text = (REPOSITORY / "docs" / INDEX).read_text(encoding="utf-8")
    config.nav = navigation(text, sorted(reference.pages()))
    return config


def navigation(index: str, reference_pages: list[str]) -> list[Any]:
    """Return the pages of the index by its headings, each page once, then the reference."""
    nav: list[Any] = [{"Start": INDEX}]
    seen = {INDEX}
    for section in index.split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        links = re.findall(r"\[([^\]]+)\]\(([^)#\s]+\.md)(?:#[^)]*)?\)", text)
        places = [(title, site_path(target[3:]) if target.startswith("../") else target) for title, target in links]
        new = {place: title for title, place in reversed(places) if place not in seen and place not in reference_pages}
        seen |= set(new)
        if new:
            nav.append({heading: [{title: place} for place, title in reversed(new.items())]})
    return [*nav, {"Reference": reference_pages}]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference, and the files outside of docs/ to which documents link."""
    for place, text in reference.pages().items():
        files.append(File.generated(config, place, content=text))
    documents = [f"docs/{file.src_uri}" for file in files if (REPOSITORY / "docs" / file.src_uri).is_file()]
    for path in linked_outside(documents):
        files.append(File.generated(config, site_path(path), abs_src_path=str(REPOSITORY / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page for the site."""
    return with_site_links(markdown, page.file.src_uri)
