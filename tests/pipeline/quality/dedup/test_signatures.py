"""What is stored of a row, and in a side file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tirazh.errors import InputError, JobError
from tirazh.pipeline.quality.dedup.config import DedupConfig
from tirazh.pipeline.quality.dedup.side_file import (
    from_side_file,
    is_usable,
    numbers_of,
    read_side_file,
    to_side_file,
)
from tirazh.pipeline.quality.dedup.signatures import EXACT, normalise, signatures
from tirazh.pipeline.storage.filesystem import Storage

NEAR = DedupConfig(columns=("completion",), near=0.8)
EXACT_ONLY = DedupConfig(columns=("completion",), near=None)
LONG = "The quick brown fox jumps over the lazy dog."


def of(*texts: str | None, config: DedupConfig = NEAR) -> list[dict[str, Any]]:
    return signatures(pa.table({"completion": pa.array(texts, pa.string())}), config).to_pylist()


def test_case_width_and_white_space_do_not_count() -> None:
    assert normalise("  Ｈｅｌｌｏ,\n\tWORLD ﬁne  ") == "hello, world fine"
    first, second, third = of("Straße  и\nЁлка у дома", " STRASSE и ЁЛКА у дома", "strasse и елка у дома")
    assert first == second
    assert first[EXACT] != third[EXACT]


def test_the_hashes_are_frozen() -> None:
    (row,) = of(LONG)
    assert row[EXACT].hex() == "ac96d8e2e3b497a19b0f3dd60e2420ec"
    assert row["band_15"] == 58743082238292124


def test_a_null_text_has_no_signature_and_a_short_one_only_a_hash() -> None:
    null, empty, short, long = of(None, "", "11 letters.", "12 letters..")
    assert set(null.values()) == {None}
    for row in (empty, short):
        assert row[EXACT] is not None
        assert [value for name, value in row.items() if name != EXACT] == [None] * 16
    assert None not in long.values()


def test_without_near_there_are_only_hashes() -> None:
    assert of(LONG, config=EXACT_ONLY) == [{EXACT: of(LONG)[0][EXACT]}]


def test_several_columns_are_compared_together() -> None:
    config = DedupConfig(columns=("title", "year"), near=0.8)
    table = pa.table({"title": ["one two", "one", None, None], "year": pa.array([3, None, 3, None], pa.int32())})
    rows = signatures(table, config).to_pylist()
    assert len({row[EXACT] for row in rows}) == 4
    assert rows[3][EXACT] is None
    ambiguous = pa.table({"title": ["a b", "a"], "year": ["c", "b c"]})
    assert len({row[EXACT] for row in signatures(ambiguous, config).to_pylist()}) == 2


def test_dictionaries_and_large_strings_are_read() -> None:
    texts = [LONG, None, LONG.upper()]
    for kind in (pa.large_string(), pa.dictionary(pa.int8(), pa.string())):
        table = pa.table({"completion": pa.array(texts, pa.string()).cast(kind)})
        assert signatures(table, NEAR).to_pylist() == of(*texts)


def test_a_text_that_is_not_utf8_is_not_compared() -> None:
    broken = pa.array([b"\xff\xfe and twelve more", b"good text here"]).cast(pa.binary()).view(pa.string())
    rows = signatures(pa.table({"completion": broken}), NEAR).to_pylist()
    assert rows[0][EXACT] is None
    assert rows[1] == of("good text here")[0]


def test_a_part_without_rows_has_a_side_file() -> None:
    empty = signatures(pa.table({"completion": pa.array([], pa.string())}), NEAR)
    assert from_side_file(to_side_file(empty, NEAR), NEAR) == empty


def test_a_side_file_holds_the_signatures_in_144_bytes_a_row() -> None:
    texts = [f"{LONG} {number}" for number in range(2_000)] + [None]
    table = signatures(pa.table({"completion": texts}), NEAR)
    data = to_side_file(table, NEAR)
    assert data == to_side_file(table, NEAR)
    assert from_side_file(data, NEAR) == table
    assert len(data) < 150 * len(texts)


def test_rows_that_filters_dropped_are_stored_as_null() -> None:
    table = signatures(pa.table({"completion": [LONG, LONG, "short"]}), NEAR)
    stored = from_side_file(to_side_file(table, NEAR, eligible=np.array([True, False, False])), NEAR)
    assert stored.column(EXACT).is_valid().to_pylist() == [True, False, False]
    assert stored.column("band_03").is_valid().to_pylist() == [True, False, False]


def test_a_side_file_of_near_serves_another_threshold_and_exact() -> None:
    data = to_side_file(signatures(pa.table({"completion": [LONG]}), NEAR), NEAR)
    assert from_side_file(data, DedupConfig(columns=("completion",), near=0.9)).num_columns == 17
    assert from_side_file(data, EXACT_ONLY).column_names == [EXACT]


@pytest.mark.parametrize(
    "other",
    [
        DedupConfig(columns=("title",), near=0.8),
        DedupConfig(columns=("completion",), near=0.8, version=2),
        DedupConfig(columns=("completion", "title"), near=0.8),
    ],
)
def test_a_side_file_of_other_columns_or_another_version_is_refused(other: DedupConfig) -> None:
    data = to_side_file(signatures(pa.table({"completion": [LONG]}), NEAR), NEAR)
    with pytest.raises(ValueError, match="no signatures of these columns and this version"):
        from_side_file(data, other)


def test_a_side_file_of_exact_does_not_serve_near() -> None:
    data = to_side_file(signatures(pa.table({"completion": [LONG]}), EXACT_ONLY), EXACT_ONLY)
    with pytest.raises(ValueError, match="no signatures"):
        from_side_file(data, NEAR)


def test_other_bytes_are_refused_wherever_they_are_cut() -> None:
    table = signatures(pa.table({"completion": [LONG] * 50}), NEAR)
    data = to_side_file(table, NEAR)
    for bad in (b"", b"PAR1", data[:-1], data[:100], data[100:], data[:-400] + b"\0" * 400):
        with pytest.raises(ValueError, match="damaged"):
            from_side_file(bad, NEAR)
    foreign = io.BytesIO()
    pq.write_table(pa.table({EXACT: [1]}), foreign)
    with pytest.raises(ValueError, match="no signatures"):
        from_side_file(foreign.getvalue(), NEAR)


def test_a_task_reads_single_columns_and_names_a_damaged_file(tmp_path: Path) -> None:
    table = signatures(pa.table({"completion": [LONG, None]}), NEAR)
    path = tmp_path / "part.parquet"
    path.write_bytes(to_side_file(table, NEAR))
    found = read_side_file(str(path), Storage(), NEAR, ["band_05"])
    assert found == table.select(["band_05"])
    numbers, present = numbers_of(found.column(0))
    assert present.tolist() == [True, False]
    assert numbers[0] == table.column("band_05")[0].as_py()
    assert is_usable(str(path), Storage(), NEAR)
    path.write_bytes(path.read_bytes()[:-9])
    assert not is_usable(str(path), Storage(), NEAR)
    with pytest.raises(JobError, match=r"part\.parquet cannot be used: it is damaged.*; remove it and run the job"):
        read_side_file(str(path), Storage(), NEAR, ["band_05"])
    with pytest.raises(InputError, match="does not exist"):
        read_side_file(str(tmp_path / "gone.parquet"), Storage(), NEAR, ["band_05"])
