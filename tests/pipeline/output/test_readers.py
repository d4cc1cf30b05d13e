"""The tool that wrote an input reads its columns from the output, with the types that it knows."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.pipeline.passing_through import pass_through, read_output
from tirazh.model.tokenizer import Tokenizer

DUCKDB_VALUES = {
    "UUID": "uuid()",
    "JSON": "'{\"a\": 1}'::JSON",
    "INTERVAL": "INTERVAL 3 DAY",
    "TIME WITH TIME ZONE": "'12:00:00+03'::TIMETZ",
    "TIMESTAMP_NS": "TIMESTAMP_NS '2020-01-01 00:00:00.000000001'",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ '2020-01-01 00:00:00+00'",
    "DATE": "'infinity'::DATE",
    "TIMESTAMP": "'-infinity'::TIMESTAMP",
    "DECIMAL(4,1)": "2.5::DECIMAL(4,1)",
    "UTINYINT": "7::UTINYINT",
    "UUID[]": "[uuid(), NULL]",
    "STRUCT(u UUID, j JSON, i INTERVAL)": "{'u': uuid(), 'j': '1'::JSON, 'i': INTERVAL 1 MONTH}",
    "MAP(UUID, INTERVAL)": "map {uuid(): INTERVAL 2 HOUR}",
}


@pytest.mark.parametrize("kind", DUCKDB_VALUES)
def test_duckdb_describes_its_columns_as_before(kind: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "in.parquet"
    duckdb.sql(f"COPY (SELECT {DUCKDB_VALUES[kind]} AS c, 'x' AS text FROM range(4)) TO '{path}' (FORMAT parquet)")
    pass_through(path, tmp_path / "out", tokenizer, part_rows=3)
    before, after = (
        (
            duckdb.sql(f"DESCRIBE SELECT c FROM '{name}'").fetchall()[0][1],
            duckdb.sql(f"SELECT c::VARCHAR FROM '{name}'").fetchall(),
        )
        for name in (path, tmp_path / "out/*.parquet")
    )
    assert before[0] == kind
    assert after == before


def test_polars_gets_its_own_types_back(tmp_path: Path, tokenizer: Tokenizer) -> None:
    frame = pl.DataFrame(
        {
            "enum": pl.Series(["a", "b", None], dtype=pl.Enum(["b", "a"])),
            "category": pl.Series(["a", "b", None], dtype=pl.Categorical),
            "duration": [timedelta(days=1), None, timedelta(microseconds=1)],
            "array": pl.Series([[1, 2], None, [3, 4]], dtype=pl.Array(pl.Int8, 2)),
            "decimal": pl.Series(["1.5", None, "2.5"]).cast(pl.Decimal(10, 2)),
            "time": pl.Series([datetime(2026, 11, 24)] * 3, dtype=pl.Datetime("ns", "Europe/Moscow")),
            "nothing": [None] * 3,
        }
    ).with_columns(struct=pl.struct("enum", "category"), list=pl.concat_list("enum"))
    frame.write_parquet(tmp_path / "in.parquet")
    pass_through(tmp_path / "in.parquet", tmp_path / "out", tokenizer)
    after = pl.read_parquet(tmp_path / "out/*.parquet").select(frame.columns)
    assert after.schema == frame.schema
    assert after.equals(frame)


def test_pandas_gets_its_index_and_its_own_types_back(tmp_path: Path, tokenizer: Tokenizer) -> None:
    frame = pd.DataFrame(
        {
            "category": pd.Categorical(["a", "b", "a"], ordered=True),
            "integer": pd.array([1, None, 2], "Int64"),
            "delta": pd.to_timedelta([1, 2, 3], unit="s"),
            "period": pd.period_range("2020-01", "2020-03", freq="M"),
            "interval": pd.interval_range(0, 3),
            "time": pd.date_range("2020-01-01", periods=3, tz="Europe/Moscow"),
        },
        index=pd.Index(["x", "y", "z"], name="key"),
    )
    frame.to_parquet(tmp_path / "in.parquet")
    pass_through(tmp_path / "in.parquet", tmp_path / "out", tokenizer)
    after = pd.read_parquet(tmp_path / "out")
    assert after[list(frame.columns)].equals(frame)
    assert after.index.equals(frame.index)


def test_a_range_index_of_pandas_counts_the_rows_of_a_part(tmp_path: Path, tokenizer: Tokenizer) -> None:
    frame = pd.DataFrame({"text": list("abcd")}, index=pd.RangeIndex(10, 14))
    frame.to_parquet(tmp_path / "in.parquet")
    for file in pass_through(tmp_path / "in.parquet", tmp_path / "out", tokenizer, part_rows=4):
        assert pd.read_parquet(file).index.equals(pd.RangeIndex(4))


@pytest.mark.parametrize("has_features", [True, False])
def test_hugging_face_datasets_loads_the_output(has_features: bool, tmp_path: Path, tokenizer: Tokenizer) -> None:
    import datasets

    columns = {"text": ["a", "b"], "topic": [1, 0], "vector": [[1.0, 2.0]] * 2}
    names = datasets.ClassLabel(names=["sport", "art"])
    vector = datasets.List(datasets.Value("float32"), length=2)
    features = datasets.Features({"text": datasets.Value("string"), "topic": names, "vector": vector})
    if has_features:
        datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "in.parquet")
    else:
        pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    pass_through(tmp_path / "in.parquet", tmp_path / "out", tokenizer)
    files = str(tmp_path / "out/*.parquet")
    loaded = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))["train"]
    assert {name: loaded[name][:] for name in columns} == columns
    assert [entry["label"] for entry in loaded[0]["probabilities"]] == ["sport", "economics"]
    if has_features:
        assert {name: loaded.features[name] for name in features} == dict(features)


def test_times_of_spark_stay_times_of_spark(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Spark takes its own schema in the metadata for that of the file: it must have the added columns."""
    times = [datetime(9999, 12, 31, 23, 59, 59), datetime(1, 1, 1), None]
    field = {"nullable": True, "metadata": {}}
    spark = {"type": "struct", "fields": [{"name": "t", "type": "timestamp", **field}]}
    key = "org.apache.spark.sql.parquet.row.metadata"
    table = pa.table({"t": pa.array(times, pa.timestamp("us"))}).replace_schema_metadata(
        {key: json.dumps(spark), "org.apache.spark.version": "3.5.0"}
    )
    pq.write_table(table, tmp_path / "in.parquet", use_deprecated_int96_timestamps=True)
    after = read_output(pass_through(tmp_path / "in.parquet", tmp_path / "out", tokenizer))
    assert after["t"].to_pylist() == times
    metadata = {key.decode(): value.decode() for key, value in (after.schema.metadata or {}).items()}
    kept = {entry["name"]: entry["type"] for entry in json.loads(metadata[key])["fields"]}
    assert list(kept) == after.column_names
    assert (kept["t"], kept["confidence"], kept["probabilities"]["type"]) == ("timestamp", "float", "array")
    assert metadata["org.apache.spark.version"] == "3.5.0"


