"""Unifies the schemas of the input files, as `union_by_name` of DuckDB and `mergeSchema` of Spark do.

Files without rows count for nothing. Columns are matched by name and keep the order of the first file; a
column that some files lack is null there. Types become the one that keeps every value (`common_type.py`).
Directories `key=value` are columns behind those of the files (`hive.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from tirazh.errors import InputError
from tirazh.pipeline.input.footers import Footer
from tirazh.pipeline.input.ranges import RangeReader, fits, may_overflow
from tirazh.pipeline.input.schemas.common_type import common_field, common_type, widens_to
from tirazh.pipeline.input.schemas.hive import constant_column, partition_names, partition_type
from tirazh.pipeline.storage.errors import show_uri

_ORDER = "that of the first file is kept"
_SHOWN = 5
_TYPE_CHARACTERS = 120


@dataclass(frozen=True, slots=True)
class UnifiedColumns:
    """The columns of the whole input, and sentences about what was unified; none if all files agree."""

    schema: pa.Schema
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Group:
    """Files of one schema."""

    schema: pa.Schema
    footers: tuple[Footer, ...]

    @property
    def first(self) -> str:
        """The URI of the first file, as it is shown."""
        return show_uri(self.footers[0].file.uri)


def unify(footers: Sequence[Footer], read_ranges: RangeReader | None = None) -> UnifiedColumns:
    """Return the columns that hold the rows of all files.

    `read_ranges` finds values that a widened type does not hold; without it they are found when they are read.
    Raises InputError, naming file and column, for types that have nothing in common, and for a column that
    occurs twice in a file.
    """
    with_rows = [footer for footer in footers if footer.rows] or footers[:1]
    groups = _group(with_rows)
    merged = groups[0].schema if len(groups) == 1 else _merge(groups, read_ranges)
    partitions, partition_lines = _partition_columns(with_rows, merged)
    lines = [*_describe(groups, merged), *partition_lines]
    schema = pa.schema([*merged, *partitions], metadata=_shared_metadata(with_rows, is_one=len(groups) == 1))
    return UnifiedColumns(schema, tuple(lines))


def difference_from(footer: Footer, columns: pa.Schema) -> str | None:
    """A clause that says why the rows of a file do not go into `columns`; None if they do, as they are."""
    names = footer.schema.names
    for field in footer.schema:
        if field.name not in columns.names:
            return f"column {field.name!r} is new"
        known = columns.field(field.name)
        if not widens_to(field.type, known.type):
            return f"column {field.name!r} is {_short(field.type)}, not {_short(known.type)}"
        if field.nullable and not known.nullable:
            return f"column {field.name!r} may be null"
    missing = next((field.name for field in columns if field.name not in names and not field.nullable), None)
    return f"column {missing!r} is missing" if missing is not None else None


def count_directory_text(footers: Sequence[Footer], columns: pa.Schema, text_columns: Iterable[str]) -> list[Footer]:
    """Add the bytes of the values of directories to the row groups, so that estimates include them.

    `text_columns` are the columns in the prompt.
    """
    texts = frozenset(text_columns)

    def add(footer: Footer) -> Footer:
        sizes = {
            name: len((value or "").encode(errors="replace"))
            for name, value in footer.file.partition
            if name in columns.names and name not in footer.schema.names
        }
        text = sum(size for name, size in sizes.items() if name in texts)
        groups = (
            replace(
                group,
                text_bytes=group.text_bytes + group.rows * text,
                all_bytes=group.all_bytes + group.rows * sum(sizes.values()),
            )
            for group in footer.row_groups
        )
        return replace(footer, row_groups=tuple(groups)) if sizes else footer

    return [add(footer) for footer in footers]


def _group(footers: Sequence[Footer]) -> list[_Group]:
    """The different schemas, in the order of their first files."""
    groups: dict[Any, list[Footer]] = {}
    last: Any = None
    for footer in footers:
        # Comparing is cheaper than hashing, and most files have the schema of the file before.
        if last is None or not footer.schema.equals(groups[last][0].schema):
            last = tuple((field.name, field.type, field.nullable) for field in footer.schema)
        groups.setdefault(last, []).append(footer)
    return [_Group(files[0].schema, tuple(files)) for files in groups.values()]


def _merge(groups: Sequence[_Group], read_ranges: RangeReader | None) -> pa.Schema:
    by_name: dict[str, list[tuple[pa.Field[Any], _Group]]] = {}
    for group in groups:
        if len(set(group.schema.names)) < len(group.schema):
            name = next(name for name in group.schema.names if group.schema.names.count(name) > 1)
            raise InputError(f"{group.first} has several columns {name!r}; rename all but one")
        for field in group.schema:
            by_name.setdefault(field.name, []).append((field, group))
    merged = []
    for found in by_name.values():
        joined = common_field([field for field, _ in found], may_be_missing=len(found) < len(groups))
        if joined is None:
            raise _conflict(found)
        merged.append(_checked(joined, found, read_ranges) if read_ranges is not None else joined)
    return pa.schema(merged)


def _conflict(found: Sequence[tuple[pa.Field[Any], _Group]]) -> InputError:
    """The error about the first file whose type of a column does not go with those before it."""
    types = [field.type for field, _ in found]
    last = next(end for end in range(1, len(types)) if common_type(types[: end + 1]) is None)
    other = next((index for index in range(last) if common_type([types[index], types[last]]) is None), 0)
    name = found[0][0].name
    return InputError(
        f"{found[last][1].first} has column {name!r} as {_short(types[last])}, and {found[other][1].first} has it as "
        f"{_short(types[other])}: no type keeps the values of both; write the column with one type, or select files "
        "that agree with a pattern"
    )


def _checked(
    joined: pa.Field[Any], found: Sequence[tuple[pa.Field[Any], _Group]], read_ranges: RangeReader
) -> pa.Field[Any]:
    """The field, or one with microseconds for a timestamp that nanoseconds cannot hold.

    Raises InputError for integers that the common type, a float, does not hold exactly.
    """
    for field, group in found:
        if not may_overflow(field.type, joined.type):
            continue
        for footer, bounds in zip(group.footers, read_ranges(group.footers, field.name), strict=True):
            if bounds is None or fits(bounds, field.type, joined.type):
                continue
            if pa.types.is_timestamp(joined.type):
                return joined.with_type(pa.timestamp("us", joined.type.tz))
            raise InputError(
                f"{show_uri(footer.file.uri)} has column {field.name!r} as {field.type} with values up to "
                f"{max(bounds, key=abs)}, which {joined.type}, its type in other files, does not hold exactly; write "
                "the column with one type"
            )
    return joined


def _partition_columns(footers: Sequence[Footer], merged: pa.Schema) -> tuple[list[pa.Field[Any]], list[str]]:
    """The columns that only directories have, and sentences about all columns of directories."""
    partitions = [footer.file.partition for footer in footers]
    fields, also_in_files = [], []
    for name in partition_names(partitions):
        if name in merged.names:
            also_in_files.append(name)
            _check_directory_values(footers, merged.field(name))
            continue
        values = [dict(partition).get(name) for partition in dict.fromkeys(partitions)]
        fields.append(pa.field(name, partition_type(values)))
    lines = []
    if fields:
        names = ", ".join(f"{field.name!r} ({field.type})" for field in fields)
        missing = sum(any(field.name not in dict(partition) for field in fields) for partition in partitions)
        where = f"; null for {_files(missing)} outside such directories" if missing else ""
        lines.append(f"columns from the names of directories: {names}{where}")
    for name in also_in_files:
        lines.append(f"column {name!r} is in the files and in names of directories: the values in the files are kept")
    return fields, lines


def _check_directory_values(footers: Sequence[Footer], field: pa.Field[Any]) -> None:
    """Raise InputError if a file lacks the column and its directory's value does not have the column's type."""
    for footer in footers:
        partition = dict(footer.file.partition)
        if field.name not in partition or field.name in footer.schema.names:
            continue
        try:
            constant_column(partition[field.name], 1, field.type)
        except pa.ArrowException as error:
            raise InputError(
                f"{show_uri(footer.file.uri)} does not have column {field.name!r}, which is {_short(field.type)} in "
                f"other files, and the value {partition[field.name]!r} of its directory is not; rename the directory"
            ) from error


def _shared_metadata(footers: Sequence[Footer], *, is_one: bool) -> dict[Any, Any] | None:
    """The metadata of the unified schema: that of the first file, or what all share if their columns differ.

    pandas and Spark describe the columns of a file in its metadata; of other columns that would be wrong.
    """
    first = footers[0].schema.metadata or {}
    if is_one:
        return dict(first) or None
    others = [footer.schema.metadata or {} for footer in footers[1:]]
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)} or None


def _describe(groups: Sequence[_Group], merged: pa.Schema) -> list[str]:
    """One sentence about the columns that differ between files, or nothing."""
    if len(groups) == 1:
        return []
    changes = [change for field in merged if (change := _change(field, groups)) is not None]
    if not changes:
        is_reordered = any(group.schema.names != merged.names for group in groups)
        return [f"the input files have their columns in different orders: {_ORDER}"] if is_reordered else []
    more = f"; and {len(changes) - _SHOWN:,} more columns" if len(changes) > _SHOWN else ""
    return [f"the columns of the input files differ and were unified: {'; '.join(changes[:_SHOWN])}{more}"]


def _change(field: pa.Field[Any], groups: Sequence[_Group]) -> str | None:
    counts: dict[str, int] = {}
    for group in groups:
        if field.name not in group.schema.names:
            kind = "missing"
        elif group.schema.field(field.name).type == field.type:
            continue
        else:
            kind = _short(group.schema.field(field.name).type)
        counts[kind] = counts.get(kind, 0) + len(group.footers)
    if not counts:
        return None
    found = ", ".join(f"{kind} in {_files(count)}" for kind, count in counts.items())
    return f"{field.name!r} is {_short(field.type)} ({found})"


def _short(arrow_type: pa.DataType) -> str:
    text = str(arrow_type)
    return text if len(text) <= _TYPE_CHARACTERS else f"{text[:_TYPE_CHARACTERS]}…"


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"
