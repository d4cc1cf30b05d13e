"""The result of deduplication: which rows are dropped, why, and for which row."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.pipeline.quality.dedup.groups import Positions

Reason = Literal["duplicate", "near_duplicate", "duplicate_of_earlier"]
# A row's reason is stored as its index here.
REASONS: tuple[Reason, ...] = ("duplicate", "near_duplicate", "duplicate_of_earlier")
DUPLICATE, NEAR_DUPLICATE, DUPLICATE_OF_EARLIER = range(3)
_SCHEMA = pa.schema(
    [
        pa.field("part", pa.int32(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("reason", pa.int8(), nullable=False),
        pa.field("survivor_part", pa.int32(), nullable=False),
        pa.field("survivor_row", pa.int64(), nullable=False),
        pa.field("earlier", pa.int32(), nullable=False),
    ]
)
_EARLIER_KEY = b"tirazh.earlier"


@dataclass(frozen=True, slots=True, eq=False)
class DroppedRows:
    """The dropped rows of one part, all arrays [dropped rows].

    `rows` (int64, ascending) are row numbers in the part. `reasons` (int8) are indices in `REASONS`. The survivor is
    row `survivor_rows` (int64) of part `survivor_parts` (int32), of this job where `earlier` (int32) is -1, else of
    the output `Duplicates.earlier[earlier]`.
    """

    rows: Positions
    reasons: npt.NDArray[np.int8]
    survivor_parts: npt.NDArray[np.int32]
    survivor_rows: Positions
    earlier: npt.NDArray[np.int32]

    @property
    def names(self) -> list[Reason]:
        """The reason of every dropped row, in words."""
        return [REASONS[reason] for reason in self.reasons]


@dataclass(frozen=True, slots=True, eq=False)
class Duplicates:
    """The dropped rows of every part that has any, by part index, and the directories of earlier outputs."""

    parts: Mapping[int, DroppedRows]
    earlier: tuple[str, ...] = field(default=())

    def of(self, part: int) -> DroppedRows:
        """The dropped rows of a part; empty arrays if it has none."""
        found = self.parts.get(part)
        return _slice(_SCHEMA.empty_table()) if found is None else found

    def count(self, reason: Reason | None = None) -> int:
        """The number of dropped rows, of one reason or in all."""
        if reason is None:
            return sum(len(each.rows) for each in self.parts.values())
        return sum(int((each.reasons == REASONS.index(reason)).sum()) for each in self.parts.values())

    def to_bytes(self) -> bytes:
        """Serialise as Parquet. Equal results give equal bytes."""
        tables = [_table(part, self.parts[part]) for part in sorted(self.parts)]
        table = pa.concat_tables(tables) if tables else _SCHEMA.empty_table()
        names = "\0".join(self.earlier).encode()
        sink = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({_EARLIER_KEY: names}), sink, compression="zstd")
        return sink.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Duplicates:
        """The inverse of `to_bytes`. Raises ValueError for other bytes."""
        try:
            table = pq.read_table(pa.BufferReader(data))
            names = (table.schema.metadata or {})[_EARLIER_KEY].decode()
            return from_table(table.cast(_SCHEMA), tuple(names.split("\0")) if names else ())
        except (pa.ArrowException, OSError, KeyError) as error:
            raise ValueError(f"it is not a list of duplicates ({type(error).__name__})") from error


def from_table(table: pa.Table, earlier: tuple[str, ...]) -> Duplicates:
    """The duplicates in a table of one row each, ordered by part and row."""
    parts = table.column("part").to_numpy()
    starts = np.flatnonzero(np.diff(parts, prepend=-1))
    stops = np.append(starts, len(parts))[1:]
    return Duplicates(
        {
            int(parts[start]): _slice(table.slice(start, stop - start))
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        },
        earlier,
    )


def make_table(parts: Positions, rows: Positions, reasons: Positions, survivors: tuple[Positions, ...]) -> pa.Table:
    """The table that `from_table` reads; `survivors` are their parts, rows and earlier outputs."""
    values = zip((parts, rows, reasons, *survivors), _SCHEMA, strict=True)
    columns: list[Any] = [pa.array(each).cast(kind.type) for each, kind in values]
    return pa.Table.from_arrays(columns, schema=_SCHEMA)


def _table(part: int, dropped: DroppedRows) -> pa.Table:
    survivors = (dropped.survivor_parts, dropped.survivor_rows, dropped.earlier)
    return make_table(np.full(len(dropped.rows), part), dropped.rows, dropped.reasons, survivors)  # type: ignore[arg-type]


def _slice(table: pa.Table) -> DroppedRows:
    return DroppedRows(*(table.column(name).to_numpy() for name in _SCHEMA.names[1:]))
