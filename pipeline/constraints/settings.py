"""The settings of constrained decoding: `schema`, `schema_column`, `regex` and `choices`, of which a job has one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from tirazh.errors import RequestError
from tirazh.model.constraints.schema_text import GrammarError, parse_schema
from tirazh.model.requests import Constraint
from tirazh.pipeline.settings import flag_name

NAMES = ("schema", "schema_column", "regex", "choices")
# Settings that would end or break a completion that is not yet what the constraint asks for, and their defaults.
_EXCLUDED: dict[str, Any] = {"stop": (), "no_repeat_ngram_size": 0, "min_new_tokens": 0}


class ConstraintSettings(Protocol):
    """The settings of `GenerateSpec` that constraints read."""

    @property
    def schema(self) -> Any: ...
    @property
    def schema_column(self) -> str | None: ...
    @property
    def regex(self) -> str | None: ...
    @property
    def choices(self) -> tuple[str, ...]: ...
    @property
    def samples(self) -> int: ...
    @property
    def samples_as(self) -> str: ...


def used_setting(spec: ConstraintSettings) -> str | None:
    """The name of the constraint setting that a job uses; None without one."""
    return next((name for name in NAMES if getattr(spec, name) not in (None, ())), None)


def check_constraint_settings(spec: ConstraintSettings) -> None:
    """Raise RequestError for constraints that cannot hold together, and for values that are no constraints. The schema
    itself is compiled when the job is planned (`check.py`)."""
    given = [flag_name(name) for name in NAMES if getattr(spec, name) not in (None, ())]
    if not given:
        return
    if len(given) > 1:
        raise RequestError(f"{given[0]} and {given[1]} cannot be combined: a completion follows one of them")
    for name, default in _EXCLUDED.items():
        if getattr(spec, name, default) != default:
            raise RequestError(
                f"{flag_name(name)} cannot be combined with {given[0]}, which decides how a completion continues and "
                f"where it ends; remove {flag_name(name)}"
            )
    if spec.schema is not None:
        _check_schema(spec)
    if spec.regex == "":
        raise RequestError("--regex is an empty text, which matches an empty completion only")
    _check_choices(spec.choices)


def job_constraint(spec: ConstraintSettings) -> Constraint | None:
    """The constraint of all completions of a job; None where there is none, or each row has its own."""
    if spec.schema is not None:
        return Constraint("schema", schema_text(spec.schema))
    if spec.regex is not None:
        return Constraint("regex", spec.regex)
    if spec.choices:
        return Constraint("choices", json.dumps(list(spec.choices), ensure_ascii=False))
    return None


def schema_text(schema: Mapping[str, Any]) -> str:
    """The schema as JSON. The order of its properties, which is that of the completion, is kept."""
    return json.dumps(schema, ensure_ascii=False)


def _check_schema(spec: ConstraintSettings) -> None:
    if not isinstance(spec.schema, Mapping):
        raise RequestError(f"--schema must be a JSON Schema, which is a mapping, not {str(spec.schema)[:80]!r}")
    if spec.samples > 1 and spec.samples_as == "lists":
        raise RequestError("--schema needs one row per sample for its columns; use --samples-as rows")
    try:
        parse_schema(schema_text(spec.schema))
    except (GrammarError, RecursionError) as error:
        raise RequestError(f"--schema: {error}") from None


def _check_choices(choices: tuple[str, ...]) -> None:
    if "" in choices:
        raise RequestError("--choices holds an empty text; remove it")
    repeated = next((text for index, text in enumerate(choices) if text in choices[:index]), None)
    if repeated is not None:
        raise RequestError(f"--choices holds {repeated!r} twice; remove one of them")
