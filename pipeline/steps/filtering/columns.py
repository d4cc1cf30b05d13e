"""The columns of the files that a filter step writes: those of kept rows, and those of dropped ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from tirazh.errors import InputError, did_you_mean
from tirazh.pipeline import schema
from tirazh.pipeline.input.footers import check_text_column
from tirazh.pipeline.spec import FilterSpec
from tirazh.pipeline.steps.passed_errors import ErrorColumn


@dataclass(frozen=True, slots=True)
class TextColumns:
    """The columns with the completion and the prompt of the last generate step; None where there is none."""

    text: str | None = None
    prompt: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FilterColumns:
    """What a filter step reads and writes.

    `asked` are the columns of the kept rows, empty for all. In the last step (`is_last`) the columns of `errors`
    become one column `error`. `judges` is whether rows are judged, so that there are the columns `kept` and
    `drop_reasons`. `hidden` are columns that exist for the filter alone and are not written.
    """

    asked: tuple[str, ...]
    errors: tuple[ErrorColumn, ...]
    is_last: bool
    judges: bool
    is_inline: bool
    text_column: str | None = None
    prompt_column: str | None = None
    hidden: tuple[str, ...] = ()

    def full_schema(self, before: pa.Schema) -> pa.Schema:
        """The columns of dropped rows: all of the step before, the verdict, and in the last step the error."""
        left_out = {*self.hidden, *(column.name for column in self.errors if self.is_last)}
        fields = [field for field in before if field.name not in left_out]
        verdict = [pa.field(schema.KEPT, pa.bool_()), pa.field(schema.DROP_REASONS, pa.list_(pa.string()))]
        error = [pa.field(schema.ERROR, pa.string())] if self.is_last else []
        return pa.schema([*fields, *verdict, *error])

    def kept_schema(self, before: pa.Schema) -> pa.Schema:
        """The columns of kept rows."""
        if not self.is_last:
            return before
        full = self.full_schema(before)
        if self.asked:
            return pa.schema([full.field(name) for name in self.asked])
        without = () if self.judges else (schema.KEPT, schema.DROP_REASONS)
        return pa.schema([field for field in full if field.name not in without])

    @property
    def drops_errors(self) -> bool:
        """Whether rows with an error are dropped: where rows are judged at the end, and where `error` is not asked for.

        So no row with an error is ever among others without the column that says so.
        """
        return self.is_last and (self.judges or (bool(self.asked) and schema.ERROR not in self.asked))


def filter_columns(
    before: pa.Schema,
    spec: FilterSpec | None,
    *,
    errors: Sequence[ErrorColumn],
    texts: TextColumns,
    asked: Sequence[str],
    hidden: Sequence[str],
    is_last: bool,
) -> FilterColumns:
    """Check the columns of a filter step; `spec` is None for one that only selects columns.

    `before` are the columns of the step before it. `texts` are those of the last generate step.
    Raises InputError for a column that does not exist and for a name that is taken.
    """
    chosen = FilterColumns(
        asked=tuple(asked) if is_last else (),
        hidden=tuple(hidden) if is_last else (),
        errors=tuple(errors),
        is_last=is_last,
        judges=spec is not None,
        is_inline=spec is not None and spec.dropped == "inline",
        text_column=(spec.text_column or texts.text) if spec is not None else None,
        prompt_column=(spec.prompt_column or texts.prompt) if spec is not None else None,
    )
    if spec is not None:
        if chosen.text_column is None:
            raise InputError("text_column is missing: no step before the filter generates a text")
        check_text_column(before, chosen.text_column, flag="text_column")
    _refuse_taken(before, chosen)
    if is_last:
        names = replace(chosen, asked=()).kept_schema(before).names
        for name in asked:
            if name not in names:
                hint = did_you_mean(name, names) or f"; the columns are {', '.join(names)}"
                raise InputError(f"columns: the output has no column {name!r}{hint}")
    return chosen


def _refuse_taken(before: pa.Schema, chosen: FilterColumns) -> None:
    own = {column.name for column in chosen.errors} if chosen.is_last else set()
    added = [schema.KEPT, schema.DROP_REASONS, *([schema.ERROR] if chosen.is_last else [])]
    for name in added:
        found = next((each for each in before.names if each.lower() == name and each not in own), None)
        if found is not None:
            raise InputError(f"the rows already have a column {found!r}, which the filter adds; rename it")
