"""Where files of the repository are in the site, and the links between them.

Documents link to each other as files of the repository, so that they can be read there. In the site, `docs/` is the
root, and linked files outside of it are below `repository/`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
OUTSIDE = "repository/"
_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
_FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def site_path(path: str) -> str:
    """Return the place in the site of a file, both as paths with slashes: of `docs/a.md` it is `a.md`."""
    return path.removeprefix("docs/") if path.startswith("docs/") else OUTSIDE + path


def repository_path(path: str) -> str:
    """Return the file of a place in the site: of `repository/CHANGELOG.md` it is `CHANGELOG.md`."""
    return path.removeprefix(OUTSIDE) if path.startswith(OUTSIDE) else f"docs/{path}"


def with_site_links(markdown: str, page: str) -> str:
    """Return the text of a page with its links to files rewritten for the site. `page` is its place there."""
    source = repository_path(page)

    def rewritten(match: re.Match[str]) -> str:
        target = linked_file(source, match[2])
        if target is None:
            return match[0]
        return match[1] + os.path.relpath(site_path(target), os.path.dirname(page) or ".") + match[3]

    return _outside_fences(markdown, lambda text: _LINK.sub(rewritten, text))


def linked_file(source: str, target: str) -> str | None:
    """Return the file of the repository to which a link in the file `source` leads, or None for other links."""
    if re.match(r"[a-z]+:", target):
        return None
    path = os.path.normpath(os.path.join(os.path.dirname(source), target))
    return path if (REPOSITORY / path).is_file() else None


def linked_outside(sources: list[str]) -> Iterator[str]:
    """Yield every file outside of `docs/` to which these files lead, over any number of links."""
    seen = set(sources)
    waiting = list(sources)
    while waiting:
        source = waiting.pop()
        if not source.endswith(".md"):
            continue
        text = "".join(_FENCE.split((REPOSITORY / source).read_text(encoding="utf-8"))[::2])
        for _, target, _ in _LINK.findall(text):
            found = linked_file(source, target)
            if found is None or found in seen:
                continue
            seen.add(found)
            waiting.append(found)
            if not found.startswith("docs/"):
                yield found


def _outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    parts = _FENCE.split(markdown)
    return "".join(part if index % 2 else change(part) for index, part in enumerate(parts))
