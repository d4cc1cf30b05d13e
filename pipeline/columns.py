"""The columns a job reads and the columns it adds, checked against the schema of the input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from tirazh.errors import InputError, RequestError
from tirazh.pipeline import schema
from tirazh.pipeline.classify_columns import check_classify_columns, classify_fields
from tirazh.pipeline.constraints.fields import fields_of
from tirazh.pipeline.input.footers import check_text_column
from tirazh.pipeline.prompts.shots import EXAMPLES
from tirazh.pipeline.prompts.source import LABELS, PromptSource
from tirazh.pipeline.prompts.template import check_variables
from tirazh.pipeline.prompts.template_columns import written
from tirazh.pipeline.prompts.variable_types import check_variable
from tirazh.pipeline.spec import ClassifySpec, EmbedSpec, GenerateSpec, JobSpec, ScoreSpec

_NO_COLUMNS = pa.schema([])


def check_columns(columns: pa.Schema, spec: JobSpec, source: PromptSource) -> None:
    """Raise InputError for a column that is missing, has the wrong type, occurs twice, or has the
    name of one that the job adds.
    """
    _check_names(columns, spec)
    if isinstance(spec, ClassifySpec):
        check_classify_columns(columns, spec)
    elif isinstance(spec, ScoreSpec | EmbedSpec):
        check_text_column(columns, spec.text_column, flag="--text-column")
    elif isinstance(spec, GenerateSpec) and spec.template is None:
        if spec.vary is not None and spec.prompt_column not in columns.names and not spec.input:
            raise RequestError(
                "--vary needs a --template that uses its names, such as "
                f"'{' '.join(f'{{{{ {name} }}}}' for name in columns.names[:3])}'"
            )
        check_text_column(columns, spec.prompt_column, flag="--prompt-column")
    if isinstance(spec, GenerateSpec) and spec.schema_column is not None:
        check_text_column(columns, spec.schema_column, flag="--schema-column")
    if spec.template is not None:
        _check_template(columns, spec, source)


def check_vary(names: Sequence[str], spec: JobSpec, columns: pa.Schema | None = None) -> None:
    """Raise RequestError for a name of --vary that cannot be a template variable and a column of the output.

    `columns` are those of the input that is crossed with the values.
    """
    of_input = {name.lower(): name for name in columns.names} if columns is not None else {}
    added = {name.lower(): name for name in added_columns(spec).names}
    seen: dict[str, str] = {}
    for name in names:
        if written(name) != name:
            raise RequestError(
                f"--vary: {name!r} cannot be a variable of a template; choose a name of letters, digits and _ that "
                "does not begin with a digit and is no word of Jinja"
            )
        if name == schema.SEED:
            raise RequestError(
                "--vary cannot vary the seed: all rows of a cell would have the same one; rows of a cell draw "
                "different random numbers by themselves"
            )
        if name.lower() in of_input:
            raise RequestError(
                f"--vary names {name!r}, and the input has a column {of_input[name.lower()]!r}; rename one of them"
            )
        if name.lower() in added:
            raise RequestError(
                f"--vary names {name!r}, and the job adds a column {added[name.lower()]!r}; rename it, or the added "
                "columns with --prefix tirazh_"
            )
        if name.lower().startswith(schema.RESERVED):
            raise RequestError(
                f"--vary names {name!r}: names that begin with {schema.RESERVED} are reserved; rename it"
            )
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise RequestError(
                f"--vary has the names {other!r} and {name!r}, which differ only in case; Spark and DuckDB could not "
                "read the output; rename one of them"
            )


def _check_names(columns: pa.Schema, spec: JobSpec) -> None:
    # Arrow allows repeated names, but then a column cannot be selected by its name.
    repeated = next((name for name, count in Counter(columns.names).items() if count > 1), None)
    if repeated is not None:
        raise InputError(f"the input has several columns {repeated!r}; rename all but one")
    # Spark and DuckDB do not distinguish upper and lower case; Spark then reads no column at all.
    names: dict[str, str] = {}
    own: dict[str, str] = {}
    for name in columns.names:
        other = names.setdefault(name.lower(), name)
        if other != name:
            raise InputError(
                f"the input has the columns {other!r} and {name!r}, which differ only in case; Spark and DuckDB could "
                "not read the output; rename one of them"
            )
    for name in added_columns(spec, columns).names:
        other = own.setdefault(name.lower(), name)
        if other is not name:
            raise RequestError(_same_name(name.removeprefix(spec.prefix), spec))
        found = names.get(name.lower())
        if found is not None:
            case = "" if found == name else f", which Spark and DuckDB do not distinguish from the added {name!r}"
            raise InputError(
                f"the input already has a column {found!r}{case}; rename the added columns with --prefix tirazh_"
            )
    reserved = next((name for name in columns.names if name.lower().startswith(schema.RESERVED)), None)
    if reserved is not None:
        raise InputError(
            f"column {reserved!r}: names that begin with {schema.RESERVED} are reserved for tirazh; rename the column"
        )


def _same_name(name: str, spec: JobSpec) -> str:
    """The sentence for an added column whose name another added column has."""
    if isinstance(spec, ClassifySpec):
        return f"--questions: two of the added columns would have the name {name!r}; rename a question"
    return f"--schema: the property {name!r} has the name of another added column; rename the property"


def _check_template(columns: pa.Schema, spec: JobSpec, source: PromptSource) -> None:
    _check_examples(columns, spec, source)
    _check_labels(columns, spec, source)
    variables = source.template.variables if isinstance(spec, ScoreSpec) else tuple(source.columns)
    varied = tuple(spec.vary or ()) if isinstance(spec, GenerateSpec) else ()
    places = ["a column of the input"] * bool(spec.input) + ["a name of --vary"] * bool(varied)
    check_variables(variables, columns.names, where=" or ".join(places))
    if isinstance(spec, ClassifySpec | EmbedSpec) and spec.text_column not in variables:
        raise InputError(f"--template does not use the text column {spec.text_column!r}")
    if isinstance(spec, ScoreSpec) and spec.text_column in variables:
        raise InputError(
            f"--template uses the text column {spec.text_column!r}, but is the context before the text; remove it"
        )
    if varied and variables and spec.input and set(variables) <= set(varied):
        raise RequestError(
            "--template uses only names of --vary and no column of the input; leave --input out, or use a column"
        )
    if not variables and not isinstance(spec, ScoreSpec):
        raise InputError("--template uses no column, so every prompt would be the same")
    for name in variables:
        check_variable(source.template, name, columns.field(name).type)
    if not source.text_variable and spec.truncate in ("left", "right"):
        raise InputError(
            f"--truncate {spec.truncate} shortens a text, but the template only goes over lists, which are never cut"
        )


def _check_examples(columns: pa.Schema, spec: JobSpec, source: PromptSource) -> None:
    """Raise InputError for a template that uses `examples` without --examples, or the other way round."""
    if not isinstance(spec, GenerateSpec):
        return
    is_used = EXAMPLES in source.template.variables
    if spec.examples is None and is_used and EXAMPLES not in columns.names:
        raise InputError(f"--template uses {EXAMPLES!r}; give --examples FILE.parquet and --shots K, which draw them")
    if spec.examples is not None and EXAMPLES in columns.names:
        raise InputError(
            f"the input has a column {EXAMPLES!r}, which with --examples is the name of each row's examples; rename it"
        )
    if spec.examples is not None and not is_used:
        raise InputError(
            "--template does not use the examples; go over them with {% for example in examples %}…{% endfor %}"
        )


def _check_labels(columns: pa.Schema, spec: JobSpec, source: PromptSource) -> None:
    """Raise InputError for a template that goes over the job's labels while the input has a column of this name."""
    if not isinstance(spec, ClassifySpec) or LABELS not in source.template.variables:
        return
    if spec.questions is not None and LABELS not in columns.names:
        raise InputError(f"--template uses {LABELS!r}, but with --questions each question has labels of its own")
    if spec.questions is None and LABELS in columns.names:
        raise InputError(
            f"the input has a column {LABELS!r}, which in the template of classify is the name of the job's labels; "
            "rename it"
        )


