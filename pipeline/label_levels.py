"""Levels in the names of labels: `sport/football` and `sport/hockey` are below `sport`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

LEVEL = "/"  # between the levels of a name


def levels_above(names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the levels above each label, from the top: `sport` of `sport/football` and `sport/hockey`.

    A level has at least two labels below it. So `Sci/Tech` beside `World` is a plain name with a stroke.
    """
    count = Counter(level for name in names for level in _prefixes(name))
    return {name: tuple(level for level in _prefixes(name) if count[level] > 1) for name in names}


def _prefixes(name: str) -> list[str]:
    parts = name.split(LEVEL)
    return [LEVEL.join(parts[:count]) for count in range(1, len(parts))]
