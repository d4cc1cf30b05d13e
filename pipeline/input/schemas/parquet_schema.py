"""The schema elements in a Parquet footer, as bytes: for logical types that Arrow can neither express nor write.

Format: parquet.thrift of apache/parquet-format, in the Thrift compact protocol. The schema is at the beginning of
the footer, so the rest is never parsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

# Types of the compact protocol.
_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(13)
_SIZES = {_TRUE: 0, _FALSE: 0, _BYTE: 1, _DOUBLE: 8}  # in a struct; its booleans are in the header of their field
_LONG_LIST = 15
# Field ids of FileMetaData and SchemaElement.
_SCHEMA = 2
_NAME, _NUM_CHILDREN, _CONVERTED_TYPE, _LOGICAL_TYPE = 4, 5, 6, 10
_TRAILER_BYTES = 8  # the footer's length (4 bytes) and the magic number (4 bytes)
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class SchemaElement:
    """One node of the schema. `values` maps the ids of its Thrift fields to their type and their bytes."""

    values: dict[int, tuple[int, bytes]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the column or group; replacement characters for bytes that are not UTF-8."""
        _, data = self.values.get(_NAME, (_BINARY, b"\0"))
        _, start = _read_varint(data, 0)
        return data[start:].decode(errors="replace")

    @property
    def num_children(self) -> int:
        """The number of child nodes; 0 for a column."""
        return _zigzag(_read_varint(self.values[_NUM_CHILDREN][1], 0)[0]) if _NUM_CHILDREN in self.values else 0

    @property
    def annotation(self) -> Annotation:
        """The logical type of the node."""
        converted, logical = self.values.get(_CONVERTED_TYPE), self.values.get(_LOGICAL_TYPE)
        return Annotation(converted[1] if converted else b"", logical[1] if logical else b"")

    def annotated(self, annotation: Annotation) -> SchemaElement:
        """The same node with another logical type."""
        values = {key: value for key, value in self.values.items() if key not in (_CONVERTED_TYPE, _LOGICAL_TYPE)}
        if annotation.converted:
            values[_CONVERTED_TYPE] = (_I32, annotation.converted)
        if annotation.logical:
            values[_LOGICAL_TYPE] = (_STRUCT, annotation.logical)
        return SchemaElement(dict(sorted(values.items())))


@dataclass(frozen=True, slots=True)
class Annotation:
    """The logical type of a node: `converted_type` and `logicalType` of parquet.thrift, as bytes; empty if absent."""

    converted: bytes
    logical: bytes


def read_elements(file_end: bytes) -> list[SchemaElement]:
    """Return the nodes of the schema in depth-first order; the first is the root.

    `file_end` are the last bytes of a Parquet file, with the whole footer. Raises ValueError if it is damaged.
    """
    return _read_schema(_footer(file_end))[0]


def columns_of(elements: Sequence[SchemaElement]) -> list[range]:
    """The positions of the nodes of every top-level column. Raises ValueError for a schema that is no tree."""
    columns, start = [], 1
    while start < len(elements):
        stop, open_nodes = start, 1
        while open_nodes:
            if stop >= len(elements):
                raise ValueError("its schema is not a tree")
            open_nodes += elements[stop].num_children - 1
            stop += 1
        columns.append(range(start, stop))
        start = stop
    return columns


def with_elements(file: bytes, elements: Sequence[SchemaElement]) -> bytes:
    """Return the Parquet file with other schema elements. Raises ValueError if its footer is damaged."""
    footer = _footer(file)
    _, start, stop = _read_schema(footer)
    changed = footer[:start] + _list_header(len(elements)) + b"".join(map(_element_bytes, elements)) + footer[stop:]
    body = file[: len(file) - _TRAILER_BYTES - len(footer)]
    return body + changed + len(changed).to_bytes(4, "little") + file[-4:]


def _footer(file_end: bytes) -> bytes:
    length = int.from_bytes(file_end[-_TRAILER_BYTES:-4], "little")
    if length + _TRAILER_BYTES > len(file_end):
        raise ValueError("its footer is longer than the file")
    return file_end[len(file_end) - _TRAILER_BYTES - length : len(file_end) - _TRAILER_BYTES]


