"""Finds the one Arrow type that keeps every value of several types, as readers of many files unify them.

The result does not depend on the order of the types, except for what has no meaning for values: the order of
a struct's fields, names inside lists and maps, and metadata are those of the first.
Widening never loses a value: int64 and float64 give float64, and a value that float64 cannot hold fails when
it is cast (`conform.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa

# The decimal digits of the largest value of an integer type, by its bits.
_DIGITS = {8: 3, 16: 5, 32: 10, 64: 20}
_INT64_DIGITS = 19
# The bits of the largest integers that float32 has exactly: its mantissa has 24 bits.
_MAX_BITS_IN_FLOAT32 = 16
_UNITS = ("s", "ms", "us", "ns")
_UTC = {"UTC", "Etc/UTC", "GMT", "Etc/GMT", "Z", "+00:00", "+0000", "-00:00"}
# Views of lists are left out: Arrow 26 cannot cast one that has a null.
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BINARIES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
_Test = Callable[[pa.DataType], bool]
_make: Any = pa  # the type stubs of pyarrow lack some forms of its constructors


def common_type(types: Iterable[pa.DataType]) -> pa.DataType | None:
    """Return the type that holds the values of all `types`, or None if there is none.

    The null type adds nothing. Types that are equal except for metadata are equal.
    """
    found: list[pa.DataType] = []
    for each in types:
        if not pa.types.is_null(each) and each not in found:
            found.append(each)
    if not found:
        return pa.null()
    if len(found) == 1:
        return found[0]
    if any(pa.types.is_dictionary(each) for each in found):
        return _common_dictionary(found)
    if any(isinstance(each, pa.BaseExtensionType) for each in found):
        return _common_storage(found)
    for family in _FAMILIES:
        joined = family(found)
        if joined is not None:
            return joined
    return None


def common_field(fields: Sequence[pa.Field[Any]], *, may_be_missing: bool = False) -> pa.Field[Any] | None:
    """Return a field with the common type of `fields`, and the name and the metadata of the first.

    It is nullable if one of them is, or if rows may lack it. None if the types have nothing in common.
    """
    joined = common_type(field.type for field in fields)
    if joined is None:
        return None
    is_nullable = may_be_missing or any(field.nullable for field in fields)
    return fields[0].with_type(joined).with_nullable(is_nullable)


def widens_to(source: pa.DataType, target: pa.DataType) -> bool:
    """Whether `target` may be the common type of a column that one file has as `source`.

    How text, bytes and repeated values are encoded does not matter, nor the unit of a timestamp: an exact cast
    decides about each value.
    """
    source, target = _without_encoding(source), _without_encoding(target)
    for family in (_STRINGS, _BINARIES):
        if _all([source, target], family):
            return True
    joined = common_type([target, source])  # in this order, which is that of a struct's fields
    return joined is not None and (joined == target or pa.types.is_timestamp(joined))


def _without_encoding(arrow_type: Any) -> pa.DataType:
    if pa.types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    return arrow_type.storage_type if isinstance(arrow_type, pa.BaseExtensionType) else arrow_type


def _all(types: Sequence[pa.DataType], tests: Sequence[_Test]) -> bool:
    return all(any(test(each) for test in tests) for each in types)


def _common_dictionary(types: Sequence[Any]) -> pa.DataType | None:
    """A dictionary if all are, else the plain type of the values."""
    values = common_type(each.value_type if pa.types.is_dictionary(each) else each for each in types)
    if values is None or not all(pa.types.is_dictionary(each) for each in types):
        return values
    # Several dictionaries together may have more values than the indices of one of them can count.
    width = max(32, *(each.index_type.bit_width for each in types))
    index = pa.int64() if width > 32 else pa.int32()
    joined: pa.DataType = _make.dictionary(index, values, ordered=all(each.ordered for each in types))
    return joined


def _common_storage(types: Sequence[pa.DataType]) -> pa.DataType | None:
    """What an extension type and a plain one have in common is the plain values; two extension types nothing."""
    extensions = [each for each in types if isinstance(each, pa.BaseExtensionType)]
    if len(extensions) > 1:
        return None
    return common_type(each.storage_type if isinstance(each, pa.BaseExtensionType) else each for each in types)


def _common_number(types: Sequence[pa.DataType]) -> pa.DataType | None:
    integers = [each for each in types if pa.types.is_integer(each)]
    floats = [each for each in types if pa.types.is_floating(each)]
    decimals = [each for each in types if pa.types.is_decimal(each)]
    if len(integers) + len(floats) + len(decimals) < len(types) or (floats and decimals):
        return None
    if decimals:
        return _common_decimal(decimals, integers)
    if floats:
        needed = [32 if each.bit_width <= _MAX_BITS_IN_FLOAT32 else 64 for each in integers]
        return {16: pa.float16(), 32: pa.float32(), 64: pa.float64()}[max(*(f.bit_width for f in floats), *needed, 16)]
    return _common_integer(integers)


def _common_integer(types: Sequence[pa.DataType]) -> pa.DataType | None:
    signed = max((each.bit_width for each in types if pa.types.is_signed_integer(each)), default=0)
    unsigned = max((each.bit_width for each in types if pa.types.is_unsigned_integer(each)), default=0)
    if not signed:
        return {8: pa.uint8(), 16: pa.uint16(), 32: pa.uint32(), 64: pa.uint64()}[unsigned]
    width = max(signed, 2 * unsigned)
    return {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(width)


def _common_decimal(decimals: Sequence[Any], integers: Sequence[pa.DataType]) -> pa.DataType | None:
    scale = max(*(each.scale for each in decimals), 0 if integers else -1_000)
    whole = max(each.precision - each.scale for each in decimals)
    for each in integers:
        is_int64 = each.bit_width == 64 and pa.types.is_signed_integer(each)
        whole = max(whole, _INT64_DIGITS if is_int64 else _DIGITS[each.bit_width])
    precision = whole + scale
    if precision > 76:
        return None
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def _common_text(types: Sequence[pa.DataType]) -> pa.DataType | None:
    return pa.large_string() if _all(types, _STRINGS) else None


def _common_bytes(types: Sequence[pa.DataType]) -> pa.DataType | None:
    return pa.large_binary() if _all(types, _BINARIES) else None


def _common_date(types: Sequence[pa.DataType]) -> pa.DataType | None:
    # Parquet has days only, so a date64 in a file has whole days.
    return pa.date32() if _all(types, [pa.types.is_date]) else None


def _common_time(types: Sequence[Any]) -> pa.DataType | None:
    if not _all(types, [pa.types.is_time]):
        return None
    unit = _finest(types)
    return pa.time64(unit) if unit in ("us", "ns") else pa.time32(unit)


def _common_timestamp(types: Sequence[Any]) -> pa.DataType | None:
    if not _all(types, [pa.types.is_timestamp]):
        return None
    zones = {each.tz for each in types}
    if len(zones) > 1:
        zones = {"UTC" if zone in _UTC else zone for zone in zones}
    return pa.timestamp(_finest(types), zones.pop()) if len(zones) == 1 else None


def _common_duration(types: Sequence[Any]) -> pa.DataType | None:
    return pa.duration(_finest(types)) if _all(types, [pa.types.is_duration]) else None


def _finest(types: Sequence[Any]) -> Any:
    return max((each.unit for each in types), key=_UNITS.index)


def _common_list(types: Sequence[Any]) -> pa.DataType | None:
    if not _all(types, _LISTS):
        return None
    values = common_field([each.value_field for each in types])
    if values is None:
        return None
    sizes = {each.list_size if pa.types.is_fixed_size_list(each) else -1 for each in types}
    is_large = any(pa.types.is_large_list(each) for each in types)
    joined: pa.DataType = (
        _make.large_list(values) if is_large else _make.list_(values, max(sizes) if len(sizes) == 1 else -1)
    )
    return joined


def _common_map(types: Sequence[Any]) -> pa.DataType | None:
    if not _all(types, [pa.types.is_map]):
        return None
    keys, items = common_field([each.key_field for each in types]), common_field([each.item_field for each in types])
    if keys is None or items is None:
        return None
    joined: pa.DataType = _make.map_(keys, items, keys_sorted=all(each.keys_sorted for each in types))
    return joined


def _common_struct(types: Sequence[Any]) -> pa.DataType | None:
    if not _all(types, [pa.types.is_struct]):
        return None
    by_name: dict[str, list[pa.Field[Any]]] = {}
    for each in types:
        for field in each.fields:
            by_name.setdefault(field.name, []).append(field)
    if any(len({field.name for field in each.fields}) < each.num_fields for each in types):
        return None  # repeated names
    merged = [common_field(same, may_be_missing=len(same) < len(types)) for same in by_name.values()]
    fields = [field for field in merged if field is not None]
    return pa.struct(fields) if len(fields) == len(merged) else None


_FAMILIES = (
    *(_common_number, _common_text, _common_bytes, _common_date, _common_time, _common_timestamp),
    *(_common_duration, _common_list, _common_map, _common_struct),
)
