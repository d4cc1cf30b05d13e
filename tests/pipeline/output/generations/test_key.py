"""`--key`: rows whose key is in the output already are left out, in whatever file they come."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pipeline.output.conftest import MakeSpec
from tests.pipeline.output.generations.conftest import LATE, OLD, add_file, files_of, parts_of, rows_of, texts_of
from tirazh.errors import InputError, OutputError, RequestError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.forecast.dry_run import dry_run
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.storage.filesystem import Storage

pytestmark = pytest.mark.usefixtures("no_ray")


def test_rows_that_are_there_already_are_left_out_and_counted(
    finished: OutputFiles, make_spec: MakeSpec, answered: Callable[[], int]
) -> None:
    """A daily file that is delivered again under another name, with more rows."""
    spec, before = make_spec(output=finished.directory, append=True, key="text"), parts_of(finished)
    lines: list[str] = []
    mixed = [*OLD[:7], *LATE[:5], *OLD[7:], *LATE[5:], LATE[0]]
    add_file(spec, "again.parquet", mixed)
    manifest = run_job(spec, tell=lines.append)
    assert answered() == len(LATE)
    assert parts_of(finished).items() >= before.items()
    assert texts_of(finished) == OLD + LATE
    assert (manifest["rows"], manifest["left_out_rows"]) == (42, 31)
    assert any("31 rows with keys that are there already are left out" in line for line in lines)
    found = verify(finished.directory)
    assert (found.problems, found.rows, found.rows_expected) == ((), 42, 42)


def test_a_file_without_new_rows_changes_nothing(make_spec: MakeSpec, job_output: OutputFiles) -> None:
    spec = make_spec(output=job_output.directory, append=True, key="text")
    run_job(spec)
    before = files_of(job_output)
    add_file(spec, "again.parquet", OLD[::-1])
    assert run_job(spec)["rows"] == 30
    assert files_of(job_output) == before
    found = verify(job_output.directory)
    assert found.problems == ()
    assert any("again.parquet" in note for note in found.notes)


def test_a_file_that_was_written_again_with_more_rows_is_accepted(
    finished: OutputFiles, make_spec: MakeSpec, answered: Callable[[], int]
) -> None:
    spec, before = make_spec(output=finished.directory, append=True, key="text"), parts_of(finished)
    for grown in (LATE[:5], LATE):
        add_file(spec, "a.parquet", OLD + grown)
        run_job(spec)
        assert parts_of(finished).items() >= before.items()
        assert texts_of(finished) == OLD + grown
        assert verify(finished.directory).problems == ()
    assert answered() == len(LATE)
    before = files_of(finished)
    assert run_job(spec)["rows"] == 42
    assert run_job(make_spec(output=finished.directory))["rows"] == 42
    assert files_of(finished) == before


def test_a_file_that_grew_is_refused_while_its_parts_are_not_finished(
    finished: OutputFiles, make_spec: MakeSpec
) -> None:
    spec = make_spec(output=finished.directory, append=True, key="text")
    finished.storage.remove(finished.part(min(finished.parts())))
    add_file(spec, "a.parquet", OLD + LATE)
    with pytest.raises(OutputError, match=r"a.parquet has changed since the job started"):
        run_job(spec)


def test_a_part_of_an_earlier_delivery_does_not_count_as_changed(finished: OutputFiles, make_spec: MakeSpec) -> None:
    """The rows of the file stand at other places now, and the receipt of an old part has to be made again."""
    spec = make_spec(output=finished.directory, append=True, key="text")
    add_file(spec, "a.parquet", LATE + OLD[::-1])
    run_job(spec)
    before = parts_of(finished)
    finished.storage.remove(finished.receipt(min(before)))
    run_job(spec)
    assert parts_of(finished) == before
    assert verify(finished.directory).problems == ()


def test_the_first_run_leaves_out_repeated_keys_too(
    make_spec: MakeSpec, job_output: OutputFiles, answered: Callable[[], int]
) -> None:
    spec = make_spec(output=job_output.directory, append=True, key="text")
    add_file(spec, "b.parquet", [*OLD[:3], "b", "b"])
    manifest = run_job(spec)
    assert answered() == 31
    assert texts_of(job_output) == [*OLD, "b"]
    assert manifest["left_out_rows"] == 4
    assert verify(job_output.directory).problems == ()
    before = files_of(job_output)
    run_job(spec)
    assert files_of(job_output) == before


def test_a_plan_says_before_how_many_rows_are_new(finished: OutputFiles, make_spec: MakeSpec) -> None:
    spec = make_spec(output=finished.directory, append=True, key="text")
    add_file(spec, "again.parquet", [*OLD, "new"])
    would = dry_run(spec, plan_job(spec))["would"]
    assert would == (
        "add 1 new row in 1 part to the 30 rows of the output; 30 rows with keys that are there already are left out"
    )


@pytest.mark.parametrize(
    ("key", "kind", "reason"),
    [
        ("txt", None, "the input has no column 'txt'; did you mean text"),
        ("number", pa.float64(), "column 'number' is double"),
        ("number", pa.list_(pa.int64()), "column 'number' is list"),
    ],
)
def test_a_column_that_cannot_be_a_key_is_refused(
    make_spec: MakeSpec, job_output: OutputFiles, key: str, kind: Any, reason: str
) -> None:
    spec = make_spec(output=job_output.directory, append=True, key=key)
    if kind is not None:
        add_file(spec, "a.parquet", OLD, number=pa.array([None] * 30, kind))
    with pytest.raises(RequestError, match=reason):
        run_job(spec)


def test_a_row_without_a_key_is_refused_by_file_and_row(finished: OutputFiles, make_spec: MakeSpec) -> None:
    spec, before = make_spec(output=finished.directory, append=True, key="desk"), files_of(finished)
    add_file(spec, "late.parquet", LATE, desk=["a", None, *"cdefghijkl"])
    with pytest.raises(InputError, match=r"row 1 of .*late.parquet has no value in the key column 'desk'"):
        run_job(spec)
    assert files_of(finished) == before


KINDS: dict[str, Callable[[int], pa.Array[Any]]] = {
    "dates": lambda n: pa.array([date(2026, 1, 1 + row) for row in range(n)]),
    "dictionary": lambda n: pa.array([f"id {row}" for row in range(n)]).dictionary_encode(),
    "binary": lambda n: pa.array([bytes([row]) for row in range(n)]),
    "large texts": lambda n: pa.array([f"id {row}" for row in range(n)], pa.large_string()),
    "unsigned": lambda n: pa.array(range(n), pa.uint16()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_keys_of_many_types_are_compared(make_spec: MakeSpec, job_output: OutputFiles, kind: str) -> None:
    spec = make_spec(output=job_output.directory, append=True, key="number")
    add_file(spec, "a.parquet", OLD[:20], number=KINDS[kind](20))
    run_job(spec)
    add_file(spec, "b.parquet", OLD[:25], number=KINDS[kind](25))
    run_job(spec)
    assert texts_of(job_output) == OLD[:25]
    assert verify(job_output.directory).problems == ()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(nights=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=9), min_size=1, max_size=4))
def test_every_key_is_in_the_output_once_whatever_was_delivered(
    make_spec: MakeSpec, tmp_path: Path, nights: list[list[int]]
) -> None:
    output = OutputFiles(Storage(), f"memory://keys-{uuid4().hex}/out")
    spec = make_spec(output=output.directory, append=True, key="text", part_rows=3, input=(str(tmp_path / "nights"),))
    folder = tmp_path / "nights"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    expected: list[str] = []
    for number, night in enumerate(nights):
        texts = [f"key {n}" for n in night]
        pq.write_table(pa.table({"text": texts}), folder / f"{number}.parquet")
        run_job(spec)
        expected += [text for text in dict.fromkeys(texts) if text not in expected]
        assert [row["text"] for row in rows_of(output)] == expected
    assert verify(output.directory).problems == ()
