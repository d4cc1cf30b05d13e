"""Random schemas: a job is refused in one sentence, or every column of the input is in the output unchanged.

Input and output are read with pyarrow and with DuckDB, and every column is compared as each of them reads it. The
job runs in this process with the real stages of reading, writing and verifying; only the model is left out.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fuzz.ending import attempt
from tests.fuzz.random_tables import random_table, random_writer
from tests.pipeline.without_ray import run_without_ray
from tirazh.pipeline.build import run_job
from tirazh.pipeline.input.schemas.arrow_types import READ_OPTIONS, comparable, planned_type
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.spec import JobSpec

FEW, MANY = range(60), range(1_000, 1_000 + int(os.environ.get("TIRAZH_FUZZ_SCHEMAS", "600")))


def write_random_file(seed: int, path: Path) -> bytes:
    """Write the table of `seed`. Returns its bytes; empty if pyarrow cannot write it."""
    stream = io.BytesIO()
    try:
        pq.write_table(random_table(seed), stream, **random_writer(seed))
    except (pa.ArrowException, OverflowError):
        return b""
    path.write_bytes(stream.getvalue())
    return stream.getvalue()


def check_unchanged(source: Path, output: Path) -> None:
    """Assert that the columns of `source` are in the part files of `output`, as pyarrow and DuckDB read them."""
    (part,) = output.glob("part-*.parquet")
    # INT96 is read as microseconds, and indices of dictionaries are widened (docs/output.md).
    before, after = pq.read_table(source, **READ_OPTIONS), pq.read_table(part)
    assert after.column_names[: before.num_columns] == before.column_names
    for index, field in enumerate(before.schema):
        kept = after.schema.field(index)
        assert kept.type == planned_type(field.type), f"column {field.name!r}: {field.type} has become {kept.type}"
        assert _same(before.column(index), after.column(index)), f"column {field.name!r} ({field.type}) has changed"
    _check_with_duckdb(source, part, before.column_names)


def _same(before: pa.ChunkedArray, after: pa.ChunkedArray) -> bool:
    """Whether both hold the same values; NaN is the same as NaN."""
    if before.type != after.type:
        before, after = comparable(before), comparable(after)
    return before.equals(after) or _ipc(before) == _ipc(after)


def _ipc(column: pa.ChunkedArray) -> bytes:
    # Through Parquet, so that what stands in the place of nulls is the same.
    stream = io.BytesIO()
    pq.write_table(pa.table({"x": column.combine_chunks()}), stream, compression="none", use_dictionary=False)
    return stream.getvalue()


def _check_with_duckdb(source: Path, part: Path, names: list[str]) -> None:
    duckdb = pytest.importorskip("duckdb")
    connection = duckdb.connect()
    for index, name in enumerate(names):
        try:
            before, kind = _column(connection, source, index)
        except (duckdb.Error, UnicodeDecodeError):  # DuckDB does not read every type
            continue
        after, kept = _column(connection, part, index)
        assert kept == kind, f"column {name!r}: {kind} has become {kept} for DuckDB"
        assert after == before, f"column {name!r} ({kind}) has changed for DuckDB"


def _column(connection: object, path: Path, index: int) -> tuple[list[str | None], str]:
    """The values of a column as DuckDB prints them, in the order of the file, and its type."""
    relation = connection.sql(f"SELECT * FROM read_parquet('{path}', file_row_number=true) ORDER BY file_row_number")
    kind, name = str(relation.types[index]), '"' + relation.columns[index].replace('"', '""') + '"'
    return [row[0] for row in relation.project(f"CAST({name} AS VARCHAR)").fetchall()], kind


def run_and_check(seed: int, job: Callable[..., JobSpec], tmp_path: Path) -> str:
    """Run a job over the table of `seed`, and check its ending. Returns the sentence of a refusal."""
    source = tmp_path / "in" / "a.parquet"
    content = write_random_file(seed, source)
    if not content:
        return ""
    spec = job(labels="sport,economics", max_error_rate=1.0, dtype="float32")
    sentence = attempt("random schemas", content, lambda: run_job(spec))
    if sentence:
        assert "column" in sentence or "a.parquet" in sentence, sentence
        return sentence
    check_unchanged(source, tmp_path / "out")
    assert verify(str(tmp_path / "out")).problems == ()
    return ""


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray must not start by itself, as it does for a call of its functions that is not replaced here."""
    run_without_ray(monkeypatch)
    monkeypatch.setattr("ray.init", lambda *given, **named: pytest.fail("a test has started Ray"))


@pytest.mark.parametrize("seed", FEW)
def test_a_random_table_is_refused_or_passes_through_unchanged(
    seed: int, job: Callable[..., JobSpec], tmp_path: Path
) -> None:
    run_and_check(seed, job, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", MANY)
def test_more_random_tables_are_refused_or_pass_through_unchanged(
    seed: int, job: Callable[..., JobSpec], tmp_path: Path
) -> None:
    run_and_check(seed, job, tmp_path)
