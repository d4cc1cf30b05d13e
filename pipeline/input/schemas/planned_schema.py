"""The schema that the columns of the input have in the output: Arrow types, metadata, and logical types of Parquet.

Arrow has no types for some logical types of Parquet (INTERVAL, ENUM, BSON, times in UTC, VARIANT, GEOMETRY). Such a
column is read and written as what it is stored as, and its logical type is copied into the footer of the output.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError
from tirazh.pipeline.input.schemas.arrow_types import planned_type, unwritable_column, with_metadata
from tirazh.pipeline.input.schemas.parquet_schema import (
    Annotation,
    SchemaElement,
    columns_of,
    read_elements,
    with_elements,
)

# A key of the schema's metadata, only in plan.json: for every column that needs it, the position of a node in the
# column, and the node's logical type.
_KEY = b"tirazh.parquet_types"
# Values of `converted_type` and field ids of `logicalType` in parquet.thrift that Arrow reads and writes again.
_CONVERTED = frozenset((0, 1, 2, 3, 5, 6, *range(9, 20)))
_LOGICAL = frozenset((1, 2, 3, 5, 6, 8, 10, 11, 12, 14, 15))
_TIME = 7
_TIME_IN_UTC = 0x11  # the first field of TimeType, `isAdjustedToUTC`, is true
_SAME_PHYSICAL_TYPE = (1, 2)  # the ids of `type` and `type_length` in SchemaElement
# Spark writes these where dates and times are in the old hybrid calendar; they change what the values mean.
_CALENDARS = (b"org.apache.spark.legacyDateTime", b"org.apache.spark.legacyINT96")


def planned_schema(columns: pa.Schema, elements: Sequence[SchemaElement]) -> pa.Schema:
    """Return the schema of the output for one file.

    `columns` is the file's Arrow schema as it is read, `elements` its Parquet schema. Raises ValueError for a
    column whose logical type cannot be kept.
    """
    fields = [field.with_type(planned_type(field.type)) for field in columns]
    metadata = dict(columns.metadata or {})
    found = _types_to_copy(pa.schema(fields), elements)
    if found:
        metadata[_KEY] = json.dumps(found).encode()
    return with_metadata(fields, metadata)


def with_metadata_of(columns: pa.Schema, files: Sequence[tuple[str, pa.Schema]]) -> pa.Schema:
    """Return `columns`, the schema of all files, with the metadata of their fields in `files` (names and schemas).

    Columns have the metadata of the first file that says something about them. Raises InputError if a file says
    that equal bytes of a column mean other values than in an earlier file.
    """
    name, first = files[0]
    calendars = _calendars(first)
    types: dict[str, object] = {}
    metadata_of: dict[str, Any] = {}
    origins: dict[str, str] = {}
    last = None
    for other, schema in files:
        # Most files have the metadata and columns of the file before.
        if last is not None and schema.equals(last, check_metadata=True):
            continue
        last = schema
        if _calendars(schema) != calendars:
            raise _other_meaning(other, name, "the calendar of dates")
        stored = _stored(schema)
        for field in schema:
            metadata_of.setdefault(field.name, field.metadata)
            # A column that is empty, or has another type, in this file is cast to that of the others.
            if field.type != _type_of(field.name, columns):
                continue
            if types.setdefault(field.name, stored.get(field.name)) != stored.get(field.name):
                raise _other_meaning(other, origins[field.name], f"column {field.name!r}")
            origins.setdefault(field.name, other)
    fields = []
    for field in columns:
        own = metadata_of.get(field.name)
        fields.append(field.with_metadata(own) if own and not field.metadata else field)
    kept = {column: found for column, found in types.items() if found is not None and column in columns.names}
    metadata = public_metadata(columns) | ({_KEY: json.dumps(kept).encode()} if kept else {})
    return with_metadata(fields, metadata)


def _other_meaning(file: str, other: str, what: str) -> InputError:
    return InputError(
        f"{file} and {other} have the same columns with other meanings: {what} is not stored in the same way in both; "
        "write one of them again, or run a job for each"
    )


def refuse_unwritable(columns: pa.Schema) -> None:
    """Raise InputError for a column that can be read from Parquet but not written."""
    name = unwritable_column(columns)
    if name is not None:
        raise InputError(
            f"column {name!r} holds {columns.field(name).type}, which cannot be written as Parquet; leave it out"
        )


def copy_parquet_types(file: bytes, columns: pa.Schema) -> bytes:
    """Give a Parquet file whose first columns are `columns` the logical types that Arrow could not write."""
    types = _stored(columns)
    if not types:
        return file
    elements = read_elements(file)
    for nodes in columns_of(elements):
        for position, (converted, logical) in types.get(elements[nodes.start].name, {}).items():
            annotation = Annotation(bytes.fromhex(converted), bytes.fromhex(logical))
            index = nodes.start + int(position)
            elements[index] = elements[index].annotated(annotation)
    return with_elements(file, elements)


def columns_without_statistics(columns: pa.Schema) -> frozenset[str]:
    """The columns whose order is not that of their bytes, so that minimum and maximum would be wrong."""
    return frozenset(_stored(columns))


def public_metadata(columns: pa.Schema) -> dict[bytes, bytes]:
    """The metadata of the schema that was in the input file."""
    return {key: value for key, value in (columns.metadata or {}).items() if key != _KEY}


def _types_to_copy(columns: pa.Schema, elements: Sequence[SchemaElement]) -> dict[str, dict[str, tuple[str, str]]]:
    special = [nodes for nodes in columns_of(elements) if any(_is_unknown(elements[index]) for index in nodes)]
    if not special:
        return {}
    sink = io.BytesIO()
    pq.ParquetWriter(sink, columns).close()
    written = read_elements(sink.getvalue())
    places = {written[nodes.start].name: nodes for nodes in columns_of(written)}
    found = {}
    for nodes in special:
        name = elements[nodes.start].name
        found[name] = _match([elements[index] for index in nodes], [written[index] for index in places[name]])
    return found


def _match(read: Sequence[SchemaElement], written: Sequence[SchemaElement]) -> dict[str, tuple[str, str]]:
    """Map positions of nodes in `written` to the annotations that the same nodes have in `read`."""
    pairs = list(zip(read, enumerate(written), strict=False))
    if [node.num_children for node in read] != [node.num_children for node in written]:
        # A list in the old form, of two levels instead of three: only the columns correspond.
        leaves = [(index, node) for index, node in enumerate(written) if not node.num_children]
        pairs = list(zip((node for node in read if not node.num_children), leaves, strict=True))
        if any(node.num_children and _is_unknown(node) for node in read):
            raise ValueError(f"the type of its column {read[0].name!r} cannot be written again")
    found = {}
    for node, (index, other) in pairs:
        if _is_unknown(node):
            if any(node.values.get(key) != other.values.get(key) for key in _SAME_PHYSICAL_TYPE):
                raise ValueError(f"the type of its column {read[0].name!r} cannot be written again")
            found[str(index)] = (node.annotation.converted.hex(), node.annotation.logical.hex())
    return found


def _is_unknown(node: SchemaElement) -> bool:
    """Whether Arrow does not write the logical type of a node as it was read."""
    annotation = node.annotation
    if annotation.logical:
        kind = annotation.logical[0] >> 4 or annotation.logical[1] >> 1
        is_time = kind == _TIME and annotation.logical[1] != _TIME_IN_UTC
        return not is_time and kind not in _LOGICAL
    return bool(annotation.converted) and annotation.converted[0] >> 1 not in _CONVERTED


def _stored(columns: pa.Schema) -> Mapping[str, Mapping[str, tuple[str, str]]]:
    found: Mapping[str, Mapping[str, tuple[str, str]]] = json.loads((columns.metadata or {}).get(_KEY, b"{}"))
    return found


def _calendars(schema: pa.Schema) -> frozenset[bytes]:
    return frozenset(key for key in _CALENDARS if key in (schema.metadata or {}))


def _type_of(name: str, columns: pa.Schema) -> pa.DataType | None:
    return columns.field(name).type if columns.names.count(name) == 1 else None