def added_columns(spec: JobSpec, columns: pa.Schema = _NO_COLUMNS) -> pa.Schema:
    """The columns that the job adds to `columns`, those of the input, with their prefix, in order."""
    return pa.schema([field.with_name(spec.prefix + field.name) for field in _fields(spec, columns)])


def _fields(spec: JobSpec, columns: pa.Schema) -> list[pa.Field[Any]]:
    if isinstance(spec, GenerateSpec):
        keep = kept_columns(spec, columns)
        added = schema.generate_fields(spec.samples, as_lists=spec.samples_as == "lists", keep=keep)
        return [*added, *(pa.field(field.name, field.type.arrow) for field in fields_of(spec))]
    if isinstance(spec, EmbedSpec):
        return schema.embed_fields()
    return classify_fields(spec) if isinstance(spec, ClassifySpec) else schema.score_fields()


def kept_columns(spec: GenerateSpec, columns: pa.Schema) -> tuple[str, ...]:
    """The names in --keep that the input does not have already: as its prompts, or as the seeds of its rows."""
    has = {schema.PROMPT: _has_prompts(spec, columns), schema.SEED: _has_seeds(spec, columns)}
    return tuple(name for name in schema.KEEPABLE if name in spec.keep and not has[name])


def _has_prompts(spec: GenerateSpec, columns: pa.Schema) -> bool:
    name = spec.prefix + schema.PROMPT
    return name in columns.names and spec.template is None and spec.prompt_column == name


def _has_seeds(spec: GenerateSpec, columns: pa.Schema) -> bool:
    # The samples of a row have seeds of their own, which its column does not have.
    is_row = spec.samples == 1 or spec.samples_as == "lists"
    return not spec.prefix and is_row and schema.SEED in override_columns(columns)


def override_columns(columns: pa.Schema) -> tuple[str, ...]:
    """The numeric input columns named like a sampling parameter; they override the job's value for their row."""
    return tuple(name for name in schema.OVERRIDES if name in columns.names and _is_number(columns.field(name).type))


def _is_number(arrow_type: pa.DataType) -> bool:
    return bool(pa.types.is_integer(arrow_type) or pa.types.is_floating(arrow_type) or pa.types.is_decimal(arrow_type))
