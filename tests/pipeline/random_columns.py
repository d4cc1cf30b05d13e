"""Random columns of every type that Parquet can hold, for property tests."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from tirazh.pipeline.input.schemas.arrow_types import restore

ZONES = (None, "UTC", "Europe/Moscow", "+03:00", "MSK")
INT64 = st.integers(-(2**63) + 1, 2**63 - 1)


def _decimals(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    return st.integers(-(10**precision) + 1, 10**precision - 1).map(lambda number: Decimal(number).scaleb(-scale))


_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
_LEAVES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.bool_(), st.booleans()),
    (pa.int8(), st.integers(-128, 127)),
    (pa.uint16(), st.integers(0, 2**16 - 1)),
    (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    (pa.int64(), INT64),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.float16(), st.floats(width=16)),
    (pa.float32(), st.floats(width=32)),
    (pa.float64(), st.floats()),
    (pa.string(), _TEXT),
    (pa.large_string(), _TEXT),
    (pa.string_view(), _TEXT),
    (pa.binary(), st.binary(max_size=5)),
    (pa.large_binary(), st.binary(max_size=5)),
    (pa.binary_view(), st.binary(max_size=20)),
    (pa.binary(3), st.binary(min_size=3, max_size=3)),
    (pa.decimal32(5, 2), _decimals(5, 2)),
    (pa.decimal64(15, 0), _decimals(15, 0)),
    (pa.decimal128(27, 10), _decimals(27, 10)),
    (pa.decimal256(27, 3), _decimals(27, 3)),
    (pa.date32(), st.integers(-(2**31) + 1, 2**31 - 1)),
    (pa.time32("ms"), st.integers(0, 86_399_999)),
    (pa.time64("us"), st.integers(0, 86_399_999_999)),
    (pa.time64("ns"), st.integers(0, 86_399_999_999_999)),
    *((pa.timestamp(unit, zone), INT64) for unit in ("ms", "us", "ns") for zone in ZONES),
    *((pa.duration(unit), INT64) for unit in ("s", "ms", "us", "ns")),
    (pa.uuid(), st.binary(min_size=16, max_size=16)),
    (pa.json_(), st.just('{"a": [1]}')),
    (pa.bool8(), st.integers(0, 1)),
    (pa.opaque(pa.binary(), "shape", "gis"), st.binary(max_size=5)),
    (pa.null(), st.none()),
    (pa.dictionary(pa.int8(), pa.string()), _TEXT),
    (pa.dictionary(pa.int16(), pa.string(), ordered=True), _TEXT),
    (pa.dictionary(pa.uint8(), pa.string()), _TEXT),
]


def _nested(
    inner: st.SearchStrategy[tuple[pa.DataType, st.SearchStrategy[Any]]],
) -> st.SearchStrategy[tuple[pa.DataType, st.SearchStrategy[Any]]]:
    def lists(chosen: tuple[pa.DataType, st.SearchStrategy[Any]], kind: int) -> tuple[Any, st.SearchStrategy[Any]]:
        arrow_type, values = chosen
        if kind == 3:
            return pa.list_(arrow_type, 2), st.lists(values, min_size=2, max_size=2)
        # Arrow casts nothing to a list view, and so can make none of dictionaries.
        make = pa.list_view if kind == 2 and arrow_type == _plain(arrow_type) else (pa.list_, pa.large_list)[kind % 2]
        return make(arrow_type), st.lists(values, max_size=3)

    def structs(chosen: list[tuple[pa.DataType, st.SearchStrategy[Any]]]) -> tuple[Any, st.SearchStrategy[Any]]:
        names = [f"f{index}" for index in range(len(chosen))]
        fields = [pa.field(name, arrow_type) for name, (arrow_type, _) in zip(names, chosen, strict=True)]
        values = {name: values for name, (_, values) in zip(names, chosen, strict=True)}
        return pa.struct(fields), st.fixed_dictionaries(values)

    def maps(chosen: tuple[pa.DataType, st.SearchStrategy[Any]]) -> tuple[Any, st.SearchStrategy[Any]]:
        arrow_type, values = chosen
        return pa.map_(pa.string(), arrow_type), st.lists(
            st.tuples(_TEXT, values), max_size=3, unique_by=lambda x: x[0]
        )

    return st.one_of(
        st.builds(lists, inner, st.integers(0, 3)),
        st.lists(inner, min_size=1, max_size=3).map(structs),
        inner.map(maps),
    )


def _or_none(chosen: tuple[pa.DataType, st.SearchStrategy[Any]]) -> tuple[pa.DataType, st.SearchStrategy[Any]]:
    return chosen[0], st.none() | chosen[1]


_TYPES = st.recursive(st.sampled_from(_LEAVES).map(_or_none), lambda inner: _nested(inner).map(_or_none), max_leaves=4)


@st.composite
def tables(draw: st.DrawFn, rows: int) -> pa.Table:
    """A table of `rows` rows, with one to four columns of random types, some of them with metadata."""
    fields, arrays = [], []
    for number in range(draw(st.integers(1, 4))):
        arrow_type, values = draw(_TYPES)
        column = draw(st.lists(values, min_size=rows, max_size=rows))
        metadata = draw(st.sampled_from([None, {"PARQUET:field_id": str(number + 7)}, {"unit": "kg"}]))
        fields.append(
            pa.field(f"c{number}", arrow_type, nullable=None in column or draw(st.booleans()), metadata=metadata)
        )
        arrays.append(_array(column, arrow_type))
    table = pa.Table.from_arrays(arrays, names=[field.name for field in fields])
    metadata = draw(st.sampled_from([None, {"owner": "us"}]))
    return restore(table, pa.schema(fields, metadata))


def _array(values: list[Any], arrow_type: pa.DataType) -> pa.Array[Any]:
    """Arrow makes nested arrays of extension types and dictionaries only by a cast, or not at all."""
    plain = _plain(arrow_type)
    return pa.array(values, plain)


def _plain(arrow_type: Any) -> Any:
    from tirazh.pipeline.input.schemas.arrow_types import _rebuild, _storage_type

    storage = _storage_type(arrow_type)
    return _rebuild(storage, lambda inner: inner.value_type if pa.types.is_dictionary(inner) else inner)
