"""Sentence patterns with slots, and how a pattern becomes text.

A pattern is a text with these marks:

- `{name}` the value of a slot, `{name.gen}` one of its forms, `{name.last.gen}` a form of a part of it;
- `{n#match}` a number slot followed by a noun that agrees with it;
- `<win team>` a verb that agrees with a slot; `<win+ team>` its present or future, `<open* team>` its passive;
- `[one|two|]` one of several texts at random, an empty one included. Choices may be nested.

What a form is, and how a verb agrees, depends on the language: `Language`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

Value = object


class Language(Protocol):
    """The morphology that a pattern needs."""

    def form(self, value: Value, path: tuple[str, ...]) -> str:
        """Return the value of a slot in a form; an empty path is the dictionary form. Raises KeyError."""

    def count(self, number: Value, noun: str) -> str:
        """Return a number with a noun that agrees with it."""

    def verb(self, lemma: str, value: Value) -> str:
        """Return a verb that agrees with a value; `lemma` may end in `+` or `*`."""

    def polish(self, text: str) -> str:
        """Return a sentence with the changes that neighbouring words need."""


@dataclass(frozen=True, slots=True)
class _Slot:
    name: str
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Count:
    name: str
    noun: str


@dataclass(frozen=True, slots=True)
class _Verb:
    lemma: str
    name: str


@dataclass(frozen=True, slots=True)
class _Choice:
    arms: tuple[tuple[_Node, ...], ...]


_Node = str | _Slot | _Count | _Verb | _Choice
_TOKEN = re.compile(r"\{[^{}]*\}|<[^<>]*>|\[|\]|\||[^{}<>\[\]|]+")


@cache
def parse(pattern: str) -> tuple[_Node, ...]:
    """Parse a pattern. Raises ValueError for one whose brackets do not match."""
    tokens = _TOKEN.findall(pattern)
    if "".join(tokens) != pattern:
        raise ValueError(f"unmatched mark in {pattern!r}")
    nodes, rest = _sequence(tokens, 0, is_inner=False)
    if rest != len(tokens):
        raise ValueError(f"unmatched ] in {pattern!r}")
    return nodes


def slots_of(pattern: str) -> frozenset[str]:
    """Return the names of the slots of a pattern."""
    return frozenset(_names(parse(pattern)))


def realise(pattern: str, values: Mapping[str, Value], language: Language, rng: random.Random) -> str:
    """Return the pattern as text. Raises KeyError for a slot without a value."""
    return "".join(_text(node, values, language, rng) for node in parse(pattern))


def sentence(pattern: str, values: Mapping[str, Value], language: Language, rng: random.Random) -> str:
    """Return the pattern as a text whose first letter is a capital."""
    text = " ".join(realise(pattern, values, language, rng).split())
    text = language.polish(re.sub(r" ([,.!?;:])", r"\1", text))
    start = next((index for index, letter in enumerate(text) if letter.isalnum()), 0)
    return text[:start] + text[start : start + 1].upper() + text[start + 1 :]


def _sequence(tokens: Sequence[str], start: int, *, is_inner: bool) -> tuple[tuple[_Node, ...], int]:
    nodes: list[_Node] = []
    index = start
    while index < len(tokens):
        token = tokens[index]
        if token == "[":
            choice, index = _choice(tokens, index + 1)
            nodes.append(choice)
            continue
        if token in ("|", "]"):
            if is_inner:
                break
            if token == "]":
                break
        nodes.append(_leaf(token))
        index += 1
    return tuple(nodes), index


def _choice(tokens: Sequence[str], start: int) -> tuple[_Choice, int]:
    arms = []
    index = start
    while True:
        arm, index = _sequence(tokens, index, is_inner=True)
        arms.append(arm)
        if index >= len(tokens):
            raise ValueError(f"unmatched [ in {''.join(tokens)!r}")
        index += 1
        if tokens[index - 1] == "]":
            return _Choice(tuple(arms)), index


def _leaf(token: str) -> _Node:
    if token.startswith("{"):
        inner = token[1:-1]
        if "#" in inner:
            name, noun = inner.split("#", 1)
            return _Count(name, noun)
        name, *path = inner.split(".")
        return _Slot(name, tuple(path))
    if token.startswith("<"):
        lemma, name = token[1:-1].rsplit(" ", 1)
        return _Verb(lemma, name)
    return token


def _names(nodes: Sequence[_Node]) -> list[str]:
    found: list[str] = []
    for node in nodes:
        if isinstance(node, _Choice):
            for arm in node.arms:
                found += _names(arm)
        elif not isinstance(node, str):
            found.append(node.name)
    return found


def _text(node: _Node, values: Mapping[str, Value], language: Language, rng: random.Random) -> str:
    if isinstance(node, str):
        return node
    if isinstance(node, _Choice):
        return "".join(_text(each, values, language, rng) for each in rng.choice(node.arms))
    value = values[node.name]
    if isinstance(node, _Slot):
        return language.form(value, node.path)
    if isinstance(node, _Count):
        return language.count(value, node.noun)
    return language.verb(node.lemma, value)
