"""Metadata of input files in output files: kept, adapted to the added columns, or left out."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from tirazh.pipeline import schema
from tirazh.pipeline.file_metadata import adapt_metadata

ADDED = pa.schema(schema.classify_fields())


def adapted(key: str, value: Any) -> Any:
    kept = adapt_metadata({key.encode(): json.dumps(value).encode()}, ADDED)
    return json.loads(kept[key.encode()]) if kept else None


def test_other_metadata_stays_as_it_is() -> None:
    metadata = {b"owner": b"\xff us", b"iceberg.schema": b"{}", b"org.apache.spark.version": b"3.5.0"}
    assert adapt_metadata(metadata, ADDED) == metadata


def test_pandas_keeps_index_columns_and_loses_ranges() -> None:
    columns = [{"name": "key", "numpy_type": "object"}]
    value = {"index_columns": ["key", {"kind": "range", "start": 0, "stop": 9, "step": 1}], "columns": columns}
    assert adapted("pandas", value) == {"index_columns": ["key"], "columns": columns}


def test_hugging_face_gets_the_features_of_the_added_columns() -> None:
    value = {"info": {"features": {"text": {"dtype": "string", "_type": "Value"}}}}
    features = adapted("huggingface", value)["info"]["features"]
    assert list(features) == ["text", *ADDED.names]
    assert features["probabilities"][0]["probability"] == {"dtype": "float32", "_type": "Value"}


def test_spark_gets_the_fields_of_every_kind_of_job() -> None:
    kinds = (schema.classify_fields(), schema.score_fields(), schema.generate_fields(1), schema.generate_fields(3))
    lists = schema.generate_fields(3, as_lists=True, keep=("prompt", "seed"))
    for fields in (*kinds, lists):
        key = b"org.apache.spark.sql.parquet.row.metadata"
        value = json.dumps({"type": "struct", "fields": []}).encode()
        kept = json.loads(adapt_metadata({key: value}, pa.schema(fields))[key])
        assert [field["name"] for field in kept["fields"]] == [field.name for field in fields]


def test_geoparquet_loses_the_bounds_of_one_file() -> None:
    value = {"columns": {"g": {"encoding": "WKB", "bbox": [0, 0, 1, 1]}}}
    assert adapted("geo", value) == {"columns": {"g": {"encoding": "WKB"}}}


def test_what_readers_would_follow_instead_of_the_schema_is_left_out() -> None:
    assert adapted("parquet.avro.schema", {}) is None
    assert adapted("hoodie_min_record_key", "a") is None
    for broken in (None, [], {"index_columns": 3}, "x"):
        assert adapted("pandas", broken) is None
