"""The columns of a template: `{{ title }}`, and `{{ row["Text news"] }}` for a name that Jinja cannot read.

Both become the same node with a short name of our own, so that no column name means anything to Jinja: not `self`,
which it replaces by an object, and not one with a space.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

ROW, LOOP = "row", "loop"
# Begins the names of loops and of what they read (`template_loops.py`); no name in a template can have it.
FIELD = "@"
_TAG = re.compile(r"\{\{[-+]?\s*(.*?)\s*[-+]?\}\}|\{%[-+]?\s*(?:if|elif)\s+(.*?)\s*[-+]?%\}", re.DOTALL)
_NOT_IN_A_NAME = re.compile(r"""["'\[\]{}()=<>~\n]|(?:^|\s)(?:and|or|not|in|is|if|else)(?:\s|$)""")
_LONGEST_NAME = 100


def written(column: str) -> str:
    """How a template names a column: `title` or `row["Text news"]`."""
    is_plain = column.isidentifier() and column not in _RESERVED
    return column if is_plain else f"{ROW}[{json.dumps(column, ensure_ascii=False)}]"


def column_of(node: nodes.Node) -> str | None:
    """The column that a node names, or None."""
    if isinstance(node, nodes.Name):
        return None if node.name.startswith(FIELD) else str(node.name)
    if not isinstance(node, nodes.Getitem) or not isinstance(node.arg, nodes.Const):
        return None
    is_item = isinstance(node.node, nodes.Name) and node.node.name == ROW and isinstance(node.arg.value, str)
    return str(node.arg.value) if is_item else None


def rename_columns(tree: nodes.Template) -> dict[str, str]:
    """Give every column in the tree a short name. Returns the columns by these names."""
    renamer = _Renamer()
    renamer.visit(tree)
    return {alias: column for column, alias in renamer.aliases.items()}


def alias_of_field(name: str) -> str:
    """The name in a compiled template of a field `LOOP.INDEX`."""
    return "f" + name.replace(".", "_")


def meant_column(source: str, line: int | None) -> str:
    """A clause about a tag on `line` that is no expression, but may be the name of a column; else ""."""
    for name, at in _possible_names(source):
        if line is None or at == line:
            return f"; if {name!r} is a column, write {{{{ {written(name)} }}}}"
    return ""


class _Renamer(NodeTransformer):
    def __init__(self) -> None:
        self.aliases: dict[str, str] = {}
        self._loops = 0

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = nodes.Name(f"l{self._loops}", "load", lineno=node.lineno)
        self._loops += 1
        return node

    def visit_Name(self, node: nodes.Name) -> nodes.Node:
        if not node.name.startswith(FIELD):
            return self._renamed(node)
        name = node.name.removeprefix(FIELD)
        if name.startswith(LOOP):
            return nodes.Getattr(nodes.Name(LOOP, "load"), name.partition(".")[2], "load", lineno=node.lineno)
        return nodes.Name(alias_of_field(name), node.ctx, lineno=node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        return self._renamed(node)

    def _renamed(self, node: nodes.Name | nodes.Getitem) -> nodes.Node:
        column = column_of(node)
        if column is None:
            return node
        alias = self.aliases.setdefault(column, f"c{len(self.aliases)}")
        return nodes.Name(alias, "load", lineno=node.lineno)


def _possible_names(source: str) -> Iterator[tuple[str, int]]:
    for tag in _TAG.finditer(source):
        name = (tag[1] or tag[2] or "").split("|")[0].strip()
        is_name = name and len(name) <= _LONGEST_NAME and any(map(str.isalnum, name))
        if is_name and written(name) != name and not _NOT_IN_A_NAME.search(name):
            yield name, source.count("\n", 0, tag.start()) + 1


# Words of Jinja's expressions, and its constants.
_RESERVED = frozenset(
    ("and", "or", "not", "in", "is", "if", "else", "true", "false", "none", "True", "False", "None", ROW)
)
