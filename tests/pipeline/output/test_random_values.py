"""A law: pyarrow and DuckDB read the same columns from the output as from the input, whatever their types are."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st

from tests.pipeline.passing_through import pass_through, read_input, read_output
from tests.pipeline.random_columns import tables
from tirazh.model.tokenizer import Tokenizer
from tirazh.pipeline.input.schemas.arrow_types import comparable, planned_type

ROWS = 6


@given(
    tables(ROWS),
    st.fixed_dictionaries(
        {
            "row_group_size": st.integers(1, ROWS),
            "use_dictionary": st.booleans(),
            "compression": st.sampled_from(["none", "zstd"]),
            "store_schema": st.booleans(),
            "data_page_version": st.sampled_from(["1.0", "2.0"]),
        }
    ),
    st.integers(1, ROWS),
)
# A file that fails is small already, and making it smaller takes minutes.
@settings(max_examples=40, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
def test_every_column_is_read_from_the_output_as_from_the_input(
    tokenizer: Tokenizer, table: pa.Table, options: dict[str, Any], part_rows: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "in.parquet")
        try:
            pq.write_table(table, path, **options)
            before = read_input(path)
        except pa.ArrowNotImplementedError:  # some slices of nested views, and some files that pyarrow cannot read back
            reject()
        files = pass_through(path, Path(folder, "out"), tokenizer, part_rows=part_rows)
        after = read_output(files)
        for field, name in zip(before.schema, table.column_names, strict=True):
            other = after.schema.field(name)
            assert other.type == planned_type(field.type)
            assert (other.nullable, other.metadata or {}) == (field.nullable, field.metadata or {})
            assert comparable(after.column(name)).equals(comparable(before.column(name)))
        assert (after.schema.metadata or {}).items() >= (before.schema.metadata or {}).items()
        for name in table.column_names:
            assert as_duckdb_reads(Path(folder, "out/*.parquet"), name) == as_duckdb_reads(path, name)


def as_duckdb_reads(path: Path, column: str) -> tuple[str, list[tuple[Any, ...]]] | str:
    """The type and the values of a column as DuckDB prints them; its error for a type that it cannot read."""
    with duckdb.connect() as connection:
        try:
            rows = connection.sql(f"SELECT {column}::VARCHAR FROM '{path}'").fetchall()
            (described,) = connection.sql(f"DESCRIBE SELECT {column} FROM '{path}'").fetchall()
        except duckdb.Error as error:
            return type(error).__name__
        return described[1], rows
