"""Glob patterns for paths and URIs, with one meaning on disks and in object stores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property

_WILDCARDS = "*?["
_ANY_DEPTH = "**"


def has_wildcard(uri: str) -> bool:
    """Whether `uri` holds a character that has a meaning in a pattern."""
    return any(wildcard in uri for wildcard in _WILDCARDS)


def is_hidden_name(name: str) -> bool:
    """Whether readers of a directory skip this name: it begins with `_` or `.`."""
    return name.startswith(("_", "."))


def is_hidden(key: str) -> bool:
    """Whether a name on the path `key` is hidden."""
    return any(map(is_hidden_name, key.split("/")))


@dataclass(frozen=True)
class Pattern:
    """A path or URI in which `*`, `?` and `[...]` match within one name, and the name `**` any number of directories.

    A hidden name is matched only by a pattern that begins with the same `_` or `.`.
    """

    text: str

    @cached_property
    def base(self) -> str:
        """The directory before the first wildcard."""
        return self._before_wildcard.rpartition("/")[0] or "/"

    @cached_property
    def beginning(self) -> str:
        """How the names below `base` begin: the characters between `base` and the first wildcard."""
        return self._before_wildcard.rpartition("/")[2]

    def matches(self, uri: str) -> bool:
        """Whether the whole `uri` matches."""
        names = uri.split("/")
        return len(names) in self._matched_lengths(names)

    def matches_above(self, uri: str) -> bool:
        """Whether a directory above `uri` matches, with no hidden name between it and `uri`."""
        names = uri.split("/")
        return any(not any(map(is_hidden_name, names[length:])) for length in self._matched_lengths(names[:-1]))

    def may_match_below(self, directory: str) -> bool:
        """Whether a name below `directory` may match, so that it has to be listed."""
        return bool(self._states(directory.split("/"))[-1]) or self.matches_above(f"{directory}/x")

    @cached_property
    def _before_wildcard(self) -> str:
        return self.text[: min(self.text.index(wildcard) for wildcard in _WILDCARDS if wildcard in self.text)]

    @cached_property
    def _parts(self) -> tuple[str | re.Pattern[str], ...]:
        """The names of the pattern; those with wildcards are compiled."""
        return tuple(
            re.compile(translate(part)) if has_wildcard(part) and part != _ANY_DEPTH else part
            for part in self.text.split("/")
        )

    def _matched_lengths(self, names: Sequence[str]) -> list[int]:
        """The numbers of leading names that the whole pattern matches."""
        end = len(self._parts)
        return [length for length, states in enumerate(self._states(names)) if length and end in states]

    def _states(self, names: Sequence[str]) -> list[frozenset[int]]:
        """After each number of leading names, the positions in the pattern up to which they match."""
        states = [self._with_empty_matches({0})]
        for name in names:
            states.append(self._with_empty_matches({after for at in states[-1] for after in self._step(at, name)}))
        return states

    def _step(self, at: int, name: str) -> tuple[int, ...]:
        if at == len(self._parts):
            return ()
        part = self._parts[at]
        if part == _ANY_DEPTH:
            return () if is_hidden_name(name) else (at,)
        if isinstance(part, str):
            return (at + 1,) if part == name else ()
        # The expression of a name begins like the name itself unless that begins with a wildcard.
        is_visible = not is_hidden_name(name) or self.text.split("/")[at][0] == name[0]
        return (at + 1,) if is_visible and part.match(name) else ()

    def _with_empty_matches(self, states: set[int]) -> frozenset[int]:
        """Add the positions after each `**`, which also matches no directory."""
        found = set(states)
        for at in sorted(states):
            while at < len(self._parts) and self._parts[at] == _ANY_DEPTH:
                at += 1
                found.add(at)
        return frozenset(found)
