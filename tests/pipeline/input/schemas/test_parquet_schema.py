"""The schema elements of a Parquet footer, as bytes."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.pipeline.input.schemas.parquet_schema import Annotation, columns_of, read_elements, with_elements

ENUM = Annotation(converted=b"\x08", logical=b"\x4c\x00\x00")


def parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


FILE = parquet(
    pa.table({"raw": [b"a"], "list": [[{"x": 1, "имя": "a"}]], **{f"c{number}": [number] for number in range(20)}})
)


def test_the_elements_are_the_tree_of_the_schema() -> None:
    elements = read_elements(FILE)
    tops = columns_of(elements)
    assert [elements[nodes.start].name for nodes in tops] == ["raw", "list", *(f"c{number}" for number in range(20))]
    assert [elements[index].name for index in tops[1]] == ["list", "list", "element", "x", "имя"]
    assert [elements[index].num_children for index in tops[1]] == [1, 1, 2, 0, 0]


def test_the_same_elements_give_the_same_file() -> None:
    assert with_elements(FILE, read_elements(FILE)) == FILE


def test_a_logical_type_can_be_replaced() -> None:
    elements = read_elements(FILE)
    elements[1] = elements[1].annotated(ENUM)
    changed = with_elements(FILE, elements)
    column = pq.read_metadata(io.BytesIO(changed)).schema.column(0)
    assert (column.logical_type.type, column.converted_type) == ("ENUM", "ENUM")
    assert pq.ParquetFile(io.BytesIO(changed)).read().drop_columns(["raw"]).num_rows == 1
    assert with_elements(changed, read_elements(FILE)) == FILE


@pytest.mark.parametrize("cut", [1, 8, 9, 100, 1_000])
def test_a_footer_that_is_cut_off_is_reported(cut: int) -> None:
    with pytest.raises(ValueError, match="its footer"):
        read_elements(FILE[-8 - cut : -8] + FILE[-8:])


@given(st.binary(max_size=200))
def test_any_bytes_are_elements_or_reported(content: bytes) -> None:
    try:
        columns_of(read_elements(content + len(content).to_bytes(4, "little") + b"PAR1"))
    except ValueError:
        pass
