"""Sizes of row groups follow what the columns decode to, not what a dictionary stores once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tirazh.pipeline.input import decoded_size, parts
from tirazh.pipeline.input.decoded_size import with_decoded_sizes
from tirazh.pipeline.input.footers import Footer, read_footers
from tirazh.pipeline.input.listing.files import list_inputs
from tirazh.pipeline.input.parts import RowCost, cut_by_tokens
from tirazh.pipeline.storage.filesystem import Storage

MIB = 1 << 20


def measured(root: Path, *, text: str = "text") -> list[Footer]:
    storage = Storage()
    footers = read_footers(storage, list_inputs(storage, [str(root)]), text_columns=[text])
    return with_decoded_sizes(storage, footers, text_columns=[text])


def write(path: Path, table: pa.Table, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, store_schema=False, **options)
    return path


def repeated(rows: int, width: int) -> list[str]:
    return [("аб"[row % 2] * (width // 2)) for row in range(rows)]


def test_a_text_that_a_dictionary_stores_once_counts_in_every_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"text": repeated(3_000, 2_000), "id": range(3_000)}))
    (footer,) = measured(path)
    assert path.stat().st_size < MIB // 8
    assert footer.row_groups[0].text_bytes == pytest.approx(3_000 * 2_004, rel=0.01)
    assert footer.row_bytes == pytest.approx(2_012, rel=0.02)


@pytest.mark.parametrize(
    "column",
    [
        lambda texts: pa.array([{"html": text} for text in texts]),
        lambda texts: pa.array([[text] for text in texts]),
        lambda texts: pa.array(texts).cast(pa.large_string()),
        lambda texts: pa.array([text.encode() for text in texts]),
        lambda texts: pa.array([{"a": [{"b": text}]} for text in texts]),
    ],
    ids=["struct", "list", "large string", "binary", "deep"],
)
def test_other_columns_count_by_what_they_decode_to(tmp_path: Path, column: Callable[[list[str]], Any]) -> None:
    table = pa.table({"text": ["x"] * 500, "raw": column(repeated(500, 4_000))})
    (footer,) = measured(write(tmp_path / "a.parquet", table))
    assert footer.row_groups[0].all_bytes == pytest.approx(500 * 4_000, rel=0.05)
    assert footer.row_groups[0].text_bytes < 5_000


def test_a_column_whose_prefixes_repeat_counts_by_what_it_decodes_to(tmp_path: Path) -> None:
    texts = ["общее начало " * 200 + str(row) for row in range(400)]
    path = write(
        tmp_path / "a.parquet",
        pa.table({"text": texts}),
        use_dictionary=False,
        column_encoding={"text": "DELTA_BYTE_ARRAY"},
    )
    (footer,) = measured(path)
    assert footer.row_groups[0].text_bytes == pytest.approx(sum(4 + len(text.encode()) for text in texts), rel=0.02)


def test_numbers_count_by_their_width(tmp_path: Path) -> None:
    vectors = pa.array([[0.5] * 1_000] * 200, pa.list_(pa.float64()))
    fixed = pa.array([b"0" * 3_000] * 200, pa.binary(3_000))
    table = pa.table({"text": ["x"] * 200, "vector": vectors, "fixed": fixed})
    (footer,) = measured(write(tmp_path / "a.parquet", table))
    assert footer.row_groups[0].all_bytes == pytest.approx(200 * (8_000 + 3_000), rel=0.02)


def test_an_ordinary_file_keeps_the_sizes_of_its_footer(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"text": [f"новость номер {row}" for row in range(1_000)]}))
    storage = Storage()
    (plain,) = read_footers(storage, list_inputs(storage, [str(path)]), text_columns=["text"])
    (footer,) = measured(path)
    assert footer.row_groups[0].text_bytes == plain.row_groups[0].text_bytes
    assert footer.row_groups[0].all_bytes == plain.row_groups[0].all_bytes


def test_few_of_many_files_are_opened_and_the_others_are_taken_to_be_like_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        write(tmp_path / f"in/{number}.parquet", pa.table({"text": repeated(300, 1_000)}))
    opened: list[str] = []
    monkeypatch.setattr(Storage, "open", _recording(opened))
    footers = measured(tmp_path / "in")
    assert len(opened) == decoded_size._FILES
    assert all(footer.row_groups[0].text_bytes == pytest.approx(300 * 1_004, rel=0.02) for footer in footers)


def test_no_file_is_opened_if_the_footers_tell_all_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"text": repeated(300, 1_000)}), use_dictionary=False)
    opened: list[str] = []
    monkeypatch.setattr(Storage, "open", _recording(opened))
    assert measured(path)[0].row_groups[0].text_bytes == pytest.approx(300 * 1_004, rel=0.02)
    assert opened == []


def test_a_file_that_cannot_be_sampled_keeps_the_sizes_of_its_footer(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", pa.table({"text": repeated(3_000, 2_000)}))
    data = bytearray(path.read_bytes())
    data[4:200] = b"\xff" * 196
    path.write_bytes(bytes(data))
    assert 0 < measured(path)[0].row_groups[0].text_bytes < MIB


@settings(max_examples=25, deadline=None)
@given(
    files=st.lists(
        st.lists(st.tuples(st.integers(1, 300), st.integers(0, 3_000), st.booleans()), min_size=1, max_size=3),
        min_size=1,
        max_size=3,
    ),
    bound=st.integers(1_000, 200_000),
)
def test_parts_are_cut_by_decoded_bytes(
    files: list[list[tuple[int, int, bool]]], bound: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Row groups of equal rows, repeated or not: no part decodes to much more than the bound, unless it is one row."""
    root = tmp_path_factory.mktemp("cut")
    for number, groups in enumerate(files):
        _write_groups(root / f"{number}.parquet", groups)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "MAX_PART_BYTES", bound)
        for footer in measured(root):
            cuts = cut_by_tokens(footer.row_groups, 1 << 40, RowCost())
            assert cuts[0] == 0
            assert cuts[-1] == footer.rows
            table = pq.read_table(footer.file.uri)
            for start, stop in pairwise(cuts):
                size = table.slice(start, stop - start).nbytes
                widest = max(width for _, width, _ in files[int(Path(footer.file.uri).stem)])
                assert stop - start == 1 or size <= 1.6 * bound + 3 * (widest + 100)


def _write_groups(path: Path, groups: list[tuple[int, int, bool]]) -> None:
    schema = pa.schema({"text": pa.string()})
    with pq.ParquetWriter(path, schema, store_schema=False) as writer:
        for rows, width, is_repeated in groups:
            texts = ["z" * width if is_repeated else f"{row:06}" + "y" * max(0, width - 6) for row in range(rows)]
            writer.write_table(pa.table({"text": texts}, schema=schema))


def _recording(opened: list[str]) -> Any:
    original = Storage.open

    def open_recorded(self: Storage, uri: str) -> Any:
        opened.append(uri)
        return original(self, uri)

    return open_recorded
