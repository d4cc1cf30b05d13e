"""The rows of one file in the columns of the whole input: values are kept exactly, or the value is named."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tirazh.errors import InputError
from tirazh.pipeline.input.schemas.conform import conform
from tirazh.pipeline.storage.disk import StoredFile

FILE = StoredFile("/in/a.parquet", "a.parquet", 1, "v")
HIVE = StoredFile("/in/category=sport/a.parquet", "category=sport/a.parquet", 1, "v", (("category", "sport"),))


def conformed(columns: pa.Schema, file: StoredFile = FILE, **arrays: Any) -> pa.Table:
    table = conform(pa.table(arrays), columns, file, 100)
    table.validate(full=True)
    assert table.schema == columns
    return table


def test_a_table_of_the_planned_columns_is_returned_as_it_is() -> None:
    table = pa.table({"text": ["x"]})
    assert conform(table, table.schema, FILE, 0) is table


def test_columns_are_reordered_widened_and_added() -> None:
    columns = pa.schema({"text": pa.large_string(), "id": pa.int64(), "url": pa.string()})
    table = conformed(columns, id=pa.array([1, None], pa.int8()), text=["a", "b"])
    assert table.to_pylist() == [{"text": "a", "id": 1, "url": None}, {"text": "b", "id": None, "url": None}]


def test_a_directory_fills_the_column_that_the_file_lacks() -> None:
    columns = pa.schema({"text": pa.string(), "category": pa.string()})
    assert conformed(columns, HIVE, text=["a", "b"])["category"].to_pylist() == ["sport", "sport"]
    assert conformed(columns, HIVE, text=["a"], category=["economics"])["category"].to_pylist() == ["economics"]
    assert conformed(columns, FILE, text=["a"])["category"].to_pylist() == [None]


def test_structs_in_lists_get_the_fields_of_all_files() -> None:
    struct = pa.struct([("name", pa.large_string()), ("rank", pa.float64())])
    columns = pa.schema({"people": pa.list_(struct)})
    table = conformed(columns, people=[[{"rank": 1, "name": None}], None, []])
    assert table["people"].to_pylist() == [[{"name": None, "rank": 1.0}], None, []]


@pytest.mark.parametrize(
    ("array", "arrow_type"),
    [
        (pa.array([1, 2, (1 << 53) + 1, 4]), pa.float64()),
        (pa.array([0, 1, 253402300799000000, 0], pa.timestamp("us")), pa.timestamp("ns")),
        (pa.array([{"a": 1}, None, {"a": (1 << 53) + 1}, {"a": 1}]), pa.struct([("a", pa.float64())])),
    ],
    ids=["integer to float", "year 9999 to nanoseconds", "in a struct"],
)
def test_a_value_that_would_change_is_named_by_file_column_and_row(array: Any, arrow_type: pa.DataType) -> None:
    with pytest.raises(
        InputError, match=r"/in/a\.parquet has a value in column 'x', row 102, that cannot become"
    ) as error:
        conform(pa.table({"x": array}), pa.schema({"x": arrow_type}), FILE, 100)
    assert "\n" not in str(error.value)


def test_a_type_that_was_not_planned_is_named() -> None:
    with pytest.raises(InputError, match=r"/in/a\.parquet has column 'x' as int64, and not as string, as when"):
        conform(pa.table({"x": [1]}), pa.schema({"x": pa.string()}), FILE, 0)


@pytest.mark.parametrize("source", [pa.string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str)
@pytest.mark.parametrize("target", [pa.large_string(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_the_encoding_of_text_does_not_matter(source: pa.DataType, target: pa.DataType) -> None:
    table = conformed(pa.schema({"x": target}), x=pa.array(["a", None, "a"]).cast(source))
    assert table["x"].to_pylist() == ["a", None, "a"]


def test_a_column_that_was_not_planned_is_named() -> None:
    with pytest.raises(InputError, match=r"/in/a\.parquet has a column 'url' that it did not have when"):
        conform(pa.table({"text": ["a"], "url": ["b"]}), pa.schema({"text": pa.string()}), FILE, 0)
