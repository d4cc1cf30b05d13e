"""Random inputs whose files have different schemas: their values are those that DuckDB's union_by_name reads."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tirazh.errors import InputError
from tirazh.pipeline.input.footers import read_footers
from tirazh.pipeline.input.listing.files import list_inputs
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.read import read_rows
from tirazh.pipeline.input.unify import unify
from tirazh.pipeline.storage.filesystem import Storage

duckdb = pytest.importorskip("duckdb")

Column = tuple[pa.DataType, st.SearchStrategy[Any]]
MOMENTS = st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1))
UTC_MOMENTS = MOMENTS.map(lambda moment: moment.replace(tzinfo=datetime.UTC))
WHOLE = MOMENTS.map(lambda moment: moment.replace(microsecond=0))
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4)

PLAIN: list[list[Column]] = [
    [
        (pa.int8(), st.integers(-128, 127)),
        (pa.int32(), st.integers(-(1 << 31), (1 << 31) - 1)),
        (pa.int64(), st.integers(-(1 << 63), (1 << 63) - 1)),
        (pa.uint16(), st.integers(0, (1 << 16) - 1)),
        (pa.uint64(), st.integers(0, (1 << 64) - 1)),
        (pa.float32(), st.floats(width=32, allow_nan=False)),
        (pa.float64(), st.floats(allow_nan=False)),
        (pa.decimal128(9, 3), st.decimals(-999_999, 999_999, places=3)),
        (pa.decimal128(20, 0), st.integers(-(10**19), 10**19).map(Decimal)),
    ],
    [
        (pa.string(), TEXTS),
        (pa.large_string(), TEXTS),
        (pa.string_view(), TEXTS),
        (pa.dictionary(pa.int8(), pa.string()), TEXTS),
    ],
    [(pa.binary(), st.binary(max_size=3)), (pa.binary(2), st.binary(min_size=2, max_size=2))],
    [(pa.timestamp("s"), WHOLE), (pa.timestamp("us"), MOMENTS), (pa.timestamp("ns"), MOMENTS)],
    [
        (pa.timestamp("us", "UTC"), UTC_MOMENTS),
        (pa.timestamp("ms", "Etc/UTC"), UTC_MOMENTS.map(lambda moment: moment.replace(microsecond=0))),
    ],
    [(pa.date32(), st.dates()), (pa.bool_(), st.booleans())],
]
NOTHING: Column = (pa.null(), st.none())


def in_list(column: Column) -> Column:
    # Arrow 26 casts lists of nulls to the same type wrongly.
    longest = 0 if column is NOTHING else 2
    return pa.list_(column[0]), st.lists(st.none() | column[1], max_size=longest)


def in_struct(columns: dict[str, Column]) -> Column:
    arrow_type = pa.struct([(name, arrow_type) for name, (arrow_type, _) in columns.items()])
    return arrow_type, st.fixed_dictionaries({name: st.none() | values for name, (_, values) in columns.items()})


@st.composite
def kinds(draw: st.DrawFn) -> st.SearchStrategy[Column]:
    """Types of one column of an input, which mostly go together."""
    family = st.sampled_from([*draw(st.sampled_from(PLAIN)), NOTHING])
    shape = draw(st.sampled_from(["plain", "plain", "list", "struct"]))
    if shape == "list":
        return family.map(in_list)
    if shape == "struct":
        return st.dictionaries(st.sampled_from("pq"), family, min_size=1).map(in_struct)
    return family


@st.composite
def inputs(draw: st.DrawFn) -> list[pa.Table]:
    columns = {name: draw(kinds()) for name in "abc"}
    tables = []
    for number in range(draw(st.integers(2, 3))):
        arrays: dict[str, Any] = {"file": [number] * 2}
        for name in draw(st.permutations("abc"))[: draw(st.integers(1, 3))]:
            arrow_type, values = draw(columns[name])
            found = draw(st.lists(st.none() | values, min_size=2, max_size=2))
            plain = arrow_type.value_type if pa.types.is_dictionary(arrow_type) else arrow_type
            arrays[name] = pa.array(found, plain).cast(arrow_type)
        tables.append(pa.table(arrays))
    return tables


def read_all(folder: Path) -> pa.Table | None:
    """The rows of all files, in order; None if their types conflict or a value does not go into the common type."""
    storage = Storage()
    footers = read_footers(storage, list_inputs(storage, [str(folder)]), text_columns=())
    try:
        columns = unify(footers).schema
        return pa.concat_tables(
            [
                read_rows(Part(0, 1, each.file, 0, each.rows), storage, columns).cast(columns)
                for each in footers
                if each.rows
            ]
        )
    except InputError:
        return None


@settings(max_examples=40)
@given(inputs())
def test_values_agree_with_duckdb_where_both_accept(
    tmp_path_factory: pytest.TempPathFactory, tables: list[pa.Table]
) -> None:
    assert_values_agree(tmp_path_factory, tables)


@pytest.mark.slow
@settings(max_examples=400)
@given(inputs())
def test_values_of_many_inputs_agree_with_duckdb_where_both_accept(
    tmp_path_factory: pytest.TempPathFactory, tables: list[pa.Table]
) -> None:
    assert_values_agree(tmp_path_factory, tables)


def assert_values_agree(tmp_path_factory: pytest.TempPathFactory, tables: list[pa.Table]) -> None:
    folder = tmp_path_factory.mktemp("union")
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"{number}.parquet")
    ours = read_all(folder)
    if ours is None:
        return
    query = f"select * from read_parquet('{folder}/*.parquet', union_by_name=true) order by file"
    try:
        theirs = duckdb.connect(config={"threads": 1}).sql(query).to_arrow_table()
    except duckdb.Error:
        return
    assert set(ours.column_names) == set(theirs.column_names)
    for name in ours.column_names:
        assert values_of(ours[name]) == values_of(theirs[name]), name


def values_of(column: pa.ChunkedArray[Any]) -> list[Any]:
    return [plain(value.as_py()) for value in column]


def plain(value: Any) -> Any:
    """The value without what only its Arrow type adds: pandas' timestamps, zeros at the end of decimals."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in sorted(value.items())}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if hasattr(value, "to_pydatetime"):
        return value.to_pydatetime()
    return value


def test_files_without_rows_and_columns_without_values_change_nothing(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"], "author": ["x", None]})
    pq.write_table(table, tmp_path / "1.parquet")
    pq.write_table(pa.table({"text": pa.nulls(0), "author": pa.nulls(0)}), tmp_path / "2.parquet")
    pq.write_table(pa.table({"text": ["c"], "author": pa.nulls(1)}), tmp_path / "3.parquet")
    read = read_all(tmp_path)
    assert read is not None
    assert read.schema == table.schema
    assert read.to_pylist() == [*table.to_pylist(), {"text": "c", "author": None}]