def test_field_ids_are_kept(tmp_path: Path, tokenizer: Tokenizer) -> None:
    inner = pa.field("a", pa.int32(), metadata={"PARQUET:field_id": "3"})
    fields = [
        pa.field("id", pa.int64(), nullable=False, metadata={"PARQUET:field_id": "1"}),
        pa.field("s", pa.struct([inner]), metadata={"PARQUET:field_id": "2", "unit": "kg"}),
    ]
    pq.write_table(
        pa.table([[1], [{"a": 1}]], schema=pa.schema(fields, {"iceberg.schema": "{}"})), tmp_path / "in.parquet"
    )
    after = read_output(pass_through(tmp_path / "in.parquet", tmp_path / "out", tokenizer)).schema
    assert after.field("id").equals(fields[0], check_metadata=True)
    assert (after.field("s").metadata or {})[b"unit"] == b"kg"
    assert (after.field("s").type.field("a").metadata or {})[b"PARQUET:field_id"] == b"3"
    assert (after.metadata or {})[b"iceberg.schema"] == b"{}"


def categories(first: int) -> pa.Table:
    values = [f"издание {number}" for number in range(first, first + 100)]
    small = pa.dictionary(pa.int8(), pa.string())
    column = pa.array(values).cast(small)
    return pa.table({"source": column, "nested": pa.StructArray.from_arrays([column], ["source"])})


def test_categories_of_appended_row_groups_may_be_more_than_small_indices_count(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    with pq.ParquetWriter(tmp_path / "in.parquet", categories(0).schema) as writer:
        writer.write_table(categories(0))
        writer.write_table(categories(100))
    after = read_output(pass_through(tmp_path / "in.parquet", tmp_path / "out", tokenizer))
    expected = [f"издание {number}" for number in range(200)]
    assert after["source"].to_pylist() == expected
    assert [row["source"] for row in after["nested"].to_pylist()] == expected
    assert after.schema.field("source").type == pa.dictionary(pa.int32(), pa.string())


def test_an_extension_type_that_nobody_registered_keeps_its_name(tmp_path: Path, tokenizer: Tokenizer) -> None:
    metadata = {"ARROW:extension:name": "company.point", "ARROW:extension:metadata": "v1"}
    field = pa.field("point", pa.list_(pa.float32(), 2), metadata=metadata)
    pq.write_table(pa.table([[[1.0, 2.0], None]], schema=pa.schema([field])), tmp_path / "in.parquet")
    after = read_output(pass_through(tmp_path / "in.parquet", tmp_path / "out", tokenizer))
    kept = {key.decode(): value.decode() for key, value in (after.schema.field("point").metadata or {}).items()}
    assert kept == metadata
    assert after["point"].to_pylist() == [[1.0, 2.0], None]


def test_an_arrow_dataset_has_one_schema_for_all_parts(tmp_path: Path, tokenizer: Tokenizer) -> None:
    times = [datetime(2026, 11, 24, hour, tzinfo=UTC) for hour in range(4)]
    columns: dict[str, Any] = {
        "c": pa.array(["a", "b", "a", None]).dictionary_encode(),
        "t": pa.array(times, pa.timestamp("ns", "Europe/Moscow")),
        "h": pa.array([1.5, None, 2.5, 3.5], pa.float16()),
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    files = pass_through(tmp_path / "in.parquet", tmp_path / "out", tokenizer, part_rows=1)
    after = ds.dataset([str(file) for file in files]).to_table().select(list(columns))
    assert after.schema.equals(pa.table(columns).schema)
    assert after.to_pylist() == pa.table(columns).to_pylist()
