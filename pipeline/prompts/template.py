"""Prompt templates: a small and safe subset of Jinja.

A template may contain columns, conditions on them, loops over lists, constants and a few filters. Other attributes,
other items, calls and imports are refused, because the template may come from an untrusted YAML file. The
cost per row is bounded in advance by limits on the template's length and depth and on the number of
characters that it could produce.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

from jinja2 import Undefined, nodes
from jinja2.exceptions import TemplateError, TemplateSyntaxError, UndefinedError
from jinja2.filters import do_default, do_lower, do_title, do_trim, do_truncate, do_upper
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tirazh.errors import InputError, RequestError, RowError, closest
from tirazh.pipeline.prompts.control_marks import mark_literals
from tirazh.pipeline.prompts.template_columns import alias_of_field, column_of, meant_column, rename_columns, written
from tirazh.pipeline.prompts.template_loops import Loop, count_loops, find_loops, printed_columns

MAX_SOURCE_CHARACTERS = 1 << 16
MAX_RENDERED_CHARACTERS = 16 << 20
MAX_DEPTH = 32
MAX_REPLACES = 16


def _replace(value: Any, old: Any, new: Any, count: int = -1) -> str:
    """`str.replace` that fails before it makes a text longer than a prompt may be."""
    text, before, after = str(value), str(old), str(new)
    found = text.count(before) if count < 0 else min(count, text.count(before))
    _check_length(len(text) + found * (len(after) - len(before)))
    return text.replace(before, after, count)


_FILTERS: dict[str, Callable[..., Any]] = {
    "default": do_default,
    "lower": do_lower,
    "replace": _replace,
    "title": do_title,
    "trim": do_trim,
    "truncate": do_truncate,
    "upper": do_upper,
}
_TESTS: dict[str, Callable[[Any], bool]] = {
    "defined": lambda value: not isinstance(value, Undefined),
    "none": lambda value: value is None or isinstance(value, Undefined),
}
_ALLOWED = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Filter, nodes.Keyword),
    *(
        nodes.For,
        nodes.If,
        nodes.CondExpr,
        nodes.Compare,
        nodes.Operand,
        nodes.And,
        nodes.Or,
        nodes.Not,
        nodes.Test,
        nodes.Concat,
    ),
)


class _NullColumnError(UndefinedError):
    """A null is printed. `alias` is the name that the column has in the compiled template."""

    def __init__(self, alias: str) -> None:
        super().__init__(alias)
        self.alias = alias


class _Null(Undefined):
    """A null value: false in a condition, replaced by the filter `default`, an error if it is printed."""

    def __init__(self, hint: str | None = None, obj: Any = None, name: str | None = None, exc: Any = None) -> None:
        super().__init__(hint, obj, name, exc=_NullColumnError)

    @property
    def _undefined_message(self) -> str:
        """The only argument of the exception that Jinja raises for an operation on the value."""
        return str(self._undefined_name)

    def __str__(self) -> str:
        raise _NullColumnError(self._undefined_message)

    def __iter__(self) -> Iterator[Any]:
        raise _NullColumnError(self._undefined_message)


class PromptTemplate:
    """A validated, compiled template.

    It is pickled as its source text and compiled again in the process that loads it.
    """

    def __init__(self, source: str, marks: Mapping[str, str] | None = None, *, keeps_newline: bool = False) -> None:
        """Compile `source`, with the names that are keys of `marks` replaced by their marks where the
        template itself prints them (`control_marks.py`). `keeps_newline`: a line break at its end counts.

        Raises RequestError for a syntax error and for anything that is not allowed.
        """
        self.source, self.marks, self._keeps_newline = source, dict(marks or {}), keeps_newline
        # A chat format's last line break counts; that of a YAML block does not.
        self._environment = ImmutableSandboxedEnvironment(
            undefined=_Null, autoescape=False, keep_trailing_newline=keeps_newline or bool(self.marks)
        )
        self._environment.filters = dict(_FILTERS)
        self._environment.tests = dict(_TESTS)
        self._environment.globals = {}
        self._length = len(source)
        tree = _parse(self._environment, source)
        for _ in _descend(tree):  # what follows descends by recursion
            pass
        self.loops = find_loops(tree)
        self._uses = _check(tree, source)
        self.printed = frozenset(printed_columns(tree))
        self._columns = rename_columns(tree)
        self._nulls = self._name_nulls()
        mark_literals(tree, self.marks)
        self._segments = _plain_segments(tree, self._columns)
        self._template = self._environment.from_string(tree)

    def __reduce__(self) -> tuple[Callable[[], PromptTemplate], tuple[()]]:
        return partial(PromptTemplate, self.source, self.marks, keeps_newline=self._keeps_newline), ()

    @property
    def variables(self) -> tuple[str, ...]:
        """The columns that the template uses, in order of appearance."""
        return tuple(self._uses)

    def render(self, values: Mapping[str, Any]) -> str:
        """Render the text for one row. None counts as a missing value. Raises RowError."""
        # Jinja treats a missing variable as undefined, which the filter `default` can replace.
        present = {name: value for name, value in values.items() if value is not None}
        try:
            # Only `replace` can make a text much longer, and it checks the length itself.
            uses = ((present.get(name), times) for name, times in self._uses.items())
            length = self._length + sum(len(text) * times for text, times in uses if isinstance(text, str | bytes))
            _check_length(length + count_loops(self.loops, present))
            text = self._join(present) if self._segments else self._render(present)
            _check_length(len(text))
        except UndefinedError as error:
            raise RowError(str(error)) from None
        except (TypeError, ValueError, ArithmeticError, AssertionError, TemplateError) as error:
            raise (
                error if isinstance(error, RowError) else RowError(f"the template cannot be rendered: {error}")
            ) from None
        return text

    def _render(self, present: Mapping[str, Any]) -> str:
        try:
            values = {alias: present[column] for alias, column in self._columns.items() if column in present}
            for number, loop in enumerate(self.loops):
                if loop.column in present:
                    values[f"l{number}"] = loop.tuples(present[loop.column], self._missing(number, loop))
            return self._template.render(values)
        except _NullColumnError as error:
            raise UndefinedError(self._nulls[error.alias]) from None

    def _missing(self, number: int, loop: Loop) -> dict[str | None, _Null]:
        return {name: _Null(name=alias_of_field(f"{number}.{index}")) for index, name in enumerate(loop.fields)}

    def _name_nulls(self) -> dict[str, str]:
        """What is said about a null, by the name in the compiled template."""
        clauses = {alias: f"column {column!r} is null" for alias, column in self._columns.items()}
        for number, loop in enumerate(self.loops):
            clauses[f"l{number}"] = f"column {loop.column!r} is null"
            for index, name in enumerate(loop.fields):
                what = "an item" if name is None else f"{name!r} of an item"
                clauses[alias_of_field(f"{number}.{index}")] = f"column {loop.column!r}: {what} is null"
        return clauses

    def probe(self, column: str, text: str) -> Any:
        """A value of a column that has `text` wherever the template reads it."""
        fields = [name for loop in self.loops if loop.column == column for name in loop.fields]
        if not any(loop.column == column for loop in self.loops):
            return text
        return [text] if None in fields else [dict.fromkeys(fields, text)]

    def _join(self, present: Mapping[str, Any]) -> str:
        """Render a template without conditions and filters: as Jinja does, but ten times as fast."""
        for name in self._uses:
            if name not in present:
                raise UndefinedError(f"column {name!r} is null")
        return "".join([str(present[text]) if is_name else text for is_name, text in self._segments])


def check_variables(
    variables: Collection[str], columns: Collection[str], *, where: str = "a column of the input"
) -> None:
    """Raise InputError for a variable that is not a column of the input, or not `where` the columns come from."""
    for name in variables:
        if name not in columns:
            close = closest(name, columns)
            hint = f"did you mean {written(close)}?" if close else f"the columns are {', '.join(columns)}"
            raise InputError(f"--template uses {name!r}, which is not {where}; {hint}")


def _check(tree: nodes.Template, source: str) -> dict[str, int]:
    """Count the uses of each column. Raises RequestError for a node that a template may not contain."""
    uses: Counter[str] = Counter()
    replaces = 0
    for node in _descend(tree):
        column = column_of(node)
        if column is not None:
            uses[column] += 1
        elif not isinstance(node, _ALLOWED):
            raise RequestError(
                f"--template, line {node.lineno}: {_describe(node)} is not allowed; a template may use columns, "
                f"conditions, loops over lists and the filters {', '.join(_FILTERS)}{meant_column(source, node.lineno)}"
            )
        if isinstance(node, nodes.Filter) and node.name not in _FILTERS:
            raise RequestError(f"--template: unknown filter {node.name!r}; the filters are {', '.join(_FILTERS)}")
        if isinstance(node, nodes.Test) and node.name not in _TESTS:
            raise RequestError(f"--template: unknown test {node.name!r}; the tests are {', '.join(_TESTS)}")
        if isinstance(node, nodes.Output):
            _check_printed(node, source)
        replaces += isinstance(node, nodes.Filter) and node.name == "replace"
    if replaces > MAX_REPLACES:
        raise RequestError(f"--template uses the filter replace {replaces} times; at most {MAX_REPLACES} are allowed")
    return dict(uses)


def _check_printed(output: nodes.Output, source: str) -> None:
    """Raise RequestError for a number, true, false or none that is printed: it is taken for a column of this name."""
    for node in output.nodes:
        if isinstance(node, nodes.Const) and not isinstance(node.value, str):
            raise RequestError(
                f"--template, line {node.lineno}: a constant ({node.value}) is printed; write it without braces"
                f"{meant_column(source, node.lineno)}"
            )


def _plain_segments(tree: nodes.Template, columns: Mapping[str, str]) -> list[tuple[bool, str]]:
    """Split the template into (True, column) and (False, text); empty if it contains anything else.

    `columns` are the columns by their names in the tree.
    """
    segments: list[tuple[bool, str]] = []
    for node in (node for part in tree.body for node in (part.nodes if isinstance(part, nodes.Output) else [part])):
        if isinstance(node, nodes.Name):
            segments.append((True, columns[node.name]))
        elif isinstance(node, nodes.TemplateData):
            segments.append((False, node.data))
        else:
            return []
    return segments


def _parse(environment: ImmutableSandboxedEnvironment, source: str) -> nodes.Template:
    if len(source) > MAX_SOURCE_CHARACTERS:
        raise RequestError(f"--template has {len(source)} characters; the maximum is {MAX_SOURCE_CHARACTERS}")
    try:
        # Lone surrogates cannot be stored in the manifest.
        source.encode()
        return environment.parse(source)
    except TemplateSyntaxError as error:
        hint = meant_column(source, error.lineno)
        raise RequestError(f"--template, line {error.lineno}: {error.message}{hint}") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise RequestError(f"--template cannot be read: {str(error)[:100]}") from None


def _descend(tree: nodes.Node) -> Iterator[nodes.Node]:
    """Yield all nodes in the order of the text. Raises RequestError if they are nested too deep."""
    # An explicit stack, so that a very deep tree cannot exceed the recursion limit of Python.
    waiting = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise _too_deep()
        yield node
        if column_of(node) is None:  # `row` and the name in `row["name"]` are no columns of their own
            children = node.iter_child_nodes(exclude=("target",) if isinstance(node, nodes.For) else None)
            waiting += [(child, depth + 1) for child in reversed(list(children))]


def _too_deep() -> RequestError:
    return RequestError(f"--template is nested too deep; the maximum is {MAX_DEPTH} levels")


def _check_length(characters: int) -> None:
    if characters > MAX_RENDERED_CHARACTERS:
        raise RowError(f"the prompt would have {characters} characters; the maximum is {MAX_RENDERED_CHARACTERS}")


def _describe(node: nodes.Node) -> str:
    names = {
        "Getattr": "attribute access (.)",
        "Getitem": 'item access ([ ]), except row["column"],',
        "Call": "a call",
    }
    return names.get(type(node).__name__, f"{type(node).__name__.lower()!r}")
