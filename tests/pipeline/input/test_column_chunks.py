"""Footers on which pyarrow would end the process are refused, and no others."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tirazh.pipeline.input.column_chunks import check_column_chunks


def parquet(table: pa.Table, **options: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, **options)
    return stream.getvalue()


def check(data: bytes) -> None:
    check_column_chunks(pq.read_metadata(pa.BufferReader(data)), data)


def with_a_false_histogram() -> bytes:
    """A file whose schema says that the column has no nulls, while its chunk counts levels as if it had."""
    table = pa.table({"text": pa.array(["a", None, "c"])})
    good = parquet(table, compression="none", use_dictionary=False)
    # SchemaElement of the column: type BYTE_ARRAY (15 0c), then the repetition type OPTIONAL (25 02), which becomes
    # REQUIRED (25 00): the definition levels then have one value and not two.
    at = good.rindex(b"\x25\x02\x18\x04text")
    return good[:at] + b"\x25\x00" + good[at + 2 :]


def test_a_chunk_that_contradicts_the_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="histogram size mismatch"):
        check(with_a_false_histogram())


TABLES: dict[str, Callable[[], bytes]] = {
    "no rows": lambda: parquet(pa.table({"a": pa.array([], pa.string()), "b": pa.array([], pa.list_(pa.int8()))})),
    "no columns": lambda: parquet(pa.table({})),
    "nulls": lambda: parquet(pa.table({"a": pa.nulls(3), "b": pa.nulls(3, pa.string())})),
    "nested": lambda: parquet(pa.table({"a": [[{"x": 1, "y": ["a"]}], None], "b": [{"c": None}, {"c": 1.5}]})),
    "many row groups": lambda: parquet(pa.table({"a": list(range(50))}), row_group_size=7),
    "no statistics": lambda: parquet(pa.table({"a": ["x"]}), write_statistics=False),
    "version 1": lambda: parquet(pa.table({"a": [True]}), version="1.0"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_file_that_is_not_damaged_passes_without_a_child_process(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", lambda *given, **named: pytest.fail("a child process was started"))
    check(TABLES[name]())
