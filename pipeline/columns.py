"""Which columns a job reads and which it adds, and whether the input's schema allows both. Called by `plan.py`."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from tirazh.errors import InputError
from tirazh.pipeline import schema
from tirazh.pipeline.input.footers import check_text_column, is_binary
from tirazh.pipeline.prompts.template import template_variables
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec, JobSpec


def text_columns(spec: JobSpec) -> tuple[str, ...]:
    """The input columns that a prompt is made of, the main one first."""
    assert isinstance(spec, ClassifySpec | GenerateSpec)
    main = spec.text_column if isinstance(spec, ClassifySpec) else spec.prompt_column
    if spec.template is None:
        return (main,)
    variables = template_variables(spec.template)
    return tuple(sorted(variables, key=lambda name: name != main))


def check_columns(columns: pa.Schema, spec: JobSpec) -> None:
    """Raise InputError when a column is missing, of the wrong type, there twice, or in the way of one that is added."""
    twice = next((name for name, count in Counter(columns.names).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"the input has several columns {twice!r}; rename all but one")
    if isinstance(spec, ClassifySpec):
        check_text_column(columns, spec.text_column, flag="--text-column")
        if spec.gold_column is not None:
            check_text_column(columns, spec.gold_column, flag="--gold-column")
    elif isinstance(spec, GenerateSpec) and spec.template is None:
        check_text_column(columns, spec.prompt_column, flag="--prompt-column")
    if spec.template is not None:
        _check_template(columns, spec, spec.template)
    for name in added_columns(spec).names:
        if name in columns.names:
            raise InputError(
                f"the input already has a column {name!r}; put something before the added names: --prefix tirazh_"
            )
    reserved = next((name for name in columns.names if name.startswith(schema.RESERVED)), None)
    if reserved is not None:
        raise InputError(f"column {reserved!r}: names that begin with {schema.RESERVED} are kept for tirazh; rename it")


def _check_template(columns: pa.Schema, spec: JobSpec, template: str) -> None:
    variables = template_variables(template, known=columns.names)
    if isinstance(spec, ClassifySpec) and spec.text_column not in variables:
        raise InputError(f"--template does not use the text column {spec.text_column!r}")
    if not variables:
        raise InputError("--template uses no column, so every prompt would be the same")
    for name in variables:
        if pa.types.is_nested(columns.field(name).type) or is_binary(columns.field(name).type):
            raise InputError(f"--template uses column {name!r}, which holds {columns.field(name).type}, not text")


def added_columns(spec: JobSpec) -> pa.Schema:
    """The columns that the output has more than the input, prefix and all."""
    added = schema.generate_fields(spec.samples) if isinstance(spec, GenerateSpec) else schema.classify_fields()
    return pa.schema([field.with_name(spec.prefix + field.name) for field in added])


def override_columns(columns: pa.Schema) -> tuple[str, ...]:
    """Input columns that set a row's own sampling: those of such a name that hold numbers."""
    return tuple(name for name in schema.OVERRIDES if name in columns.names and _is_number(columns.field(name).type))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))
