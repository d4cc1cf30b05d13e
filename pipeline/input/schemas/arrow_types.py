"""Which Arrow types columns have when they are read, between the steps of a job, and when they are written.

Three types of one column may differ. The *planned* type is that of the output. The *transport* type is what Ray can
send between processes. The *comparable* type is what two columns of the same values have in common.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

# Every reader of input files takes these options. Spark writes timestamps as INT96 by default. As nanoseconds, which is
# the default of pyarrow, those before 1677 and after 2262 would wrap around, and Spark could not read the output.
READ_OPTIONS: dict[str, Any] = {"coerce_int96_timestamp_unit": "us"}

# The attributes of data types depend on the kind of type, which mypy cannot follow.
_Type = Any
_Change = Callable[[_Type], _Type]
_MIN_INDEX_BITS = 32


def planned_type(arrow_type: _Type) -> _Type:
    """The type of the output: indices of dictionaries have at least 32 bits.

    The row groups of a file have dictionaries of their own; together they may have more values than small
    indices can count.
    """
    return _rebuild(arrow_type, _widen)


def unwritable_column(columns: pa.Schema) -> str | None:
    """The name of the first column that pyarrow cannot write as Parquet; None if it can write all."""
    if _is_writable(columns):
        return None
    return next((field.name for field in columns if not _is_writable(pa.schema([field]))), None)


def _is_writable(columns: pa.Schema) -> bool:
    try:
        pq.ParquetWriter(io.BytesIO(), columns).close()
    except pa.ArrowException:
        return False
    return True


def storable(table: pa.Table) -> pa.Table:
    """Return the table with dictionaries whose values are no views: pyarrow cannot write those of polars as Parquet."""

    def change(inner: _Type) -> _Type:
        if not pa.types.is_dictionary(inner):
            return inner
        return pa.dictionary(inner.index_type, _without_view(inner.value_type), inner.ordered)

    fields = [field.with_type(_rebuild(field.type, change)) for field in table.schema]
    columns = [convert(column, field.type) for column, field in zip(table.columns, fields, strict=True)]
    return pa.Table.from_arrays(columns, schema=with_metadata(fields, table.schema.metadata))


def to_transport(table: pa.Table) -> pa.Table:
    """Return the table with the types in which Ray 2.60 can send it: views become plain strings and bytes.

    `restore` is the reverse.
    """
    fields = [field.with_type(_transport_type(field.type)) for field in table.schema]
    columns = [convert(column, field.type) for column, field in zip(table.columns, fields, strict=True)]
    return pa.Table.from_arrays(columns, schema=with_metadata(fields, table.schema.metadata))


def without_columns(columns: pa.Schema, names: Collection[str]) -> pa.Schema:
    """The schema without the columns `names`."""
    return with_metadata([field for field in columns if field.name not in names], columns.metadata)


def with_metadata(fields: Iterable[pa.Field[Any]], metadata: Mapping[bytes, bytes] | None) -> pa.Schema:
    """The schema of `fields` with `metadata`; none if it is empty."""
    values: Any = dict(metadata or {}) or None
    return pa.schema(list(fields), values)


def read_together(columns: pa.Schema, groups: Sequence[int]) -> list[list[int]]:
    """Which row groups pyarrow may read as one.

    Dictionaries inside of lists and structs are combined by pyarrow as it reads several row groups. Together they may
    have more values than their small indices can count, so each row group is read by itself.
    """
    has_inner = any(
        pa.types.is_nested(field.type) and _contains(field.type, pa.types.is_dictionary) for field in columns
    )
    return [[group] for group in groups] if has_inner else [list(groups)]


def restore(table: pa.Table, columns: pa.Schema) -> pa.Table:
    """Return the columns of `columns` from `table` with exactly its types, fields and metadata.

    The values are those that `to_transport` returned. Raises ArrowException for a column of another type that cannot be
    cast.
    """
    arrays = [convert(table.column(field.name), field.type) for field in columns]
    return pa.Table.from_arrays(arrays, schema=columns)


def is_text(arrow_type: pa.DataType) -> bool:
    """Whether a column of this type holds texts: strings of any layout, also the string views of polars."""
    return pa.types.is_string(arrow_type) or pa.types.is_large_string(arrow_type) or pa.types.is_string_view(arrow_type)


def take(table: pa.Table, rows: Sequence[int] | NDArray[np.int64]) -> pa.Table:
    """Return some rows of a table, by their numbers. Arrow 26 has no such function for string views, which polars
    writes."""
    numbers: Any = pa.array(rows, pa.int64())
    return restore(to_transport(table).take(numbers), table.schema)


def comparable(column: pa.ChunkedArray[Any], *, floats_as_text: bool = False) -> pa.ChunkedArray[Any]:
    """Return a column in a type that does not depend on how the values are encoded.

    Dictionaries are decoded, extension types are replaced by their storage, views by plain strings and bytes, and
    floating-point numbers by integers of the same bits, so that equal NaN are equal; or by texts, so that all NaN are
    equal.
    """
    storage = _storage_type(column.type)
    if not floats_as_text:
        storage = _rebuild(storage, lambda inner: _BITS.get(inner, inner))
    plain = _rebuild(storage, _decoded)
    return convert(_retype(column, storage), _transport_type(plain))


def _decoded(arrow_type: _Type) -> _Type:
    if pa.types.is_dictionary(arrow_type):
        return arrow_type.value_type
    return pa.string() if pa.types.is_floating(arrow_type) else arrow_type


_BITS: dict[pa.DataType, pa.DataType] = {
    pa.float16(): pa.int16(),
    pa.float32(): pa.int32(),
    pa.float64(): pa.int64(),
}


def convert(column: pa.ChunkedArray[Any], target: pa.DataType) -> pa.ChunkedArray[Any]:
    """Cast a column to `target`. Where only names, nullability or extensions differ, the buffers are kept.

    Arrow has no casts between some extension types and their storage, nor to fields that are not nullable.
    """
    if column.type.equals(target, check_metadata=True):
        return column
    storage, wanted = _storage_type(column.type), _storage_type(target)
    if _layout(storage) != _layout(wanted):
        # A cast never makes a field required, even of the same values; so it is done without required fields.
        column = _retype(column, _nullable(storage)).cast(_nullable(wanted))
    return _retype(column, target)


def field_names(arrow_type: _Type) -> list[str]:
    """The names of all fields of structs in a type, at any depth. `convert` goes by their places alone."""
    found: list[str] = []

    def look(inner: _Type) -> _Type:
        if pa.types.is_struct(inner):
            found.extend(field.name for field in inner.fields)
        return inner

    _rebuild(_storage_type(arrow_type), look)
    return found


def _transport_type(arrow_type: _Type) -> _Type:
    # Arrow cannot cast list views back, and Ray sends them as they are, only more slowly.
    if _contains(arrow_type, lambda inner: pa.types.is_list_view(inner) or pa.types.is_large_list_view(inner)):
        return arrow_type
    return _rebuild(arrow_type, lambda inner: _widen(_without_view(inner)))


def _widen(arrow_type: _Type) -> _Type:
    if pa.types.is_dictionary(arrow_type) and arrow_type.index_type.bit_width < _MIN_INDEX_BITS:
        # Inside of lists and structs polars reads only dictionaries with unsigned indices, such as it writes itself.
        index = pa.int32() if pa.types.is_signed_integer(arrow_type.index_type) else pa.uint32()
        return pa.dictionary(index, arrow_type.value_type, arrow_type.ordered)
    return arrow_type


def _without_view(arrow_type: _Type) -> _Type:
    if pa.types.is_string_view(arrow_type):
        return pa.large_string()
    if pa.types.is_binary_view(arrow_type):
        return pa.large_binary()
    if isinstance(arrow_type, pa.BaseExtensionType):
        storage = _rebuild(arrow_type.storage_type, _without_view)
        return arrow_type if storage == arrow_type.storage_type else storage
    return arrow_type


def _storage_type(arrow_type: _Type) -> _Type:
    """The type without extension types, at any depth."""
    return _rebuild(arrow_type, _storage)


def _storage(arrow_type: _Type) -> _Type:
    return _storage_type(arrow_type.storage_type) if isinstance(arrow_type, pa.BaseExtensionType) else arrow_type


def _layout(arrow_type: _Type) -> _Type:
    """The type without names, nullability and metadata. Columns of equal layouts have the same kinds of buffers."""

    def plain(inner: _Type) -> _Type:
        if pa.types.is_struct(inner):
            return pa.struct([pa.field("", field.type) for field in inner.fields])
        if pa.types.is_map(inner):
            return pa.map_(inner.key_type, inner.item_type)
        if pa.types.is_dictionary(inner):
            return pa.dictionary(inner.index_type, inner.value_type)
        if pa.types.is_fixed_size_list(inner):
            return pa.list_(pa.field("", inner.value_type), inner.list_size)
        make = _LISTS.get(inner.id)
        return inner if make is None else make(pa.field("", inner.value_type))

    return _rebuild(arrow_type, plain)


_LISTS: dict[int, Callable[[pa.Field[Any]], _Type]] = {
    pa.list_(pa.null()).id: pa.list_,
    pa.large_list(pa.null()).id: pa.large_list,
    pa.list_view(pa.null()).id: pa.list_view,
    pa.large_list_view(pa.null()).id: pa.large_list_view,
}


def _nullable(arrow_type: _Type) -> _Type:
    return _rebuild(arrow_type, lambda inner: inner, is_nullable=True)


def _rebuild(arrow_type: _Type, change: _Change, *, is_nullable: bool = False) -> _Type:
    """Apply `change` to the types inside `arrow_type`, then to the type itself. Fields keep all else.

    With `is_nullable` no field but the keys of maps is required.
    """

    def inside(field: pa.Field[Any]) -> pa.Field[Any]:
        same = field.with_type(_rebuild(field.type, change, is_nullable=is_nullable))
        return same.with_nullable(True) if is_nullable else same

    if pa.types.is_struct(arrow_type):
        arrow_type = pa.struct([inside(field) for field in arrow_type.fields])
    elif pa.types.is_map(arrow_type):
        key = inside(arrow_type.key_field).with_nullable(False)
        arrow_type = pa.map_(key, inside(arrow_type.item_field), arrow_type.keys_sorted)
    elif pa.types.is_fixed_size_list(arrow_type):
        arrow_type = pa.list_(inside(arrow_type.value_field), arrow_type.list_size)
    elif arrow_type.id in _LISTS:
        arrow_type = _LISTS[arrow_type.id](inside(arrow_type.value_field))
    elif pa.types.is_dictionary(arrow_type):
        values = _rebuild(arrow_type.value_type, change)
        arrow_type = pa.dictionary(arrow_type.index_type, values, arrow_type.ordered)
    return change(arrow_type)


def _contains(arrow_type: _Type, is_wanted: Callable[[_Type], bool]) -> bool:
    found = []

    def look(inner: _Type) -> _Type:
        found.append(is_wanted(inner))
        return inner

    _rebuild(_storage_type(arrow_type), look)
    return any(found)


def _retype(column: pa.ChunkedArray[Any], target: _Type) -> pa.ChunkedArray[Any]:
    """Return the same buffers under a type of the same layout (`_layout`)."""
    if column.type.equals(target, check_metadata=True):
        return column
    renamed: list[Any] = [pa.array(_Renamed(chunk, target)) for chunk in column.chunks]  # type: ignore[call-overload]
    return pa.chunked_array(renamed, target)


@dataclass(frozen=True, slots=True)
class _Renamed:
    """An array under another type, for the C data interface of Arrow."""

    array: pa.Array[Any]
    arrow_type: pa.DataType

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        return self.arrow_type.__arrow_c_schema__(), self.array.__arrow_c_array__()[1]
