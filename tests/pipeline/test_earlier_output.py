"""`against:` an earlier output: its rows stay, and rows of this job that are near to them are dropped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.quality.dedup.found import NEAR, by_row, write_parts
from tests.pipeline.quality.dedup.test_find import CLOSE, HEADLINE, WORDS
from tirazh.errors import InputError
from tirazh.pipeline.earlier_output import find_earlier_output
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.quality.dedup.config import DedupConfig
from tirazh.pipeline.quality.dedup.duplicates import Duplicates, from_table, make_table
from tirazh.pipeline.quality.dedup.earlier import EarlierOutput, check_earlier
from tirazh.pipeline.quality.dedup.find import find_duplicates
from tirazh.pipeline.quality.dedup.side_file import SideFile, to_side_file
from tirazh.pipeline.quality.dedup.signatures import signatures
from tirazh.pipeline.storage.filesystem import Storage

OTHER = " ".join(WORDS[5:40])
ANOTHER = " ".join(reversed(WORDS[:35]))


def write_output(
    directory: Path,
    parts: list[list[str]],
    *,
    stored: DedupConfig | None = NEAR,
    kept: list[list[bool]] | None = None,
    prefix: str = "",
) -> str:
    """A complete output with these completions, and with side files for `stored`."""
    files = OutputFiles.at(str(directory), Storage())
    for index, texts in enumerate(parts):
        name = f"part-{index:05d}-of-{len(parts):05d}-12345678.parquet"
        table = pa.table({f"{prefix}completion": texts})
        if stored is not None:
            files.storage.write(files.signatures(name), to_side_file(signatures(table, stored), stored))
        if kept is not None:
            table = table.append_column(f"{prefix}kept", pa.array(kept[index]))
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        files.storage.write(files.part(name), sink.getvalue().to_pybytes())
    files.storage.write(files.own("manifest.json"), json.dumps({"spec": {"prefix": prefix}}).encode())
    files.storage.write(files.part("_SUCCESS"), b"12345678abcdef\n")
    return files.directory


def earlier_of(directory: str) -> EarlierOutput:
    found = find_earlier_output(directory, Storage())
    assert found is not None
    return found


@pytest.mark.parametrize(
    "stored",
    [NEAR, None, DedupConfig(columns=("completion",), near=None), DedupConfig(columns=("completion",), near=0.9)],
    ids=["side files", "no side files", "side files of exact", "side files of another threshold"],
)
def test_rows_near_to_an_earlier_row_are_dropped_with_or_without_its_side_files(
    stored: DedupConfig | None, tmp_path: Path
) -> None:
    directory = write_output(tmp_path / "monday", [["nothing like it", CLOSE], [ANOTHER, CLOSE, "tiny"]], stored=stored)
    earlier = earlier_of(directory)
    assert earlier.plan_id == "12345678abcdef"
    check_earlier(earlier, Storage(), NEAR)
    files = write_parts(tmp_path, [HEADLINE, OTHER, "tiny", OTHER, ANOTHER], [2])
    found = find_duplicates(files, NEAR, storage=Storage(), against=[earlier])
    assert found.earlier == (directory,)
    assert found.of(0).names == ["duplicate_of_earlier"]
    assert found.of(1).names == ["duplicate_of_earlier", "duplicate", "duplicate_of_earlier"]
    assert found.of(1).earlier.tolist() == [0, -1, 0]
    assert found.of(1).survivor_parts.tolist() == [1, 0, 1]
    assert found.of(1).survivor_rows.tolist() == [2, 1, 0]
    assert (found.of(0).survivor_parts.tolist(), found.of(0).survivor_rows.tolist()) == ([0], [1])
    assert Duplicates.from_bytes(found.to_bytes()).of(1).earlier.tolist() == [0, -1, 0]


def test_rows_that_the_earlier_job_dropped_drop_no_row(tmp_path: Path) -> None:
    with_kept = write_output(tmp_path / "a", [[HEADLINE, OTHER]], stored=None, kept=[[False, True]])
    with_list = write_output(tmp_path / "b", [[HEADLINE, OTHER]])
    rows = (np.array([0]), np.array([0]), np.array([0]))  # part, row, reason
    made = from_table(make_table(*rows, (np.array([0]), np.array([1]), np.array([-1]))), ())
    Storage().write(f"{with_list}/_tirazh/duplicates.parquet", made.to_bytes())
    for directory in (with_kept, with_list):
        files = write_parts(tmp_path, [HEADLINE, OTHER])
        found = find_duplicates(files, NEAR, storage=Storage(), against=[earlier_of(directory)])
        assert by_row(found) == {1: ("duplicate_of_earlier", 1 if directory == with_list else 0)}


def test_several_earlier_outputs_are_taken_in_order(tmp_path: Path) -> None:
    first = write_output(tmp_path / "a", [["x", HEADLINE]])
    second = write_output(tmp_path / "b", [[HEADLINE, OTHER]], stored=None)
    files = write_parts(tmp_path, [OTHER, HEADLINE, "new"])
    found = find_duplicates(files, NEAR, storage=Storage(), against=[earlier_of(first), earlier_of(second)])
    assert found.of(0).rows.tolist() == [0, 1]
    assert found.of(0).earlier.tolist() == [1, 0]
    assert found.of(0).survivor_rows.tolist() == [1, 1]


def test_exact_compares_with_earlier_outputs_too(tmp_path: Path) -> None:
    config = DedupConfig(columns=("completion",), near=None)
    directory = write_output(tmp_path / "a", [[HEADLINE]])
    files = write_parts(tmp_path, [CLOSE, HEADLINE], config=config)
    found = find_duplicates(files, config, storage=Storage(), against=[earlier_of(directory)])
    assert by_row(found) == {1: ("duplicate_of_earlier", 0)}


def test_equal_rows_of_an_earlier_output_stay(tmp_path: Path) -> None:
    directory = write_output(tmp_path / "a", [[HEADLINE, HEADLINE, CLOSE]])
    found = find_duplicates(write_parts(tmp_path, [ANOTHER]), NEAR, storage=Storage(), against=[earlier_of(directory)])
    assert found.count() == 0


def test_a_directory_that_is_no_output_of_a_job_is_none(tmp_path: Path) -> None:
    (tmp_path / "set.parquet").write_bytes(b"PAR1")
    assert find_earlier_output(str(tmp_path), Storage()) is None
    assert find_earlier_output(str(tmp_path / "set.parquet"), Storage()) is None


def test_an_output_that_is_not_complete_or_is_damaged_is_refused(tmp_path: Path) -> None:
    directory = Path(write_output(tmp_path / "a", [[HEADLINE]]))
    (directory / "_tirazh" / "duplicates.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"--against: .*duplicates\.parquet cannot be used: it is not a list"):
        find_earlier_output(str(directory), Storage())
    (directory / "_tirazh" / "duplicates.parquet").unlink()
    for content in ("[]", "{", "[" * 100_000):
        (directory / "_tirazh" / "manifest.json").write_text(content)
        with pytest.raises(InputError, match=r"manifest\.json is damaged"):
            find_earlier_output(str(directory), Storage())
    (directory / "_SUCCESS").unlink()
    with pytest.raises(InputError, match="this output is not complete; finish its job first"):
        find_earlier_output(str(directory), Storage())


def test_an_output_without_the_compared_column_is_refused(tmp_path: Path) -> None:
    earlier = earlier_of(write_output(tmp_path / "a", [[HEADLINE]], stored=None, prefix="x_"))
    message = r"--against: .*part-00000.* has no column 'completion', which --dedup compares; did you mean x_completion"
    with pytest.raises(InputError, match=message):
        check_earlier(earlier, Storage(), NEAR)
    with pytest.raises(InputError, match=message):
        find_duplicates(write_parts(tmp_path, [CLOSE]), NEAR, storage=Storage(), against=[earlier])


def test_a_damaged_side_file_of_an_earlier_output_is_made_again_from_its_texts(tmp_path: Path) -> None:
    directory = Path(write_output(tmp_path / "a", [[HEADLINE]]))
    (side_file,) = (directory / "_tirazh" / "signatures").iterdir()
    side_file.write_bytes(side_file.read_bytes()[:-20])
    found = find_duplicates(
        write_parts(tmp_path, [HEADLINE]), NEAR, storage=Storage(), against=[earlier_of(str(directory))]
    )
    assert found.count("duplicate_of_earlier") == 1


def test_the_prefix_of_the_earlier_job_is_known(tmp_path: Path) -> None:
    directory = write_output(tmp_path / "a", [[HEADLINE, OTHER]], stored=None, kept=[[False, True]], prefix="x_")
    config = DedupConfig(columns=("x_completion",), near=0.8)
    table = pa.table({"x_completion": [HEADLINE, OTHER]})
    path = tmp_path / "own.parquet"
    path.write_bytes(to_side_file(signatures(table, config), config))
    found = find_duplicates([SideFile(0, str(path))], config, storage=Storage(), against=[earlier_of(directory)])
    assert np.array_equal(found.of(0).rows, [1])


def test_earlier_rows_stay_though_they_are_near_to_each_other(tmp_path: Path) -> None:
    directory = write_output(tmp_path / "a", [[HEADLINE, CLOSE]])
    files = write_parts(tmp_path, [HEADLINE + " ещё", OTHER])
    found = find_duplicates(files, NEAR, storage=Storage(), against=[earlier_of(directory)])
    assert found.parts.keys() == {0}
    assert found.of(0).rows.tolist() == [0]
    assert found.of(0).survivor_rows.tolist() == [0]
    assert found.count("duplicate_of_earlier") == found.count() == 1
