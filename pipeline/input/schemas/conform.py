"""Gives the rows of one file the columns of the whole input: order, types, missing columns, directory columns.

Every cast is exact. A value that the unified type cannot hold is an error that names file, column and row.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from tirazh.errors import InputError
from tirazh.pipeline.input.schemas.arrow_types import convert, field_names, planned_type
from tirazh.pipeline.input.schemas.common_type import widens_to
from tirazh.pipeline.input.schemas.hive import constant_column
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.secrets import redact


def conform(table: pa.Table, columns: pa.Schema, file: StoredFile, first_row: int) -> pa.Table:
    """Return the rows of `table` with the columns and types of `columns`.

    `table` has rows of `file` from `first_row` on, with the columns of that file. A column that it lacks has the
    value of its directory, or null. Raises InputError for a value that cannot be cast exactly, for a column
    that `columns` does not have, and for one of a type that was not planned.
    """
    if not file.partition and table.schema.equals(columns):
        return table
    other = next((name for name in table.column_names if name not in columns.names), None)
    if other is not None:
        raise InputError(f"{show_uri(file.uri)} has a column {other!r} that it did not have when the job was planned")
    partition = dict(file.partition)
    arrays: list[Any] = []
    for field in columns:
        if field.name in table.column_names:
            arrays.append(_cast(table.column(field.name), field, file, first_row))
        elif field.name in partition:
            arrays.append(constant_column(partition[field.name], table.num_rows, field.type))
        else:
            arrays.append(pa.nulls(table.num_rows, field.type))
    return pa.Table.from_arrays(arrays, schema=columns)


def _cast(column: pa.ChunkedArray[Any], field: pa.Field[Any], file: StoredFile, first_row: int) -> Any:
    if column.type == field.type:
        return column
    if planned_type(column.type) == field.type:
        return convert(column, field.type)
    if not widens_to(column.type, field.type):
        raise InputError(
            f"{show_uri(file.uri)} has column {field.name!r} as {column.type}, and not as {field.type}, as when the "
            "job was planned"
        )
    try:
        return _cast_exactly(column, field.type)
    except pa.ArrowException as error:
        row = _first_failure(column, field.type)
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise InputError(
            f"{show_uri(file.uri)} has a value in column {field.name!r}, row {first_row + row}, that cannot become "
            f"{field.type} without a change ({redact(reason)}); the files have this column as several types: write it "
            "as one in all files"
        ) from error


def _cast_exactly(column: pa.ChunkedArray[Any], arrow_type: pa.DataType) -> Any:
    if pa.types.is_dictionary(arrow_type) and not pa.types.is_dictionary(column.type):
        column = column.cast(arrow_type.value_type)  # Arrow 26 makes no dictionary of a view
    try:
        result: Any = column.cast(arrow_type, safe=True)
    except pa.ArrowNotImplementedError:  # between extension types, and to fields that are not nullable
        if field_names(column.type) != field_names(arrow_type):
            raise
        result = convert(column, arrow_type)
    # Arrow 26 makes invalid lists where it casts a nested list of nulls to the same type.
    result.validate()
    return result


def _first_failure(column: pa.ChunkedArray[Any], arrow_type: pa.DataType) -> int:
    """The first row that cannot be cast, by bisection."""
    good, bad = 0, len(column)  # the first `good` rows can be cast, the first `bad` cannot
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            _cast_exactly(column.slice(0, middle), arrow_type)
            good = middle
        except pa.ArrowException:
            bad = middle
    return good
