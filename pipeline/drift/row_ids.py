"""Finds the rows of two outputs that are the same row of the input, and those whose label changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from tirazh.errors import RequestError, did_you_mean
from tirazh.pipeline.gold.finished import FinishedOutput
from tirazh.pipeline.prompts.template import PromptTemplate
from tirazh.pipeline.storage.errors import show_uri

_ID, _ROW, _LABEL = "id", "row", "label"


def identity_columns(found: FinishedOutput, settings: Mapping[str, Any], key: str | None) -> tuple[str, ...]:
    """The columns by which a row of an output is found in another one.

    It is the column `key` or the `key` of the job, else those that the job's prompts are made from. Raises
    RequestError for a `key` that is no column.
    """
    names = found.columns.names
    if key is not None and found.parts and key not in names:
        hint = did_you_mean(key, names) or f"; its columns are {', '.join(names)}"
        raise RequestError(f"--key: {show_uri(found.files.directory)} has no column {key!r}{hint}")
    chosen = key or settings.get("key")
    if chosen in names:
        return (str(chosen),)
    wanted = [settings.get("text_column"), settings.get("prompt_column"), *_template_columns(settings)]
    return tuple(dict.fromkeys(name for name in wanted if name in names))


def ids_of(table: pa.Table) -> NDArray[np.uint64]:
    """A 64-bit hash of the values of each row, uint64 [N]; 0 for a row of nulls.

    Numbers are hashed as texts, so that a column may be int32 in one output and int64 in another. The hashes are
    those of the installed version of polars, and are never stored.
    """
    if not table.num_columns or not table.num_rows:
        return np.zeros(table.num_rows, np.uint64)
    columns = [_as_text(table.column(index)) for index in range(table.num_columns)]
    frame = pl.DataFrame({str(index): pl.from_arrow(column) for index, column in enumerate(columns)})
    hashes = frame.hash_rows(seed=0).to_numpy().astype(np.uint64)
    is_empty = frame.select(pl.all_horizontal(pl.all().is_null())).to_series().to_numpy()
    ids: NDArray[np.uint64] = np.where(is_empty, np.uint64(0), np.maximum(hashes, np.uint64(1)))
    return ids


def shared_rows(ids: NDArray[np.uint64], others: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The places in both arrays of the ids that are in both, each once, in the order of the first, int64 [M]."""
    frames = [
        pl.DataFrame({_ID: each}).with_row_index(_ROW).filter(pl.col(_ID) > 0).unique(_ID, keep="first")
        for each in (ids, others)
    ]
    joined = frames[0].join(frames[1], on=_ID, how="inner").sort(_ROW)
    return joined[_ROW].to_numpy().astype(np.int64), joined[f"{_ROW}_right"].to_numpy().astype(np.int64)


def transitions(before: NDArray[np.int32], after: NDArray[np.int32], most: int) -> list[tuple[int, int, int]]:
    """The most frequent (label before, label after, rows) of rows whose label changed."""
    changed = before != after
    frame = pl.DataFrame({"before": before[changed], "after": after[changed]})
    counted = frame.group_by("before", "after").len().sort(["len", "before", "after"], descending=[True, False, False])
    return [(int(first), int(second), int(rows)) for first, second, rows in counted.head(most).rows()]


def read_rows(found: FinishedOutput, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Read some rows, by their rising numbers in the whole output, of some columns."""
    values, start = [], 0
    for part, (_, count) in enumerate(found.parts):
        wanted = [row - start for row in rows if start <= row < start + count]
        start += count
        if not wanted:
            continue
        seen = 0
        for table in found.tables(part, columns, batch_rows=1 << 14):
            here: Any = [row - seen for row in wanted if seen <= row < seen + table.num_rows]
            values += table.take(here).to_pylist() if here else []
            seen += table.num_rows
    return values


def _template_columns(settings: Mapping[str, Any]) -> tuple[str, ...]:
    if not settings.get("template"):
        return ()
    try:
        return PromptTemplate(str(settings["template"])).variables
    except RequestError:  # a template of a later version
        return ()


def _as_text(column: pa.ChunkedArray[Any]) -> Any:
    try:
        return column.cast(pa.large_string()).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.array([None if value is None else repr(value) for value in column.to_pylist()], pa.large_string())
