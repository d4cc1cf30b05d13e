"""Reads a file of gold labels, and finds those of rows by their key."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tirazh.errors import InputError, did_you_mean
from tirazh.pipeline.input.listing.conversions import is_text_file
from tirazh.pipeline.input.listing.without_parquet import PARQUET_MAGIC
from tirazh.pipeline.input.schemas.arrow_types import READ_OPTIONS, is_text
from tirazh.pipeline.input.text_files.tables import parse_table
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, full_uri

_KEY, _GOLD, _ROW = "key", "gold", "row"


@dataclass(frozen=True, slots=True)
class GoldFile:
    """A file with a key and a gold label in each row. `keys` and `labels` are two columns of equal length."""

    uri: str
    key: str
    keys: pa.ChunkedArray[Any]
    labels: pa.ChunkedArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldMatch:
    """The gold label of each row, null without one, and counts of what did not match.

    `repeated_gold_keys` are rows of the gold file with the key and the label of an earlier one;
    `gold_keys_without_row` those whose key no row has; `repeated_row_keys` rows with the key of an earlier row.
    """

    labels: pa.ChunkedArray[Any]
    repeated_gold_keys: int = 0
    gold_keys_without_row: int = 0
    repeated_row_keys: int = 0


def read_gold_file(uri: str, storage: Storage, *, key: str, label: str) -> GoldFile:
    """Read the columns `key` and `label` of a Parquet, CSV, TSV or JSONL file; labels that are empty are null.

    Raises InputError for a file that cannot be read, and for columns that it does not have.
    """
    uri = full_uri(uri)
    table = _read(uri, storage, [key, label])
    for name, flag in ((key, "--key"), (label, "--gold-label")):
        if name not in table.column_names:
            hint = did_you_mean(name, table.column_names) or f"; its columns are {', '.join(table.column_names)}"
            raise InputError(f"{flag}: {show_uri(uri)} has no column {name!r}{hint}")
    return GoldFile(uri, key, table.column(key), text_column(table.column(label), f"{show_uri(uri)} column {label!r}"))


def match(gold: GoldFile, keys: pa.ChunkedArray[Any]) -> GoldMatch:
    """Find the gold label of each row by its key. Rows and labels without a key match nothing.

    Keys of integers of any width are compared by their value, and with texts as texts. Raises InputError for keys of
    other types that differ, and for a key with two different labels, which it names.
    """
    of_rows, of_gold = _comparable(keys, gold)
    frame = pl.DataFrame({_KEY: pl.from_arrow(of_gold), _GOLD: pl.from_arrow(gold.labels)}).drop_nulls()
    known = frame.unique(subset=[_KEY], keep="first")
    _refuse_contradictions(frame, gold)
    rows = pl.DataFrame({_KEY: pl.from_arrow(of_rows)})
    joined = rows.join(known, on=_KEY, how="left", maintain_order="left")
    present = rows.get_column(_KEY).drop_nulls()
    return GoldMatch(
        labels=_chunked(joined.get_column(_GOLD)),
        repeated_gold_keys=len(frame) - len(known),
        gold_keys_without_row=len(known.join(rows.unique(), on=_KEY, how="anti")),
        repeated_row_keys=len(present) - present.n_unique(),
    )


def positions(of_keys: pa.ChunkedArray[Any], in_keys: pa.ChunkedArray[Any], key: str) -> NDArray[np.int64]:
    """For each of `of_keys` the index of the row with this key in another output, -1 without one, int64 [N].

    Raises InputError for types that cannot be compared, and for a key that several rows have.
    """
    left, right = _comparable(of_keys, GoldFile("the other output", key, in_keys, in_keys))
    frames = [pl.DataFrame({_KEY: pl.from_arrow(each)}).with_row_index(_ROW) for each in (left, right)]
    for frame, which in zip(frames, ("the output", "the other output"), strict=True):
        repeated = frame.drop_nulls().filter(pl.col(_KEY).is_duplicated())
        if len(repeated):
            raise InputError(
                f"--key {key}: several rows of {which} have the key {repeated.get_column(_KEY)[0]!r}, so the rows "
                "cannot be compared by it"
            )
    joined = frames[0].join(frames[1], on=_KEY, how="left", maintain_order="left")
    found = joined.get_column(f"{_ROW}_right").cast(pl.Int64).fill_null(-1)
    return found.to_numpy()


def text_column(column: pa.ChunkedArray[Any], name: str) -> pa.ChunkedArray[Any]:
    """A column of gold labels as texts, empty ones as null. Raises InputError, with `name`, for other types."""
    kind = column.type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (_is_name(value) or pa.types.is_boolean(value) or pa.types.is_null(value)):
        raise InputError(f"{name} is of type {kind}; gold labels must be texts")
    texts = pl.from_arrow(column.cast(value).cast(pa.large_string()))
    assert isinstance(texts, pl.Series)
    return _chunked(texts.set(texts == "", None))


def _read(uri: str, storage: Storage, names: list[str]) -> pa.Table:
    if is_text_file(uri):
        data = storage.read(uri)
        return parse_table(data, uri) if not data.startswith(PARQUET_MAGIC) else _parquet(io.BytesIO(data), uri, names)
    with storage.open(uri) as file:
        return _parquet(file, uri, names)


def _parquet(file: Any, uri: str, names: list[str]) -> pa.Table:
    try:
        parquet = pq.ParquetFile(file, **READ_OPTIONS)
        known = [name for name in dict.fromkeys(names) if name in parquet.schema_arrow.names]
        # With all columns of an empty table a missing one is named beside those that exist.
        return parquet.read(columns=known) if len(known) == len(set(names)) else parquet.schema_arrow.empty_table()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{show_uri(uri)} is no Parquet, CSV or JSONL file that can be read: {error}") from error


def _refuse_contradictions(frame: pl.DataFrame, gold: GoldFile) -> None:
    different = frame.group_by(_KEY).agg(pl.col(_GOLD).unique()).filter(pl.col(_GOLD).list.len() > 1).sort(_KEY)
    if len(different):
        key, labels = different.row(0)
        named = " and ".join(map(repr, sorted(labels)[:2]))
        raise InputError(
            f"{show_uri(gold.uri)} has {len(different):,} keys with different gold labels, such as {gold.key} {key!r} "
            f"with {named}; keep one label for each key"
        )


def _comparable(keys: pa.ChunkedArray[Any], gold: GoldFile) -> tuple[pa.ChunkedArray[Any], pa.ChunkedArray[Any]]:
    """Both columns of keys with one type."""
    columns = [
        each.cast(each.type.value_type) if pa.types.is_dictionary(each.type) else each for each in (keys, gold.keys)
    ]
    kinds = [each.type for each in columns]
    if all(map(pa.types.is_integer, kinds)):
        try:
            return columns[0].cast(pa.int64()), columns[1].cast(pa.int64())
        except pa.ArrowInvalid:  # above 2**63 - 1
            return columns[0].cast(pa.large_string()), columns[1].cast(pa.large_string())
    if all(map(_is_name, kinds)):
        return columns[0].cast(pa.large_string()), columns[1].cast(pa.large_string())
    if kinds[0] == kinds[1] and not pa.types.is_floating(kinds[0]) and not pa.types.is_nested(kinds[0]):
        return columns[0], columns[1]
    raise InputError(
        f"--key {gold.key}: the keys are of type {kinds[0]} in the output and {kinds[1]} in {show_uri(gold.uri)}; "
        "use a column of integers or texts"
    )


def _chunked(series: pl.Series) -> pa.ChunkedArray[Any]:
    return pa.chunked_array([series.to_arrow()])


def _is_name(kind: pa.DataType) -> bool:
    """Whether a column of this type can name rows or labels."""
    return pa.types.is_integer(kind) or is_text(kind)
