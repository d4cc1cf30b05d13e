"""Directories `key=value` as columns: which count, their values and their types."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tirazh.errors import InputError
from tirazh.pipeline.input.footers import read_footers
from tirazh.pipeline.input.listing.files import list_inputs
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.read import read_rows
from tirazh.pipeline.input.schemas.hive import constant_column, partition_of, partition_type
from tirazh.pipeline.input.unify import unify
from tirazh.pipeline.storage.filesystem import Storage

Write = Callable[..., Path]


def read_all(*inputs: str) -> pa.Table:
    storage = Storage()
    footers = read_footers(storage, list_inputs(storage, inputs), text_columns=())
    columns = unify(footers).schema
    tables = [read_rows(Part(0, 1, each.file, 0, each.rows), storage, columns) for each in footers]
    return pa.concat_tables(tables)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (".", ["sport", "economics", None]),
        ("*", ["sport", "economics"]),
        ("category=*/*.parquet", ["sport", "economics"]),
        ("category=sport", ["sport"]),
        ("category=sport/*.parquet", ["sport"]),
        ("category=sport/a.parquet", ["sport"]),
    ],
)
def test_a_file_has_its_directory_columns_however_it_is_named(
    named: str, expected: list[str], write_input: Write
) -> None:
    for name in ("category=sport/a.parquet", "category=economics/a.parquet", "z.parquet"):
        root = write_input(name, text=[name]).parent
    folder = root if named == "." else root / named
    found = {row.get("category") for row in read_all(str(folder)).to_pylist()}
    if named == "*":
        expected = [*expected, None]  # the pattern also names z.parquet
    assert found == set(expected)


@pytest.mark.parametrize(
    ("uri", "key", "expected"),
    [
        ("/d/a=1/b=2/x.parquet", "a=1/b=2/x.parquet", (("a", "1"), ("b", "2"))),
        ("/d/a=1/b=2/x.parquet", "x.parquet", (("a", "1"), ("b", "2"))),
        ("/d/a=1/more/x.parquet", "a=1/more/x.parquet", (("a", "1"),)),
        ("/run=7/in/news/x.parquet", "x.parquet", ()),
        ("/run=7/in/news/x.parquet", "news/x.parquet", ()),
        ("s3://bucket/in/a=1/x.parquet", "a=1/x.parquet", (("a", "1"),)),
        ("/d/a=b=c/x.parquet", "a=b=c/x.parquet", (("a", "b=c"),)),
        ("/d/=1/a=/x=1.parquet", "=1/a=/x=1.parquet", (("a", ""),)),
        ("/d/a=__HIVE_DEFAULT_PARTITION__/x", "a=__HIVE_DEFAULT_PARTITION__/x", (("a", None),)),
        ("/d/b%20c=%D0%BC%2F1/x", "b%20c=%D0%BC%2F1/x", (("b c", "м/1"),)),
        ("/d/a=100%/x", "a=100%/x", (("a", "100%"),)),
        ("/d/a=%FF/x", "a=%FF/x", (("a", "%FF"),)),
        ("/d/a=1+2/x", "a=1+2/x", (("a", "1+2"),)),
    ],
)
def test_directories_of_the_form_key_value_count(uri: str, key: str, expected: object) -> None:
    assert partition_of(uri, key) == expected


def test_a_name_that_occurs_twice_on_a_path_is_refused() -> None:
    with pytest.raises(InputError, match=r"/d/a=1/a=2/x is in two directories a=…"):
        partition_of("/d/a=1/a=2/x", "a=1/a=2/x")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "-20", "0", None], pa.int64()),
        (["9223372036854775807", "-9223372036854775808"], pa.int64()),
        (["9223372036854775808"], pa.string()),
        (["07", "8"], pa.string()),
        (["1", "x"], pa.string()),
        (["٣"], pa.string()),
        (["2026-11-24", "0001-01-01"], pa.date32()),
        (["2026-11-24", "2026-02-30"], pa.string()),
        (["2026-1-2"], pa.string()),
        (["2026-11-24", "5"], pa.string()),
        (["1.5"], pa.string()),
        ([""], pa.string()),
        ([None], pa.string()),
        ([], pa.string()),
    ],
)
def test_the_type_of_a_directory_column_keeps_every_value_as_it_is_written(
    values: list[str | None], expected: pa.DataType
) -> None:
    assert partition_type(values) == expected
    for value in values:
        (read,) = constant_column(value, 1, expected).to_pylist()
        assert value == (None if read is None else str(read))


def layout(values: list[list[str | None]], names: list[str], root: Path) -> None:
    """Write one file for every combination of values, as pandas and Spark name the directories."""
    for number, chosen in enumerate(itertools.product(*values)):
        folder = root
        for name, value in zip(names, chosen, strict=True):
            folder /= f"{name}={'__HIVE_DEFAULT_PARTITION__' if value is None else quote(value, safe='')}"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": [f"{number}"]}), folder / "part-0.parquet")


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)
columns = st.one_of(
    st.lists(st.integers(-(1 << 31), (1 << 31) - 1).map(str), min_size=1, max_size=2, unique=True),
    st.lists(st.dates().map(str), min_size=1, max_size=2, unique=True),
    # With a letter in front: pyarrow and DuckDB read more spellings as numbers and dates than we do.
    st.lists(texts.map(lambda text: f"ж{text}"), min_size=1, max_size=2, unique=True),
).flatmap(lambda values: st.sampled_from([values, [*values, None]]))


@settings(max_examples=40)
@given(st.lists(columns, min_size=1, max_size=2))
def test_values_agree_with_pyarrow_and_duckdb(
    tmp_path_factory: pytest.TempPathFactory, values: list[list[str | None]]
) -> None:
    duckdb = pytest.importorskip("duckdb")
    root, names = tmp_path_factory.mktemp("hive"), ["first", "second"][: len(values)]
    layout(values, names, root)
    rows = sorted((row["text"], *(row[name] for name in names)) for row in read_all(str(root)).to_pylist())
    theirs = ds.dataset(root, partitioning="hive", format="parquet").to_table().to_pylist()
    as_text = [tuple(None if value is None else str(value) for value in row) for row in rows]
    expected = sorted((tuple(row[name] for name in ("text", *names)) for row in theirs), key=lambda row: row[0])
    assert sorted(as_text, key=lambda row: str(row[0])) == [
        tuple(None if value is None else str(value) for value in row) for row in expected
    ]
    query = f"select text, {', '.join(names)} from read_parquet('{root}/**/*.parquet', hive_partitioning=1)"
    assert sorted(duckdb.sql(query).fetchall(), key=lambda row: row[0]) == sorted(rows, key=lambda row: str(row[0]))
