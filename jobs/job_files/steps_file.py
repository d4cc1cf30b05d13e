"""Turns the values of a job of kind `steps` into its spec: common settings at the top, and a list of steps.

A setting at the top is the default of every step whose kind has it. Settings that make the rows of the input
(`input`, `vary`, …) belong to the first step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tirazh.errors import RequestError, did_you_mean
from tirazh.jobs.settings import (
    FILTER,
    STEP_KINDS,
    build_filter_spec,
    build_spec,
    check_value,
    not_a_choice,
    settings_of,
)
from tirazh.pipeline.spec import Step, StepsSpec

STEPS = "steps"
# Settings of the whole job. Those of `_SHARED` are passed to the steps, too.
_OWN = ("output", "steps", "columns", "overwrite", "lease_s", "address", "endpoint_url")
_SHARED = ("overwrite", "lease_s", "address", "endpoint_url")
# They make the rows that all steps work on.
_OF_THE_FIRST = ("input", "vary", "rows", "per_cell", "limit")
_NOT_IN_A_STEP = (*_SHARED, "output")

Place = Callable[[str], str]


def build_steps_spec(values: Mapping[str, Any], *, place: Place = lambda name: "") -> StepsSpec:
    """Build the spec of a job of several steps. Raises RequestError, with the step's name, for a wrong setting."""
    from tirazh.pipeline.steps.directories import place_steps

    output = _output(values, place)
    steps = values.get("steps")
    if not isinstance(steps, list | tuple) or not all(isinstance(step, Mapping) for step in steps):
        raise RequestError(f"{place('steps')}steps must be a list of steps, each with a name, a kind and settings")
    defaults = {name: value for name, value in values.items() if name not in _OWN and value is not None}
    kinds = [_kind(step, number, place) for number, step in enumerate(steps, start=1)]
    if not steps or kinds[0] == FILTER:
        reason = "the first step cannot be a filter, which reads the rows of a step" if steps else "steps is empty"
        raise RequestError(f"{place('steps')}{reason}")
    _refuse_unknown(defaults, kinds, place)
    defaults |= {name: values[name] for name in _SHARED if values.get(name) is not None}
    built: list[Step] = []
    for number, (step, kind) in enumerate(zip(steps, kinds, strict=True), start=1):
        built.append(_build_step(step, kind, number, defaults, output, place))
    own = settings_of("classify")  # the types of the shared settings
    shared = {
        name: check_value(own[name], values[name], place=place(name))
        for name in _SHARED
        if values.get(name) is not None
    }
    try:
        placed = place_steps(built, output)
        return StepsSpec(output=output, steps=placed, columns=_columns(values, place), **shared)
    except RequestError as error:
        raise RequestError(f"{place('steps')}{error}") from None


def _output(values: Mapping[str, Any], place: Place) -> str:
    if not values.get("output"):
        raise RequestError("no output directory was given; add a line output: to the job file")
    return str(check_value(settings_of("classify")["output"], values["output"], place=place("output")))


def _columns(values: Mapping[str, Any], place: Place) -> tuple[str, ...]:
    columns = values.get("columns") or ()
    named = [columns] if isinstance(columns, str) else columns
    if not isinstance(named, list | tuple) or not all(isinstance(name, str) for name in named):
        raise RequestError(f"{place('columns')}columns must be a list of column names, not {columns!r}")
    return tuple(named)


def _kind(step: Mapping[str, Any], number: int, place: Place) -> str:
    where = place("steps")
    for key in ("name", "kind"):
        if not isinstance(step.get(key), str):
            known = did_you_mean(key, step) if key not in step else ""
            raise RequestError(f"{where}step {step.get('name', number)!r} has no {key}{known}")
    kind = str(step["kind"])
    if kind not in STEP_KINDS:
        raise RequestError(f"{where}step {step['name']!r}: kind {not_a_choice(kind, tuple(STEP_KINDS))}")
    return kind


def _refuse_unknown(defaults: Mapping[str, Any], kinds: list[str], place: Place) -> None:
    """Raise RequestError for a setting at the top that no step has."""
    known = {name for kind in kinds for name in settings_of(kind)} - {"prefix"}
    for name in defaults:
        if name not in known:
            hint = did_you_mean(name.replace("-", "_"), [*known, *_OWN])
            raise RequestError(f"{place(name)}no step has a setting {name!r}{hint}")


def _build_step(
    step: Mapping[str, Any],
    kind: str,
    number: int,
    defaults: Mapping[str, Any],
    output: str,
    place: Place,
) -> Step:
    name = str(step["name"])
    given = {key: value for key, value in step.items() if key not in ("name", "kind")}
    where = f"{place('steps')}step {name!r}: "
    for key in given:
        if key in _NOT_IN_A_STEP:
            raise RequestError(f"{where}{key} is a setting of the whole job; put it at the top of the job file")
        if key in _OF_THE_FIRST and number > 1:
            raise RequestError(f"{where}{key} is possible in the first step only; this one reads its rows")
    known = settings_of(kind)
    common = {
        key: value for key, value in defaults.items() if key in known and not (key in _OF_THE_FIRST and number > 1)
    }
    try:
        if kind == FILTER:
            spec = build_filter_spec(common | given)
            if not spec.has_rules:
                raise RequestError("a filter step needs at least one of filters, pii, dedup and against")
            return Step(name, spec)
        # `place_steps` gives every step its own directories.
        paths = {"output": output, **({"input": output} if number > 1 else {})}
        return Step(name, build_spec(kind, {"prefix": f"{name}_"} | common | given | paths))
    except RequestError as error:
        raise RequestError(f"{where}{error}") from None
