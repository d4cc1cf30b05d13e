"""Signatures and argument lists of the Python functions, built from the specs.

A function declares `**settings: Unpack[...]` for type checkers. `documented` adds what exists only
at run time: the signature that `inspect.signature`, `help` and notebooks show, with the specs' own
defaults. Writing the same forty parameters out in each function would be a second copy of every
default.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, get_type_hints

from tirazh.jobs.settings import Setting, settings_of

_FIRST = ("input", "output")
P = ParamSpec("P")
R = TypeVar("R")


def documented(kind: str, keywords: type) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function whose `**settings` have the names of `kind` and the types of `keywords`."""
    hints = get_type_hints(keywords)
    # Required settings come first, as in `--help`; `input` and `output` lead in every function.
    settings = sorted(settings_of(kind).values(), key=lambda each: (not each.is_required, each.name not in _FIRST))

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        function.__doc__ = f"{inspect.getdoc(function)}\n\nSettings:\n" + "\n".join(map(_describe, settings))
        signature = inspect.signature(function, eval_str=True)
        named = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        listed = [_parameter(setting, hints[setting.name]) for setting in settings]
        setattr(function, "__signature__", signature.replace(parameters=[*listed, *named]))  # noqa: B010 - not declared
        return function

    return decorate


def _parameter(setting: Setting, hint: Any) -> inspect.Parameter:
    is_needed = setting.is_required and setting.required_unless is None
    default = inspect.Parameter.empty if is_needed else setting.default
    return inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _describe(setting: Setting) -> str:
    return f"    {setting.name}: {setting.help}"
