"""The columns of a whole input whose files do not have the same schema."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tirazh.errors import InputError
from tirazh.pipeline.input.footers import Footer, RowGroup
from tirazh.pipeline.input.schemas.hive import Partition
from tirazh.pipeline.input.unify import count_directory_text, difference_from, unify
from tirazh.pipeline.storage.disk import StoredFile


def footer(name: str, columns: Any, *, rows: int = 2, partition: Partition = (), metadata: Any = None) -> Footer:
    schema = columns if isinstance(columns, pa.Schema) else pa.schema(columns)
    schema = schema.with_metadata(metadata) if metadata else schema
    groups = (RowGroup(rows, 100, 200),) if rows else ()
    return Footer(StoredFile(f"/in/{name}", name, 1, "v", partition), schema, groups)


TEXT = {"text": pa.string()}


def test_files_of_one_schema_need_no_sentence() -> None:
    found = unify([footer("a", TEXT), footer("b", TEXT)])
    assert found.schema == pa.schema(TEXT)
    assert found.lines == ()


def test_a_file_without_rows_refuses_nothing_and_adds_nothing() -> None:
    empty = footer("b", {"text": pa.int8(), "more": pa.date32()}, rows=0)
    for files in ([footer("a", TEXT), empty], [empty, footer("a", TEXT)]):
        assert unify(files).schema == pa.schema(TEXT)
        assert unify(files).lines == ()


def test_a_column_without_values_takes_the_type_of_the_others() -> None:
    found = unify([footer("a", {"author": pa.null()}), footer("b", {"author": pa.string()})])
    assert found.schema == pa.schema({"author": pa.string()})
    assert found.lines == (
        "the columns of the input files differ and were unified: 'author' is string (null in 1 file)",
    )


def test_columns_keep_the_order_of_the_first_file_and_added_ones_follow() -> None:
    first = pa.schema([pa.field("id", pa.int32(), nullable=False), pa.field("text", pa.string(), nullable=False)])
    second = pa.schema([pa.field("text", pa.string(), nullable=False), pa.field("url", pa.string(), nullable=False)])
    found = unify([footer("a", first), footer("b", second), footer("c", second)])
    assert found.schema.names == ["id", "text", "url"]
    assert [field.nullable for field in found.schema] == [True, False, True]
    assert found.lines == (
        "the columns of the input files differ and were unified: 'id' is int32 (missing in 2 files); "
        "'url' is string (missing in 1 file)",
    )


def test_another_order_of_the_same_columns_is_told() -> None:
    other = pa.schema([("id", pa.int64()), ("text", pa.string())])
    found = unify([footer("a", {"text": pa.string(), "id": pa.int64()}), footer("b", other)])
    assert found.schema.names == ["text", "id"]
    assert found.lines == ("the input files have their columns in different orders: that of the first file is kept",)


def test_many_changed_columns_are_told_in_one_sentence() -> None:
    names = [f"c{number}" for number in range(9)]
    found = unify([footer("a", dict.fromkeys(names, pa.int8())), footer("b", dict.fromkeys(names, pa.int16()))])
    (line,) = found.lines
    assert line.count("int8 in 1 file") == 5
    assert line.endswith("; and 4 more columns")


@pytest.mark.parametrize("is_first", [True, False])
def test_a_true_conflict_names_both_files_the_column_and_the_types(is_first: bool) -> None:
    files = [footer("a", {"id": pa.null()}), footer("b", {"id": pa.int64()}), footer("c", {"id": pa.string()})]
    named = r"/in/c has column 'id' as string, and /in/b has it as int64: no type keeps the values of both"
    if is_first:
        files, named = files[::-1], r"/in/b has column 'id' as int64, and /in/c has it as string"
    with pytest.raises(InputError, match=named) as error:
        unify(files)
    assert "\n" not in str(error.value)


def test_a_conflict_within_a_struct_names_the_column() -> None:
    files = [footer(name, {"m": pa.struct([("a", each)])}) for name, each in (("a", pa.int8()), ("b", pa.string()))]
    with pytest.raises(InputError, match=r"/in/b has column 'm' as struct<a: string>, and /in/a has it as"):
        unify(files)


def test_a_repeated_column_in_one_of_several_schemas_is_named() -> None:
    twice = pa.schema([("x", pa.int8()), ("x", pa.int8())])
    with pytest.raises(InputError, match=r"/in/b has several columns 'x'"):
        unify([footer("a", TEXT), footer("b", twice)])


def test_metadata_is_kept_where_it_still_describes_the_columns() -> None:
    spark = {b"writer": b"spark", b"row": b"1"}
    same = [footer("a", TEXT, metadata=spark), footer("b", TEXT, metadata={b"row": b"2"})]
    assert unify(same).schema.metadata == spark
    different = [footer("a", TEXT, metadata=spark), footer("b", {"id": pa.int8()}, metadata=spark | {b"row": b"2"})]
    assert unify(different).schema.metadata == {b"writer": b"spark"}


SPORT: Partition = (("category", "sport"),)
ECONOMICS: Partition = (("category", "economics"),)


def test_directories_become_columns_behind_those_of_the_files() -> None:
    dated = [footer("a", TEXT, partition=(*SPORT, ("day", "2026-11-24"))), footer("b", TEXT, partition=ECONOMICS)]
    found = unify(dated)
    assert found.schema == pa.schema(TEXT | {"category": pa.string(), "day": pa.date32()})
    assert found.lines == (
        "columns from the names of directories: 'category' (string), 'day' (date32[day]); null for 1 file outside "
        "such directories",
    )


def test_a_directory_whose_name_is_a_column_of_its_files_leaves_their_values() -> None:
    files = [footer("a", TEXT | {"category": pa.large_string()}, partition=SPORT), footer("b", TEXT, partition=SPORT)]
    found = unify(files)
    assert found.schema == pa.schema(TEXT | {"category": pa.large_string()})
    assert found.lines[-1] == (
        "column 'category' is in the files and in names of directories: the values in the files are kept"
    )


def test_a_directory_whose_value_does_not_have_the_type_of_the_column_is_named() -> None:
    files = [footer("a", TEXT | {"category": pa.int64()}), footer("b", TEXT, partition=SPORT)]
    with pytest.raises(InputError, match=r"/in/b does not have column 'category', which is int64 .* 'sport'"):
        unify(files)


def test_the_text_of_directories_counts_in_estimates() -> None:
    columns = unify([footer("a", TEXT, partition=SPORT)]).schema
    (counted,) = count_directory_text([footer("a", TEXT, rows=10, partition=SPORT)], columns, ["text", "category"])
    assert (counted.row_groups[0].text_bytes, counted.row_groups[0].all_bytes) == (150, 250)
    (counted,) = count_directory_text([footer("a", TEXT, rows=10, partition=SPORT)], columns, ["text"])
    assert (counted.row_groups[0].text_bytes, counted.row_groups[0].all_bytes) == (100, 250)


@pytest.mark.parametrize(
    ("columns", "difference"),
    [
        (TEXT, None),
        (TEXT | {"id": pa.int32()}, None),
        (TEXT | {"id": pa.null()}, None),
        (TEXT | {"id": pa.string()}, "column 'id' is string, not int64"),
        (TEXT | {"id": pa.float64()}, "column 'id' is double, not int64"),
        (TEXT | {"url": pa.string()}, "column 'url' is new"),
        ({"id": pa.int64()}, "column 'text' is missing"),
    ],
)
def test_a_rewritten_file_goes_into_the_planned_columns_or_a_clause_says_why_not(
    columns: dict[str, pa.DataType], difference: str | None
) -> None:
    planned = pa.schema([pa.field("text", pa.string(), nullable=False), pa.field("id", pa.int64())])
    fields = [pa.field(name, each, nullable=name != "text") for name, each in columns.items()]
    assert difference_from(footer("a", pa.schema(fields)), planned) == difference
