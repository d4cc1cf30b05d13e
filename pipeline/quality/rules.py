"""How the list of `filters:` becomes `Rule`s.

Standard library only, so that a spec can check its filters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tirazh.errors import RequestError, did_you_mean
from tirazh.pipeline.quality.arguments import OF_THE_ROW, RULES, shown
from tirazh.pipeline.quality.presets import PRESETS

ERROR, EMPTY, CONTAMINATED = "error", "empty", "contaminated"
EXPRESSION = "expression"
MAX_RULES = 200
_REASON = re.compile(r"[A-Za-z_][\w.-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with its parsed arguments.

    `column` is the column that it judges, None for the text of the row. `reason` is what a row that fails gets.
    """

    name: str
    value: Any
    column: str | None
    reason: str


def parse_filters(filters: Any) -> tuple[Rule, ...]:
    """Parse the setting `filters`, a list or one item, in the order of the list.

    A later rule with the same reason replaces an earlier one, and one whose value is `false` removes it. Raises
    RequestError.
    """
    items = filters if isinstance(filters, list | tuple) else [] if filters is None else [filters]
    rules: dict[str, Rule | None] = {}
    for item in items:
        for rule, is_on in _rules_of(item):
            rules[rule.reason] = rule if is_on else None
    if len(rules) > MAX_RULES:
        raise RequestError(f"--filters has {len(rules)} rules; at most {MAX_RULES} are possible")
    return tuple(rule for rule in rules.values() if rule is not None)


def _rules_of(item: Any) -> Iterator[tuple[Rule, bool]]:
    """The rules of one item, and whether each is on."""
    if isinstance(item, str):
        item = {item: True} if item in RULES else {"preset": item}
    if not isinstance(item, Mapping) or not item:
        raise RequestError(
            f"--filters: {shown(item)} is no rule; write the name of a preset, or a rule such as {{min_chars: 20}}"
        )
    if EXPRESSION in item:
        yield _expression(item), True
        return
    column = item.get("column")
    if column is not None and not isinstance(column, str):
        raise RequestError(f"--filters: column must be the name of a column, not {shown(column)}")
    named = {name: value for name, value in item.items() if name != "column"}
    if not named:
        raise RequestError(f"--filters: the item for column {column!r} has no rule; add one such as min_chars: 20")
    for name, value in named.items():
        if name == "preset":
            yield from ((rule, True) for rule in _preset(value, column))
        elif name not in RULES:
            raise _unknown(name)
        elif value is False:
            yield Rule(name, None, column, _reason(name, column)), False
        else:
            yield _rule(name, value, column), True


def _preset(name: Any, column: str | None) -> Iterator[Rule]:
    """The rules of a preset. For a named column these are the rules on texts."""
    if not isinstance(name, str) or name not in PRESETS:
        raise _unknown(name)
    for rule, value in PRESETS[name].items():
        if column is None or rule not in OF_THE_ROW:
            yield _rule(rule, value, column)


def _rule(name: str, value: Any, column: str | None) -> Rule:
    if column is not None and name in OF_THE_ROW:
        raise RequestError(f"--filters: {name} judges the completion as a whole; remove column: {column}")
    return Rule(name, RULES[name](name, value), column, _reason(name, column))


def _reason(name: str, column: str | None) -> str:
    return name if column is None else f"{column}.{name}"


def _expression(item: Mapping[str, Any]) -> Rule:
    unknown = [key for key in item if key not in (EXPRESSION, "name")]
    if unknown:
        raise RequestError(
            f"--filters: an expression has only the keys expression and name, not {shown(unknown[0])}"
            f"{did_you_mean(str(unknown[0]), ['name'])}"
        )
    text, name = item[EXPRESSION], item.get("name")
    if not isinstance(text, str) or not text.strip():
        raise RequestError(f"--filters: expression must be a condition in SQL over columns, not {shown(text)}")
    if not isinstance(name, str) or not _REASON.fullmatch(name):
        raise RequestError(
            f"--filters: the expression {shown(text)} needs a name, which becomes its reason: at most 64 letters, "
            f"digits, '_', '.' and '-'; not {shown(name)}"
        )
    if name in RULES or name in (ERROR, EMPTY, CONTAMINATED):
        raise RequestError(f"--filters: an expression cannot have the name {name}, which is the reason of a rule")
    return Rule(EXPRESSION, text, None, name)


def _unknown(name: Any) -> RequestError:
    choices = [*PRESETS, *RULES, EXPRESSION]
    close = did_you_mean(str(name), choices)
    known = close or f"; the presets are {', '.join(PRESETS)}, the rules {', '.join([*RULES, EXPRESSION])}"
    return RequestError(f"--filters: there is no rule or preset {shown(name)}{known}")
