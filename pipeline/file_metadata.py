"""The key-value metadata of the output files: that of the input, adapted where it lists all columns or describes rows.

Readers trust these values more than the schema, so a value that does not know the added columns would hide them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

_Json = dict[str, Any]
_Adapt = Callable[[_Json, pa.Schema], None]

# Left out: schemas of the whole file, which the Java readers of Avro, Protocol Buffers and Thrift follow instead of
# Parquet's; without them they derive the same from Parquet's schema. And what Hudi says about the keys of one file.
_LEFT_OUT = (
    "parquet.avro.",
    "avro.schema",
    "parquet.proto.",
    "parquet.thrift.",
    "thrift.",
    "hoodie",
    "org.apache.hudi",
)


def adapt_metadata(metadata: Mapping[bytes, bytes], added: pa.Schema) -> dict[bytes, bytes]:
    """Return the metadata of an input file for an output file with the columns `added` behind its own.

    A value that is not what its key promises is left out.
    """
    adapted = {}
    for key, value in metadata.items():
        if key.decode(errors="replace").startswith(_LEFT_OUT):
            continue
        change = _ADAPT.get(key)
        kept = value if change is None else _changed(value, added, change)
        if kept is not None:
            adapted[key] = kept
    return adapted


def _changed(value: bytes, added: pa.Schema, change: _Adapt) -> bytes | None:
    try:
        content = json.loads(value)
        change(content, added)
        return json.dumps(content).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _without_range(pandas: _Json, added: pa.Schema) -> None:
    """A range counts the rows of one input file. An index that is a column stays."""
    pandas["index_columns"] = [index for index in pandas["index_columns"] if not isinstance(index, dict)]


def _add_features(hugging_face: _Json, added: pa.Schema) -> None:
    """`datasets` compares the features with the columns. They are absent for a table without features."""
    features = hugging_face["info"]["features"]
    if features is not None:
        features.update({field.name: _feature(field.type) for field in added})


def _feature(arrow_type: pa.DataType) -> Any:
    if pa.types.is_list(arrow_type):
        # A list in brackets is what every version of `datasets` reads.
        return [_feature(arrow_type.value_type)]
    if pa.types.is_struct(arrow_type):
        return {field.name: _feature(field.type) for field in arrow_type.fields}
    return {"dtype": _NAMES[arrow_type][0], "_type": "Value"}


def _add_spark_fields(schema: _Json, added: pa.Schema) -> None:
    """Spark takes this schema for that of the file. Its own types (TIMESTAMP in INT96) are written nowhere else."""
    schema["fields"] += [_spark_field(field) for field in added]


def _spark_field(field: pa.Field[Any]) -> _Json:
    return {"name": field.name, "type": _spark_type(field.type), "nullable": True, "metadata": {}}


def _spark_type(arrow_type: pa.DataType) -> Any:
    if pa.types.is_list(arrow_type):
        return {"type": "array", "elementType": _spark_type(arrow_type.value_type), "containsNull": True}
    if pa.types.is_struct(arrow_type):
        return {"type": "struct", "fields": [_spark_field(field) for field in arrow_type.fields]}
    return _NAMES[arrow_type][1]


def _without_bounds(geo: _Json, added: pa.Schema) -> None:
    """GeoParquet: the bounding boxes of one input file would hide rows of the others."""
    for column in geo["columns"].values():
        column.pop("bbox", None)


# The names of the types of added columns: of datasets, and of Spark.
_NAMES: dict[pa.DataType, tuple[str, str]] = {
    pa.string(): ("string", "string"),
    pa.int32(): ("int32", "integer"),
    pa.int64(): ("int64", "long"),
    pa.float32(): ("float32", "float"),
    pa.float64(): ("float64", "double"),
    pa.bool_(): ("bool", "boolean"),
}
_ADAPT: dict[bytes, _Adapt] = {
    b"pandas": _without_range,
    b"huggingface": _add_features,
    b"org.apache.spark.sql.parquet.row.metadata": _add_spark_fields,
    b"geo": _without_bounds,
}
