"""Prompt templates: a small, safe part of Jinja. Texts go in, text comes out, and nothing else can happen.

Allowed: variables, conditions on them, constants, and a few filters. No attribute, no item, no call, no loop, no
import: a template may come from a YAML file of somebody else. What a row may cost is bounded beforehand: the template's
length and depth, and the characters it could make of the row. Used by `plan.py` to check and by `prompts/encode.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jinja2 import Undefined, nodes
from jinja2.exceptions import TemplateError, TemplateSyntaxError, UndefinedError
from jinja2.filters import do_default, do_lower, do_title, do_trim, do_truncate, do_upper
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tirazh.errors import InputError, RequestError, RowError, did_you_mean

MAX_SOURCE_CHARACTERS = 1 << 16
MAX_RENDERED_CHARACTERS = 16 << 20
MAX_DEPTH = 32
MAX_REPLACES = 16


def _replace(text: Any, old: Any, new: Any, count: int = -1) -> str:
    """`str.replace` that refuses before it makes more characters than a prompt may have."""
    text, old, new = str(text), str(old), str(new)
    found = text.count(old) if count < 0 else min(count, text.count(old))
    _check_length(len(text) + found * (len(new) - len(old)))
    return text.replace(old, new, count)


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
    *(nodes.If, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Test, nodes.Concat),
)


class _Null(Undefined):
    """The value of a null: false in a condition, replaced by `default`, and an error where it would be printed."""

    def __str__(self) -> str:
        raise UndefinedError(f"column {self._undefined_name!r} is null")


class PromptTemplate:
    """A checked template. `variables` are the columns it uses, in order of appearance."""

    def __init__(self, source: str) -> None:
        self._environment = ImmutableSandboxedEnvironment(undefined=_Null, autoescape=False)
        self._environment.filters = dict(_FILTERS)
        self._environment.tests = dict(_TESTS)
        self._environment.globals = {}
        self._length = len(source)
        tree = _parse(self._environment, source)
        self._uses = _check(tree)
        self._pieces = _plain_pieces(tree)
        self._template = self._environment.from_string(source)

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(self._uses)

    def render(self, values: Mapping[str, Any]) -> str:
        """The text for one row; values that are None count as missing. Raises RowError."""
        present = {name: value for name, value in values.items() if value is not None}
        try:
            # No filter but `replace`, which counts for itself, makes much more of a text than it was.
            uses = ((present.get(name), times) for name, times in self._uses.items())
            _check_length(
                self._length + sum(len(text) * times for text, times in uses if isinstance(text, str | bytes))
            )
            text = self._join(present) if self._pieces else self._template.render(present)
            _check_length(len(text))
        except UndefinedError as error:
            raise RowError(str(error)) from None
        except (TypeError, ValueError, ArithmeticError, AssertionError, TemplateError) as error:
            raise (
                error if isinstance(error, RowError) else RowError(f"the template cannot be filled in: {error}")
            ) from None
        return text

    def _join(self, present: Mapping[str, Any]) -> str:
        """What Jinja would make of a template without conditions and filters, ten times as fast."""
        for name in self._uses:
            if name not in present:
                raise UndefinedError(f"column {name!r} is null")
        return "".join([str(present[piece]) if is_name else piece for is_name, piece in self._pieces])


def template_variables(source: str, *, known: Sequence[str] | None = None) -> tuple[str, ...]:
    """The variables of `source`, in order of appearance. Raises RequestError when the template is not allowed, and
    InputError when one of them is not in `known`."""
    variables = PromptTemplate(source).variables
    for name in variables:
        if known is not None and name not in known:
            hint = did_you_mean(name, known) or f"; the columns are {', '.join(known)}"
            raise InputError(f"--template uses {name!r}, which is not a column of the input{hint}")
    return variables


def _check(tree: nodes.Template) -> dict[str, int]:
    """How often each variable is used. Raises RequestError for what a template may not hold."""
    uses: Counter[str] = Counter()
    replaces = 0
    for node in _descend(tree):
        if not isinstance(node, _ALLOWED):
            raise RequestError(
                f"--template, line {node.lineno}: {_describe(node)} is not allowed; a template may use columns, "
                f"conditions and the filters {', '.join(_FILTERS)}"
            )
        if isinstance(node, nodes.Filter) and node.name not in _FILTERS:
            raise RequestError(f"--template has no filter {node.name!r}; there are {', '.join(_FILTERS)}")
        if isinstance(node, nodes.Test) and node.name not in _TESTS:
            raise RequestError(f"--template has no test {node.name!r}; there are {', '.join(_TESTS)}")
        if isinstance(node, nodes.Name):
            uses[node.name] += 1
        replaces += isinstance(node, nodes.Filter) and node.name == "replace"
    if replaces > MAX_REPLACES:
        raise RequestError(f"--template replaces {replaces} times; {MAX_REPLACES} times is the most")
    return dict(uses)


def _plain_pieces(tree: nodes.Template) -> list[tuple[bool, str]]:
    """(is it a variable?, its name or the text between) in order; empty for a template that holds anything else."""
    pieces: list[tuple[bool, str]] = []
    for node in (node for part in tree.body for node in (part.nodes if isinstance(part, nodes.Output) else [part])):
        if isinstance(node, nodes.Name):
            pieces.append((True, node.name))
        elif isinstance(node, nodes.TemplateData):
            pieces.append((False, node.data))
        else:
            return []
    return pieces


def _parse(environment: ImmutableSandboxedEnvironment, source: str) -> nodes.Template:
    if len(source) > MAX_SOURCE_CHARACTERS:
        raise RequestError(f"--template has {len(source)} characters; the most is {MAX_SOURCE_CHARACTERS}")
    try:
        source.encode()
        return environment.parse(source)
    except TemplateSyntaxError as error:
        raise RequestError(f"--template, line {error.lineno}: {error.message}") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise RequestError(f"--template cannot be read: {str(error)[:100]}") from None


def _descend(tree: nodes.Node) -> Iterator[nodes.Node]:
    """Every node in the order of the text. Raises RequestError where they are nested too deep to be compiled."""
    waiting = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise _too_deep()
        yield node
        waiting += [(child, depth + 1) for child in reversed(list(node.iter_child_nodes()))]


def _too_deep() -> RequestError:
    return RequestError(f"--template is nested too deep; {MAX_DEPTH} levels are the most")


def _check_length(characters: int) -> None:
    if characters > MAX_RENDERED_CHARACTERS:
        raise RowError(f"the prompt would have {characters} characters; the most is {MAX_RENDERED_CHARACTERS}")


def _describe(node: nodes.Node) -> str:
    names = {
        "Getattr": "reading an attribute (.)",
        "Getitem": "reading an item ([ ])",
        "Call": "a call",
        "For": "a loop",
    }
    return names.get(type(node).__name__, f"{type(node).__name__.lower()!r}")
