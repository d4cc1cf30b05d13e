"""Loops of a template over a column of lists: `{% for turn in messages %}{{ turn.role }}: …{% endfor %}`.

A loop is compiled as one over tuples of the fields that its body reads, so that no attribute of a value is ever looked
up while a template is rendered. Loops are not nested, and `loop` has only the names in `LOOP_NAMES`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from tirazh.errors import RequestError, RowError, did_you_mean
from tirazh.pipeline.prompts.template_columns import FIELD, LOOP, ROW, column_of

LOOP_NAMES = ("index", "index0", "first", "last", "length")
# Expressions that the loops of a template may evaluate for one row.
MAX_EVALUATIONS = 1 << 20


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop over the items of `column`.

    `fields` counts how often its body prints each field of an item, None being the item itself. `columns` counts
    the columns in its body, `characters` are those of its texts, `size` its nodes.
    """

    column: str
    fields: Counter[str | None] = field(default_factory=Counter)
    columns: Counter[str] = field(default_factory=Counter)
    characters: int = 0
    size: int = 0

    def tuples(self, items: Sequence[Any], missing: Mapping[str | None, Any]) -> list[tuple[Any, ...]]:
        """The fields of every item; `missing` has the values that stand for a null."""
        rows = []
        for item in items:
            values = ((name, _value_of(item, name)) for name in self.fields)
            rows.append(tuple(missing[name] if value is None else value for name, value in values))
        return rows


def find_loops(tree: nodes.Template) -> list[Loop]:
    """Find the loops of a template, and replace the fields that they read by names that begin with `FIELD`.

    Raises RequestError for a loop that a template may not contain.
    """
    finder = _Finder()
    finder.visit(tree)
    return finder.loops


def count_loops(loops: Sequence[Loop], present: Mapping[str, Any]) -> int:
    """The characters that the loops print at most for a row. Raises RowError if they would evaluate too much."""
    characters = evaluations = 0
    for loop in loops:
        items = present.get(loop.column) or []
        if not isinstance(items, list):
            raise RowError(f"column {loop.column!r} is not a list")
        evaluations += len(items) * loop.size
        inner = sum(_length(present.get(name)) * times for name, times in loop.columns.items())
        characters += len(items) * (loop.characters + inner)
        for name, times in loop.fields.items():
            characters += times * sum(_length(_value_of(item, name)) for item in items)
    if evaluations > MAX_EVALUATIONS:
        raise RowError(
            f"the loops of the template would evaluate {evaluations} expressions, more than {MAX_EVALUATIONS}"
        )
    return characters


def printed_columns(node: nodes.Node, in_condition: bool = False) -> Iterator[str]:
    """The columns that a template uses as texts: not those that it only goes over, or asks whether they are there."""
    column = column_of(node)
    if column is not None:
        if not in_condition:
            yield column
        return
    parts: list[tuple[nodes.Node, bool]]
    match node:
        case nodes.For():
            parts = [(part, False) for part in (*node.body, *node.else_)]
        case nodes.If():
            parts = [(node.test, True), *((part, False) for part in (*node.body, *node.elif_, *node.else_))]
        case nodes.CondExpr():
            others = [part for part in (node.expr1, node.expr2) if part is not None]
            parts = [(node.test, True), *((part, in_condition) for part in others)]
        case nodes.And() | nodes.Or() | nodes.Not():
            parts = [(part, in_condition) for part in node.iter_child_nodes()]
        case nodes.Test():
            parts = [(part, True) for part in node.iter_child_nodes()]
        case _:
            parts = [(part, False) for part in node.iter_child_nodes()]
    for part, is_condition in parts:
        yield from printed_columns(part, is_condition)


class _Finder(NodeTransformer):
    def __init__(self) -> None:
        self.loops: list[Loop] = []

    def visit_For(self, node: nodes.For) -> nodes.Node:
        column = column_of(node.iter)
        if column is None:
            raise _refusal(node, "a loop goes over a column of lists, or over `examples`, and over nothing else")
        if node.test is not None or node.recursive:
            raise _refusal(node, "a loop may have no condition of its own; write {% if … %} inside of it")
        if not isinstance(node.target, nodes.Name) or node.target.name in (ROW, LOOP):
            raise _refusal(node, f"a loop has one variable, which is not called {ROW} or {LOOP}")
        body = _Body(node.target.name, len(self.loops))
        node.body = [body.visit(part) for part in node.body]
        self.loops.append(_describe(column, body, node))
        names = [nodes.Name(f"{FIELD}{body.number}.{index}", "store") for index in range(len(body.fields))]
        node.target = nodes.Tuple(names, "store") if names else nodes.Name(f"{FIELD}{body.number}", "store")
        return node


class _Body(NodeTransformer):
    """Replaces the fields of the loop's variable `target` by names; `fields` counts them."""

    def __init__(self, target: str, number: int) -> None:
        self.target, self.number = target, number
        self.fields: Counter[str | None] = Counter()

    def visit_For(self, node: nodes.For) -> nodes.Node:
        raise _refusal(node, "loops may not be nested")

    def visit_Name(self, node: nodes.Name) -> nodes.Node:
        if node.name == LOOP:
            raise _refusal(node, f"{LOOP} has the names {', '.join(f'{LOOP}.{name}' for name in LOOP_NAMES)}")
        return self._field(None, node) if node.name == self.target else node

    def visit_Getattr(self, node: nodes.Getattr) -> nodes.Node:
        return self._item(node, node.attr)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        has_name = isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str)
        return self._item(node, str(node.arg.value)) if has_name else node  # type: ignore[attr-defined]

    def _item(self, node: nodes.Getattr | nodes.Getitem, name: str) -> nodes.Node:
        if not isinstance(node.node, nodes.Name):
            return node
        if node.node.name == self.target:
            return self._field(name, node)
        if node.node.name != LOOP:
            return node
        if name not in LOOP_NAMES:
            raise _refusal(node, f"{LOOP} has no {name!r}{did_you_mean(name, LOOP_NAMES)}")
        return nodes.Name(f"{FIELD}{LOOP}.{name}", "load", lineno=node.lineno)

    def _field(self, name: str | None, node: nodes.Node) -> nodes.Node:
        self.fields[name] += 1
        index = list(self.fields).index(name)
        return nodes.Name(f"{FIELD}{self.number}.{index}", "load", lineno=node.lineno)


def _describe(column: str, body: _Body, node: nodes.For) -> Loop:
    found = [node for part in node.body for node in (part, *part.find_all(nodes.Node))]
    texts = [node.data for node in found if isinstance(node, nodes.TemplateData)]
    texts += [node.value for node in found if isinstance(node, nodes.Const) and isinstance(node.value, str)]
    columns = Counter(name for name in map(column_of, found) if name is not None)
    del columns[ROW]
    return Loop(column, body.fields, columns, sum(map(len, texts)), len(found))


def _refusal(node: nodes.Node, rule: str) -> RequestError:
    return RequestError(f"--template, line {node.lineno}: {rule}")


def _value_of(item: Any, name: str | None) -> Any:
    if name is None or item is None:
        return item
    return item.get(name) if isinstance(item, Mapping) else None


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes) else 0
