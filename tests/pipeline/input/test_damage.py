"""A damaged page of an input file is named with its row group, column and row."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tirazh.errors import InputError
from tirazh.pipeline.input.damage import find_damage
from tirazh.pipeline.input.listing.files import list_inputs
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.read import read_part
from tirazh.pipeline.storage.filesystem import Storage

ROWS, GROUP_ROWS = 30_000, 10_000


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Three row groups; a page in the middle of the column `text` of the second one is overwritten."""
    path = tmp_path / "in.parquet"
    table = pa.table({"id": range(ROWS), "text": [f"news {row * 7919 % 100_003}" for row in range(ROWS)]})
    pq.write_table(
        table, path, row_group_size=GROUP_ROWS, compression="zstd", use_dictionary=False, data_page_size=4_096
    )
    chunk = pq.read_metadata(path).row_group(1).column(1)
    data = bytearray(path.read_bytes())
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    data[middle : middle + 2_000] = b"\xff" * 2_000
    path.write_bytes(data)
    return path


def test_the_damaged_column_chunk_and_its_first_rows_are_named(damaged: Path) -> None:
    place = find_damage(str(damaged), range(12_000, 19_000), Storage())
    assert place.startswith("row group 2 of 3, column 'text', from row 1")
    row = int(place.rpartition(" ")[2])
    assert GROUP_ROWS + 2_000 < row < 2 * GROUP_ROWS - 2_000


def test_rows_that_can_be_decoded_have_no_damage(damaged: Path, tmp_path: Path) -> None:
    assert find_damage(str(damaged), range(0, GROUP_ROWS), Storage()) == ""
    assert find_damage(str(damaged), range(2 * GROUP_ROWS, ROWS), Storage()) == ""
    assert find_damage(str(tmp_path / "missing.parquet"), range(5), Storage()) == ""


def test_the_sentence_about_a_part_names_file_rows_row_group_and_column(damaged: Path) -> None:
    (file,) = list_inputs(Storage(), [str(damaged)])
    part = Part(index=3, total=9, file=file, start=11_000, stop=19_000)
    with pytest.raises(InputError) as caught:
        read_part(part, Storage())
    sentence = str(caught.value)
    assert sentence.startswith(f"{damaged} is damaged or has changed since the job was planned, at rows 11000 to 18999")
    assert "(row group 2 of 3, column 'text', from row 1" in sentence
