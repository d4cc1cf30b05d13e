"""The columns a job reads and the columns it adds, checked against the schema of the input."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from tirazh.errors import InputError
from tirazh.pipeline import schema
from tirazh.pipeline.input.footers import check_text_column, is_binary
from tirazh.pipeline.prompts.source import PromptSource
from tirazh.pipeline.prompts.template import check_variables
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec, JobSpec


def check_columns(columns: pa.Schema, spec: JobSpec, source: PromptSource) -> None:
    """Raise InputError for a column that is missing, has the wrong type, occurs twice, or has the
    name of one that the job adds.
    """
    # Arrow allows repeated names, but then a column cannot be selected by its name.
    repeated = next((name for name, count in Counter(columns.names).items() if count > 1), None)
    if repeated is not None:
        raise InputError(f"the input has several columns {repeated!r}; rename all but one")
    if isinstance(spec, ClassifySpec):
        check_text_column(columns, spec.text_column, flag="--text-column")
        if spec.gold_column is not None:
            check_text_column(columns, spec.gold_column, flag="--gold-column")
    elif isinstance(spec, GenerateSpec) and spec.template is None:
        check_text_column(columns, spec.prompt_column, flag="--prompt-column")
    if spec.template is not None:
        _check_template(columns, spec, source)
    for name in added_columns(spec).names:
        if name in columns.names:
            raise InputError(f"the input already has a column {name!r}; rename the added columns with --prefix tirazh_")
    reserved = next((name for name in columns.names if name.startswith(schema.RESERVED)), None)
    if reserved is not None:
        raise InputError(
            f"column {reserved!r}: names that begin with {schema.RESERVED} are reserved for tirazh; rename the column"
        )


def _check_template(columns: pa.Schema, spec: JobSpec, source: PromptSource) -> None:
    variables = source.template.variables
    check_variables(variables, columns.names)
    if isinstance(spec, ClassifySpec) and spec.text_column not in variables:
        raise InputError(f"--template does not use the text column {spec.text_column!r}")
    if not variables:
        raise InputError("--template uses no column, so every prompt would be the same")
    for name in variables:
        if pa.types.is_nested(columns.field(name).type) or is_binary(columns.field(name).type):
            raise InputError(f"--template uses column {name!r}, which holds {columns.field(name).type}, not text")


def added_columns(spec: JobSpec) -> pa.Schema:
    """The columns that the job adds to those of the input, with their prefix, in order."""
    added = schema.generate_fields(spec.samples) if isinstance(spec, GenerateSpec) else schema.classify_fields()
    return pa.schema([field.with_name(spec.prefix + field.name) for field in added])


def override_columns(columns: pa.Schema) -> tuple[str, ...]:
    """The numeric input columns named like a sampling parameter; they override the job's value for their row."""
    return tuple(name for name in schema.OVERRIDES if name in columns.names and _is_number(columns.field(name).type))


def _is_number(arrow_type: pa.DataType) -> bool:
    return bool(pa.types.is_integer(arrow_type) or pa.types.is_floating(arrow_type) or pa.types.is_decimal(arrow_type))
