"""Prompt templates: a small, safe part of Jinja. Texts go in, text comes out, and nothing else can happen.

Allowed: variables, conditions on them, constants, and a few filters. No attribute, no item, no call, no loop, no
import: a template may come from a YAML file of somebody else. Used by `plan.py` to check and by `prompts.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import Undefined, nodes
from jinja2.exceptions import TemplateSyntaxError, UndefinedError
from jinja2.filters import do_default, do_lower, do_replace, do_title, do_trim, do_truncate, do_upper
from jinja2.sandbox import ImmutableSandboxedEnvironment

from model.errors import InputError, RequestError, RowError

MAX_RENDERED_CHARACTERS = 16 << 20

_FILTERS: dict[str, Callable[..., Any]] = {
    "default": do_default,
    "lower": do_lower,
    "replace": do_replace,
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
        self.variables = _check(self._environment, source)
        self._template = self._environment.from_string(source)

    def render(self, values: Mapping[str, Any]) -> str:
        """The text for one row; values that are None count as missing. Raises RowError."""
        present = {name: value for name, value in values.items() if value is not None}
        try:
            text = self._template.render(present)
        except UndefinedError as error:
            raise RowError(str(error)) from None
        except (TypeError, ValueError, ArithmeticError) as error:
            raise RowError(f"the template cannot be filled in: {error}") from None
        if len(text) > MAX_RENDERED_CHARACTERS:
            raise RowError(f"the prompt has {len(text)} characters; the most is {MAX_RENDERED_CHARACTERS}")
        return text


def template_variables(source: str, *, known: Sequence[str] | None = None) -> tuple[str, ...]:
    """The variables of `source`, in order of appearance. Raises RequestError when the template is not allowed, and
    InputError when one of them is not in `known`."""
    variables = PromptTemplate(source).variables
    for name in variables:
        if known is not None and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the columns are {', '.join(known)}"
            raise InputError(f"--template uses {name!r}, which is no column of the input; {hint}")
    return variables


def _check(environment: ImmutableSandboxedEnvironment, source: str) -> tuple[str, ...]:
    try:
        tree = environment.parse(source)
    except TemplateSyntaxError as error:
        raise RequestError(f"--template, line {error.lineno}: {error.message}") from None
    variables: dict[str, None] = {}
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
            variables[node.name] = None
    return tuple(variables)


def _descend(node: nodes.Node) -> list[nodes.Node]:
    found = [node]
    for child in node.iter_child_nodes():
        found += _descend(child)
    return found


def _describe(node: nodes.Node) -> str:
    names = {
        "Getattr": "reading an attribute (.)",
        "Getitem": "reading an item ([ ])",
        "Call": "a call",
        "For": "a loop",
    }
    return names.get(type(node).__name__, f"{type(node).__name__.lower()!r}")
