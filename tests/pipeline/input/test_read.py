"""Reading a part: the same rows with few requests, and memory that does not grow with the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tirazh.pipeline import schema
from tirazh.pipeline.input import read
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.read import read_part
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.filesystem import Storage

MIB = 1 << 20
ROWS, COLUMNS = 1_024, 6


class CountedFile:
    """A file that records the size of every read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.reads: list[int] = []

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.reads.append(len(data))
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.fixture(scope="module")
def wide_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 12 MiB of incompressible text in one row group of six columns."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("wide") / "wide.parquet"
    columns = {f"c{number}": [random.bytes(2_048).hex() for _ in range(ROWS)] for number in range(COLUMNS)}
    pq.write_table(pa.table(columns), path, compression="zstd")
    return path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[CountedFile]:
    """Every file that is opened. URIs of S3 lead to the disk, so that reads are counted as requests."""
    files: list[CountedFile] = []

    @contextmanager
    def open_counted(self: Storage, uri: str) -> Iterator[IO[bytes]]:
        with open(uri.removeprefix("s3://bucket"), "rb") as file:
            files.append(CountedFile(file))
            yield files[-1]  # type: ignore[misc]

    monkeypatch.setattr(Storage, "open", open_counted)
    monkeypatch.setattr(Storage, "is_same", lambda self, file: True)
    return files


def part_of(path: Path, start: int, stop: int, *, prefix: str = "s3://bucket") -> Part:
    return Part(0, 1, StoredFile(prefix + str(path), path.name, path.stat().st_size, ""), start, stop)


def rows_of(part: Part) -> pa.Table:
    return read_part(part, Storage()).drop_columns([schema.PART, schema.REPETITION])


@pytest.mark.parametrize(("start", "stop"), [(0, ROWS), (ROWS - 100, ROWS), (0, 100), (300, 301)])
def test_a_part_of_an_object_store_has_the_rows_of_the_file(
    wide_file: Path, opened: list[CountedFile], start: int, stop: int
) -> None:
    assert rows_of(part_of(wide_file, start, stop)).equals(pq.read_table(wide_file).slice(start, stop - start))


def test_a_small_row_group_is_fetched_in_a_few_large_requests(wide_file: Path, opened: list[CountedFile]) -> None:
    rows_of(part_of(wide_file, 0, ROWS))
    reads = opened[0].reads
    assert len(reads) <= 4, "the footer, and 12 MiB in requests of up to 32 MiB"
    assert sum(reads) < wide_file.stat().st_size + MIB


def test_rows_behind_the_part_are_fetched_only_up_to_a_limit(
    wide_file: Path, opened: list[CountedFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "_MAX_UNUSED_BYTES", MIB)
    monkeypatch.setattr(read, "_MAX_BUFFER_BYTES", read._BUFFER_BYTES)
    rows_of(part_of(wide_file, 0, 10))
    assert max(opened[0].reads) <= 2 * MIB, "columns are streamed"


def test_a_row_group_above_the_limit_is_streamed_with_bounded_buffers(
    wide_file: Path, opened: list[CountedFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "_MAX_FETCHED_BYTES", 6 * MIB)
    expected = pq.read_table(wide_file)
    assert rows_of(part_of(wide_file, 0, ROWS)).equals(expected)
    assert max(opened[0].reads) <= 2 * MIB, "six columns share 6 MiB; a page of 1 MiB is read as a whole"


def test_a_file_on_a_disk_is_streamed_in_small_reads(wide_file: Path, opened: list[CountedFile]) -> None:
    rows_of(part_of(wide_file, 0, ROWS, prefix=""))
    assert max(opened[0].reads) <= 2 * MIB


def test_a_part_may_take_several_row_groups(write_input: Callable[..., Path], opened: list[CountedFile]) -> None:
    path = write_input("a.parquet", text=[str(number) for number in range(100)], row_group_size=10)
    assert rows_of(part_of(path, 25, 61)).column("text").to_pylist() == [str(number) for number in range(25, 61)]
    assert len(opened[0].reads) <= 3
