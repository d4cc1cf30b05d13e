"""Random Arrow tables: any type that Parquet stores, values from its whole range, and unusual names and metadata.

The same seed gives the same table on every machine.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa

ROWS = 7
_INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
_UNITS = ("s", "ms", "us", "ns")
_ZONES = (None, "UTC", "Asia/Yakutsk", "+05:45")
_WORDS = ("", "a", "наш спорт", "\0", "e\u0301", "🏴‍☠️", "{}", "null", "NaN", "a" * 300, " \n\t", "\u202e")
_NAMES = (
    *("id", "Id", "заголовок", "two words", "a.b", "a-b", "a/b", "", " ", "row", "self", "loop", "none", "true"),
    *("list", "element", "key", "value", "n" * 300, "'", '"', "`", "select", "date=1", "a\nb", "1", "{{ x }}", "x?"),
)
Make = Callable[[random.Random, int], Any]


def random_table(seed: int) -> pa.Table:
    """A table with a column `text` and up to five random columns, in random order and chunks."""
    rng = random.Random(seed)
    names = rng.sample(_NAMES, rng.randrange(1, 6))
    arrays = [_column(rng) for _ in names]
    texts = pa.array([rng.choice((*_WORDS, None)) for _ in range(ROWS)], pa.string())
    at = rng.randrange(len(names) + 1)
    names.insert(at, "text")
    arrays.insert(at, pa.chunked_array([texts]))
    fields = [
        pa.field(name, array.type, nullable=array.null_count > 0 or rng.random() < 0.7, metadata=_metadata(rng))
        for name, array in zip(names, arrays, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=_metadata(rng)))


def random_writer(seed: int) -> dict[str, Any]:
    """Random arguments of `pyarrow.parquet.write_table`."""
    rng = random.Random(seed)
    return {
        "version": rng.choice(("1.0", "2.4", "2.6")),
        "compression": rng.choice(("none", "snappy", "zstd", "gzip")),
        "use_dictionary": rng.random() < 0.5,
        "row_group_size": rng.choice((1, 3, ROWS)),
        "data_page_version": rng.choice(("1.0", "2.0")),
        "use_deprecated_int96_timestamps": rng.random() < 0.2,
        "store_schema": rng.random() < 0.7,
        "use_compliant_nested_type": rng.random() < 0.8,
        "write_page_index": rng.random() < 0.3,
    }


def _column(rng: random.Random) -> pa.ChunkedArray[Any]:
    make = _type(rng, depth=3)
    cut = rng.choice((0, 2, ROWS))
    return pa.chunked_array([chunk for rows in (cut, ROWS - cut) if len(chunk := make(rng, rows)) == rows])


def _type(rng: random.Random, depth: int) -> Make:
    """A function that makes an array of a random type, which stays the same for all chunks."""
    nested = [_list, _large_list, _fixed_list, _struct, _map] if depth else []
    kind = rng.choice([*_FLAT, *_FLAT, *nested])
    return kind(rng, depth)


def _integers(rng: random.Random, depth: int) -> Make:
    return _from_integers(rng.choice(_INTEGERS))


def _times(rng: random.Random, depth: int) -> Make:
    unit, zone = rng.choice(_UNITS), rng.choice(_ZONES)
    types = [pa.timestamp(unit, zone), pa.date32(), pa.date64(), pa.time32("ms"), pa.time64("us"), pa.duration(unit)]
    return _from_integers(rng.choice(types))


def _from_integers(arrow_type: pa.DataType) -> Make:
    """Whole numbers of the whole range, seen as values of the type."""
    width, unsigned = arrow_type.bit_width, pa.types.is_unsigned_integer(arrow_type)
    storage = {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[width]
    low, high = (-(1 << width - 1), (1 << width - 1) - 1)
    if pa.types.is_time(arrow_type):  # the time of a day
        low, high = 0, 86_399_999 if arrow_type.bit_width == 32 else 86_399_999_999
    step = 86_400_000 if arrow_type == pa.date64() else 1  # whole days, as many as a date32 has
    low, high = (low, high) if step == 1 else (-(1 << 31) * step, ((1 << 31) - 1) * step)

    def make(rng: random.Random, rows: int) -> pa.Array[Any]:
        edges = (low, high, 0, 1, rng.randint(low, high), rng.randint(max(low, -(10**6)), min(high, 10**6)))
        values = [None if rng.random() < 0.2 else rng.choice(edges) // step * step for _ in range(rows)]
        array = pa.array(values, storage)
        return array.view(arrow_type) if unsigned or arrow_type != storage else array

    return make


def _floats(rng: random.Random, depth: int) -> Make:
    arrow_type = rng.choice([pa.float16(), pa.float32(), pa.float64()])
    edges = (0.0, -0.0, 1.5, float("inf"), float("-inf"), float("nan"), 1e-7, 6e4, None)
    return lambda rng, rows: pa.array([rng.choice(edges) for _ in range(rows)], arrow_type)


def _decimals(rng: random.Random, depth: int) -> Make:
    digits = rng.choice((1, 9, 18, 38, 39, 76))
    scale = rng.choice((0, 1, digits))
    arrow_type = pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(digits, scale)
    whole = (0, 1, -1, 10**digits - 1, 1 - 10**digits)

    def make(rng: random.Random, rows: int) -> pa.Array[Any]:
        texts = [f"{rng.choice(whole)}E-{scale}" if rng.random() < 0.8 else None for _ in range(rows)]
        return pa.array([None if text is None else Decimal(text) for text in texts], arrow_type)

    return make


def _texts(rng: random.Random, depth: int) -> Make:
    arrow_type = rng.choice([pa.string(), pa.large_string(), pa.string_view()])
    return lambda rng, rows: pa.array([rng.choice((*_WORDS, None)) for _ in range(rows)], arrow_type)


def _bytes(rng: random.Random, depth: int) -> Make:
    arrow_type = rng.choice([pa.binary(), pa.large_binary(), pa.binary(5)])
    return lambda rng, rows: pa.array([rng.choice((b"\xff\0abc", b"12345", None)) for _ in range(rows)], arrow_type)


def _booleans_and_nulls(rng: random.Random, depth: int) -> Make:
    if rng.random() < 0.5:
        return lambda rng, rows: pa.array([rng.choice((True, False, None)) for _ in range(rows)], pa.bool_())
    return lambda rng, rows: pa.nulls(rows)


def _dictionary(rng: random.Random, depth: int) -> Make:
    words = pa.array(rng.sample(_WORDS, 3), rng.choice([pa.string(), pa.large_string()]))
    index = rng.choice([pa.int8(), pa.int32(), pa.int64()])
    ordered = rng.random() < 0.3

    def make(rng: random.Random, rows: int) -> pa.Array[Any]:
        codes = pa.array([rng.choice((0, 1, 2, None)) for _ in range(rows)], index)
        return pa.DictionaryArray.from_arrays(codes, words, ordered=ordered)

    return make


def _extension(rng: random.Random, depth: int) -> Make:
    if rng.random() < 0.5:
        values = [uuid.UUID(int=rng.getrandbits(128)).bytes for _ in range(3)]
        return lambda rng, rows: pa.ExtensionArray.from_storage(
            pa.uuid(), pa.array([rng.choice((*values, None)) for _ in range(rows)], pa.binary(16))
        )
    texts = ('{"a": 1}', "[]", "null", None)
    return lambda rng, rows: pa.ExtensionArray.from_storage(
        pa.json_(), pa.array([rng.choice(texts) for _ in range(rows)], pa.string())
    )


def _lengths(rng: random.Random, rows: int) -> list[int | None]:
    """The offsets of `rows` lists; None at a list that is null."""
    offsets: list[int | None] = [0]
    last = 0
    for _ in range(rows):
        last += rng.randrange(3)
        offsets.append(last)
    return [None if index < rows and rng.random() < 0.2 else offset for index, offset in enumerate(offsets)]


def _list(rng: random.Random, depth: int) -> Make:
    inner = _type(rng, depth - 1)

    def make(rng: random.Random, rows: int) -> pa.Array[Any]:
        offsets = _lengths(rng, rows)
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), inner(rng, offsets[-1] or 0))

    return make


def _large_list(rng: random.Random, depth: int) -> Make:
    inner = _type(rng, depth - 1)

    def make(rng: random.Random, rows: int) -> pa.Array[Any]:
        offsets = _lengths(rng, rows)
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), inner(rng, offsets[-1] or 0))

    return make


def _fixed_list(rng: random.Random, depth: int) -> Make:
    inner = _type(rng, depth - 1)
    return lambda rng, rows: pa.FixedSizeListArray.from_arrays(inner(rng, rows * 2), 2)


def _struct(rng: random.Random, depth: int) -> Make:
    names = rng.sample(("a", "b", "text", "с пробелом"), rng.randrange(1, 3))
    inner = {name: _type(rng, depth - 1) for name in names}

    def make(rng: random.Random, rows: int) -> pa.Array[Any]:
        mask = pa.array([rng.random() < 0.2 for _ in range(rows)], pa.bool_())
        return pa.StructArray.from_arrays([each(rng, rows) for each in inner.values()], names, mask=mask)

    return make


def _map(rng: random.Random, depth: int) -> Make:
    inner = _type(rng, depth - 1)

    def make(rng: random.Random, rows: int) -> pa.Array[Any]:
        offsets = _lengths(rng, rows)
        count = offsets[-1] or 0
        keys = pa.array([f"k{number}" for number in range(count)], pa.string())
        return pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), keys, inner(rng, count))

    return make


def _metadata(rng: random.Random) -> dict[bytes, bytes] | None:
    return rng.choice((None, None, {b"note": "заметка".encode()}, {b"PARQUET:field_id": b"7"}))


_FLAT = (_integers, _times, _floats, _decimals, _texts, _bytes, _booleans_and_nulls, _dictionary, _extension)
