"""Two runs that add rows to one output at once, in many orders of their storage operations: each row is there once.

The runs are `run_job` with its real lease, fence and promotion (`schedules.py`); only Ray and the model are left out.
A reader that sees `_SUCCESS` sees the old rows, or all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pipeline.output.generations.conftest import rows_of, texts_of
from tests.pipeline.output.generations.test_retry import failing
from tests.pipeline.output.schedules import CHANGES, Crash, World, Writer, scheduled
from tests.pipeline.output.test_two_writers import Snapshot
from tests.pipeline.without_ray import run_without_ray
from tirazh.errors import JobError, OutputError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.filesystem import Storage

OLD, FIRST, SECOND = ["a", "b", "c", "d"], ["e", "f", "g"], ["g", "h"]


@pytest.fixture
def spec(tmp_path: Path, model_dir: Path) -> Iterator[ClassifySpec]:
    """A job over a complete output of `OLD`, whose input has gained a file since."""
    MemoryFileSystem.store.clear()
    with pytest.MonkeyPatch.context() as patch:
        run_without_ray(patch)
        write(tmp_path / "in/1.parquet", OLD)
        spec = ClassifySpec(
            input=(str(tmp_path / "in"),),
            output="memory://two-writers/out",
            model=str(model_dir),
            labels={"x": "x", "yy": "yy"},
            dtype="float32",
            part_rows=2,
        )
        run_job(spec)
        write(tmp_path / "in/2.parquet", FIRST)
        yield replace(spec, append=True)
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def write(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"text": texts}), path)


def output_of(spec: ClassifySpec) -> OutputFiles:
    return OutputFiles(Storage(), spec.output)


def reader_of(spec: ClassifySpec, *numbers: int) -> Callable[[], None]:
    """A check that a complete output has one of these numbers of parts."""
    output = output_of(spec)

    def check() -> None:
        if output.is_complete():
            assert len(output.parts()) in numbers, sorted(output.parts())

    return check


def assert_expected(*writers: Writer) -> None:
    for writer in writers:
        assert writer.is_over
        assert isinstance(writer.result, (dict, Crash, JobError, OutputError)), repr(writer.result)


def run_schedule(
    spec: ClassifySpec, other: ClassifySpec, stop_a: int, stop_b: int, then: str, parts: tuple[int, ...]
) -> None:
    """As in `test_two_writers.run_schedule`: A is stopped before a change, B before an operation."""
    with scheduled(World(reader_of(spec, *parts))) as world:
        first = world.start(lambda: run_job(spec))
        first.advance(lambda: first.is_writing and changes(first) > stop_a)
        second = world.start(lambda: run_job(other))
        second.advance(lambda: len(second.operations) > stop_b)
        if then == "b dies":
            second.kill()
        if then == "a lands" and not first.is_over:
            first.step()
            first.kill()
        first.advance()
        second.advance()
        assert_expected(first, second)
        last = world.start(lambda: run_job(other))
        last.advance()
        assert isinstance(last.result, dict), repr(last.result)


def changes(writer: Writer) -> int:
    return sum(kind in CHANGES for kind, _ in writer.operations)


def explore(spec: ClassifySpec, other: ClassifySpec, parts: tuple[int, ...], expected: list[str], *, most: int) -> None:
    start = Snapshot()
    with scheduled(World(lambda: None)) as world:
        alone = world.start(lambda: run_job(spec))
        alone.advance()
    schedules = [
        (stop_a, stop_b, then)
        for stop_a in range(changes(alone))
        for stop_b in range(0, len(alone.operations) + 1, 3)
        for then in ("b dies", "a lands", "a ends")
    ]
    for stop_a, stop_b, then in schedules[:: max(1, len(schedules) // most) | 1]:
        start.restore()
        try:
            run_schedule(spec, other, stop_a, stop_b, then, parts)
            assert texts_of(output_of(spec)) == expected
            assert verify(spec.output).problems == ()
        except BaseException as error:
            error.add_note(f"{stop_a=}, {stop_b=}, {then=}")
            raise


@pytest.mark.parametrize("most", [24, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_two_runs_that_add_the_same_file_add_each_row_once(spec: ClassifySpec, most: int) -> None:
    explore(spec, spec, (2, 4), OLD + FIRST, most=most)


@pytest.mark.parametrize("most", [16, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_two_runs_that_leave_out_known_keys_add_each_row_once(spec: ClassifySpec, tmp_path: Path, most: int) -> None:
    write(tmp_path / "in/3.parquet", SECOND)
    keyed = replace(spec, key="text")
    explore(keyed, keyed, (2, 5), [*OLD, *FIRST, "h"], most=most)


@pytest.mark.parametrize("most", [16, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_two_runs_that_answer_failed_rows_again_keep_all_others(spec: ClassifySpec, tmp_path: Path, most: int) -> None:
    (tmp_path / "in/2.parquet").unlink()
    MemoryFileSystem.store.clear()
    plain = replace(spec, append=False, max_error_rate=0.5)
    with failing("b"):
        run_job(plain)
    retry = replace(plain, retry_failed=True)
    explore(retry, retry, (2,), OLD, most=most)
    assert [row["error"] for row in rows_of(output_of(spec))] == [None] * 4


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 150), st.booleans()), min_size=2, max_size=6),
    late=st.integers(0, 2),
)
def test_random_schedules_of_three_runs_while_files_arrive(
    spec: ClassifySpec, tmp_path: Path, steps: list[tuple[int, int, bool]], late: int
) -> None:
    """`steps`: (writer, operations, whether it is then killed). A file arrives before writer number `late` starts."""
    arriving = tmp_path / "in/3.parquet"
    arriving.unlink(missing_ok=True)
    MemoryFileSystem.store.clear()
    (tmp_path / "in/2.parquet").unlink(missing_ok=True)
    run_job(replace(spec, append=False))
    write(tmp_path / "in/2.parquet", FIRST)
    keyed = replace(spec, key="text")
    with scheduled(World(reader_of(spec, 2, 4, 5))) as world:
        writers: list[Writer] = []
        for number, operations, dies in steps:
            if number >= len(writers) and len(writers) < 3:
                if len(writers) == late:
                    write(arriving, SECOND)
                writers.append(world.start(lambda: run_job(keyed)))
            chosen = writers[min(number, len(writers) - 1)]
            end = len(chosen.operations) + operations
            chosen.advance(lambda chosen=chosen, end=end: len(chosen.operations) >= end)
            if dies and not chosen.is_over:
                chosen.kill()
        for each in writers:
            each.advance()
        assert_expected(*writers)
        write(arriving, SECOND)
        last = world.start(lambda: run_job(keyed))
        last.advance()
        assert isinstance(last.result, dict), repr(last.result)
    assert texts_of(output_of(spec)) == [*OLD, *FIRST, "h"]
    assert verify(spec.output).problems == ()
