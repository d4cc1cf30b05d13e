"""Marks that stand for control tokens in a rendered prompt, so that the template's are told from those in data.

A name such as `<|im_end|>` that the template itself prints is a control token; the same characters in a
row's data are text. So the template is rendered with one private-use character in place of each name, and
the tokenizer splits off these characters (`Tokenizer.marked`). A row whose data contains one of them is
rendered with other characters.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jinja2 import nodes

# Private-use characters of the last plane, which hardly any text contains.
_FIRST = 0x10E000
_LAST = 0x10FFFD
_MAX_SETS = 64


def choose_marks(source: str, names: Collection[str], taken: str = "") -> dict[str, str] | None:
    """Return a mark for each name that occurs in a template's source, none of which `taken` contains.

    None where `taken` contains characters of all sets of marks.
    """
    used = sorted(name for name in names if name in source)
    taken_characters = set(taken + source) if used else set()
    for number in range(_MAX_SETS):
        first = _FIRST + number * len(used)
        marks = {name: chr(first + index) for index, name in enumerate(used) if first + index <= _LAST}
        if len(marks) == len(used) and taken_characters.isdisjoint(marks.values()):
            return marks
    return None


def mark_literals(tree: nodes.Template, marks: Mapping[str, str]) -> None:
    """Replace names by their marks in the texts that a template prints as they are: text outside of
    braces, and constants that are printed unchanged. Arguments of filters and comparisons stay."""
    if not marks:
        return
    longest_first = sorted(marks, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    for literal in _printed(tree):
        if isinstance(literal, nodes.TemplateData):
            literal.data = pattern.sub(lambda found: marks[found[0]], literal.data)
        else:
            literal.value = pattern.sub(lambda found: marks[found[0]], literal.value)


def holds_any(values: Mapping[str, Any], marks: Mapping[str, str]) -> bool:
    """Whether a row's data contains a mark."""
    texts = list(texts_of([*values.values()]))
    return any(mark in text for mark in marks.values() for text in texts)


def texts_of(value: Any) -> Iterator[str]:
    """The texts in a value, which may be a list or a struct."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from texts_of(item)
    elif value is not None:
        yield str(value)


def _printed(tree: nodes.Template) -> Iterator[nodes.TemplateData | nodes.Const]:
    waiting: list[nodes.Node | None] = [*tree.find_all(nodes.Output)]
    while waiting:
        node = waiting.pop()
        match node:
            case nodes.Output() | nodes.Concat():
                waiting += node.nodes
            case nodes.CondExpr():
                waiting += [node.expr1, node.expr2]
            case nodes.Filter(name="default"):
                waiting += [node.node, *node.args[:1]]
            case nodes.TemplateData():
                yield node
            case nodes.Const(value=str()):
                yield node