def _read_schema(footer: bytes) -> tuple[list[SchemaElement], int, int]:
    """Return the schema elements, and where their list starts and ends in the footer."""
    try:
        identifier, position = 0, 0
        while True:
            identifier, kind, position = _field_header(footer, position, identifier)
            if kind == _STOP:
                raise ValueError("its footer has no schema")
            if identifier == _SCHEMA and kind == _LIST:
                break
            position = _skip(footer, position, kind, 0)
        start = position
        size, _, position = _list_start(footer, position)
        elements = []
        for _ in range(size):
            element, position = _read_element(footer, position)
            elements.append(element)
        return elements, start, position
    except IndexError:
        raise ValueError("its footer is truncated") from None


def _read_element(data: bytes, position: int) -> tuple[SchemaElement, int]:
    values: dict[int, tuple[int, bytes]] = {}
    identifier = 0
    while True:
        identifier, kind, position = _field_header(data, position, identifier)
        if kind == _STOP:
            return SchemaElement(values), position
        end = _skip(data, position, kind, 0)
        values[identifier] = (kind, data[position:end])
        position = end


def _element_bytes(element: SchemaElement) -> bytes:
    parts, before = [], 0
    for identifier, (kind, data) in element.values.items():
        # The ids of SchemaElement are below 15, so that their differences fit in the short form of a field header.
        parts.append(bytes([(identifier - before) << 4 | kind]) + data)
        before = identifier
    return b"".join(parts) + bytes([_STOP])


def _field_header(data: bytes, position: int, identifier: int) -> tuple[int, int, int]:
    """Return the id and the type of a field, and the position of its value."""
    kind, difference = data[position] & 15, data[position] >> 4
    position += 1
    if kind == _STOP or difference:
        return identifier + difference, kind, position
    value, position = _read_varint(data, position)
    return _zigzag(value), kind, position


def _list_header(size: int) -> bytes:
    if size < _LONG_LIST:
        return bytes([size << 4 | _STRUCT])
    encoded = bytearray([_LONG_LIST << 4 | _STRUCT])
    while size > 127:
        encoded.append(size & 127 | 128)
        size >>= 7
    encoded.append(size)
    return bytes(encoded)


def _list_start(data: bytes, position: int) -> tuple[int, int, int]:
    """Return the number and the type of the items of a list, and the position of the first."""
    size, kind = data[position] >> 4, data[position] & 15
    position += 1
    if size == _LONG_LIST:
        size, position = _read_varint(data, position)
    if size > len(data):
        raise ValueError("its footer has a list that is longer than the footer")
    return size, kind, position


def _skip(data: bytes, position: int, kind: int, depth: int) -> int:
    """Return the position after a value."""
    if depth > _MAX_DEPTH:
        raise ValueError("its footer is nested too deep")
    if kind in _SIZES:
        return position + _SIZES[kind]
    if kind in (_I16, _I32, _I64):
        return _read_varint(data, position)[1]
    if kind == _BINARY:
        size, position = _read_varint(data, position)
        return position + size
    if kind in (_LIST, _SET):
        return _skip_list(data, position, depth)
    if kind == _STRUCT:
        identifier = 0
        while True:
            identifier, inner, position = _field_header(data, position, identifier)
            if inner == _STOP:
                return position
            position = _skip(data, position, inner, depth + 1)
    raise ValueError(f"its footer has a value of an unknown type ({kind})")


def _skip_list(data: bytes, position: int, depth: int) -> int:
    size, kind, position = _list_start(data, position)
    for _ in range(size):
        # Inside a list a boolean takes a byte.
        position = position + 1 if kind in (_TRUE, _FALSE) else _skip(data, position, kind, depth + 1)
    return position


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("its footer has an integer of more than 64 bits")


def _zigzag(value: int) -> int:
    return value >> 1 ^ -(value & 1)
