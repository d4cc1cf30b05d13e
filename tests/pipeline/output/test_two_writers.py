"""Two and three runs that write one output at once, in every order of their storage operations.

All runs are `run_job` with its real lease, fence, plan file, sink, ledger and promotion; only Ray and the model
are left out. Run A is stopped before one of its changes, after the check of its lease has passed. Run B waits
until the lease expires, takes over, and is itself interrupted anywhere. Then A's change arrives. At every moment,
a reader who sees `_SUCCESS` must see all parts of one plan and no others; at the end `verify` must agree.

One assumption about time remains: a change that passed its check arrives before a successor with another plan has
waited for it (`Lease.settle`), or else A notices itself and removes it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pipeline.output.jobs_of_writers import Jobs, make_jobs
from tests.pipeline.output.schedules import CHANGES, Crash, World, Writer, scheduled
from tests.seaweedfs import SeaweedServer
from tirazh.errors import JobError, OutputError
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import read_plan
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.storage.filesystem import Storage


@pytest.fixture
def jobs(tmp_path: Path, model_dir: Path) -> Iterator[Jobs]:
    with pytest.MonkeyPatch.context() as patch:
        yield make_jobs("memory://two-writers/out", Storage(), tmp_path, model_dir, patch)
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def jobs_on_disk(tmp_path: Path, model_dir: Path) -> Iterator[Jobs]:
    with pytest.MonkeyPatch.context() as patch:
        yield make_jobs(str(tmp_path / "out"), Storage(), tmp_path, model_dir, patch)


@pytest.fixture
def jobs_on_s3(s3_server: SeaweedServer, tmp_path: Path, model_dir: Path) -> Iterator[Jobs]:
    directory = f"{s3_server.make_bucket('two-writers')}/out"
    with pytest.MonkeyPatch.context() as patch:
        yield make_jobs(directory, Storage(s3_server.endpoint_url), tmp_path, model_dir, patch)


def assert_a_reader_sees_one_plan(output: OutputFiles) -> None:
    """By names alone, so that it can be asked after every operation."""
    if output.is_complete():
        names = sorted(output.parts())
        assert len({name.rpartition("-")[2] for name in names}) == 1, names
        assert [name.split("-of-")[0] for name in names] == ["part-00000", "part-00001"], names


def job_of_rows(output: OutputFiles, jobs: Jobs) -> str:
    """The one job that all rows of a complete output are of."""
    tables = [pq.read_table(pa.BufferReader(output.storage.read(output.part(part)))) for part in output.parts()]
    rows = pa.concat_tables(tables)
    texts, labels = Counter(rows.column("text").to_pylist()), set(rows.column("label").to_pylist())
    (name,) = [
        name for name, job in jobs.by_name.items() if texts == Counter(job.texts) and labels <= set(job.spec.labels)
    ]
    return name


def assert_whole(output: OutputFiles, jobs: Jobs) -> str:
    """The output is complete and holds each row of one job once; return the name of that job."""
    assert output.is_complete()
    name = job_of_rows(output, jobs)
    # The input stays as the last job found it, which may be a run after the one that completed the output.
    problems = verify(output.directory, output.storage.endpoint_url, skip_input=True).problems
    assert problems == ()
    plan = read_plan(output)
    assert plan is not None
    manifest = json.loads(output.storage.read(output.own("manifest.json")))
    assert manifest["plan_id"] == plan.id
    return name


class Snapshot:
    """The files of the memory storage, to return to them."""

    def __init__(self) -> None:
        self.files = {path: file.getvalue() for path, file in MemoryFileSystem.store.items()}

    def restore(self) -> None:
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]
        filesystem = MemoryFileSystem()
        for path, data in self.files.items():
            filesystem.pipe_file(path, data)


def prepared(jobs: Jobs, before: str | None) -> Snapshot:
    """An output that is empty, or the complete one of the job `before`."""
    MemoryFileSystem.store.clear()
    if before is not None:
        jobs[before].run()
    return Snapshot()


def assert_only_expected(writer: Writer) -> None:
    """A writer ends well, is killed, or is told that it lost the output or that another job has it."""
    assert writer.is_over
    expected = (dict, Crash, JobError, OutputError)
    assert isinstance(writer.result, expected), repr(writer.result)


def stop_first(world: World, jobs: Jobs, name: str, stop: int) -> Writer:
    """Start a run and stop it before its change number `stop`, counted from 0."""
    writer = world.start(jobs[name].run)
    writer.advance(lambda: writer.is_writing and changes(writer) > stop)
    return writer


def changes(writer: Writer) -> int:
    return sum(kind in CHANGES for kind, _ in writer.operations)


def stops_of_second(jobs: Jobs, a: str, b: str, stop_a: int) -> tuple[list[int], list[int]]:
    """Where B has to be stopped: (before its changes, before other operations whose order with A's change matters).

    The other orders give the same results: B looks at other files than the one that A is about to change.
    """
    with scheduled(World(lambda: None)) as world:
        first = stop_first(world, jobs, a, stop_a)
        target = first.pending[1] if first.pending is not None else ""
        second = world.start(jobs[b].run)
        second.advance()
    at_changes = [at for at, (kind, _) in enumerate(second.operations) if kind in CHANGES]
    touching = [at for at, (_, uri) in enumerate(second.operations) if f"{target}/".startswith(f"{uri}/")]
    around = {near for at in touching for near in (at, at + 1)} - set(at_changes)
    return [*at_changes, len(second.operations)], sorted(around)


def run_schedule(jobs: Jobs, *, a: str, b: str, stop_a: int, stop_b: int, then: str, last: str) -> None:
    """A is stopped before its `stop_a`-th change and B before its `stop_b`-th operation.

    `then`: what happens next. "b dies": B is killed, A goes on to its end. "a lands": A makes its one change and is
    killed, B continues. "a ends": A goes on to its end, B continues. At last the job `last` is run again.
    """
    with scheduled(World(lambda: assert_a_reader_sees_one_plan(jobs.output))) as world:
        first = stop_first(world, jobs, a, stop_a)
        second = world.start(jobs[b].run)
        second.advance(lambda: len(second.operations) > stop_b)
        if then == "b dies":
            second.kill()
        if then == "a lands" and not first.is_over:
            first.step()
            first.kill()
        first.advance()
        second.advance()
        for writer in (first, second):
            assert_only_expected(writer)
        if jobs.output.is_complete():
            job_of_rows(jobs.output, jobs)
        third = world.start(jobs[last].run)
        third.advance()
        assert isinstance(third.result, dict), repr(third.result)
    assert assert_whole(jobs.output, jobs) == last


CASES = {
    "one job, twice": (None, "x", "x"),
    "another job": (None, "x", "y"),
    "a changed input": (None, "x", "x changed"),
    "two jobs replace a third": ("z", "x", "y"),
    "one job replaces another, twice": ("z", "x", "x"),
    "back to the job that was replaced": ("y", "x", "y"),
}


def explore(jobs: Jobs, case: str, *, every_stop: int = 1, most: int | None = None) -> int:
    """Try the schedules in which A is stopped before every `every_stop`-th change, or `most` of them that are spread
    evenly, and return their number."""
    before, a, b = CASES[case]
    start = prepared(jobs, before)
    with scheduled(World(lambda: None)) as world:
        alone = world.start(jobs[a].run)
        alone.advance()
    schedules = []
    for stop_a in range(0, changes(alone), every_stop):
        start.restore()
        at_changes, around = stops_of_second(jobs, a, b, stop_a)
        for last in sorted({a, b}):
            schedules += [(stop_a, stop_b, "b dies", last) for stop_b in at_changes]
            schedules += [(stop_a, at, then, last) for at in (*at_changes, *around) for then in ("a lands", "a ends")]
    if most is not None:
        schedules = schedules[:: len(schedules) // most | 1]  # odd, so that both "a lands" and "a ends" are taken
    for stop_a, stop_b, then, last in schedules:
        start.restore()
        try:
            run_schedule(jobs, a=a, b=b, stop_a=stop_a, stop_b=stop_b, then=then, last=last)
        except BaseException as error:
            error.add_note(f"{case}: {stop_a=}, {stop_b=}, {then=}, {last=}")
            raise
    return len(schedules)


@pytest.mark.parametrize("case", CASES)
def test_a_reader_never_sees_rows_of_two_plans_in_some_schedules(case: str, jobs: Jobs) -> None:
    assert explore(jobs, case, every_stop=7, most=8) > 6


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", CASES)
def test_a_reader_never_sees_rows_of_two_plans_in_all_schedules(case: str, jobs: Jobs) -> None:
    assert explore(jobs, case) > 500


# The schedules of the review, by name.


@pytest.mark.parametrize(
    ("b", "then"),
    [
        *(("y", "b dies"), ("y", "a lands"), ("x changed", "a ends")),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("y", "a ends"), ("x changed", "a lands"))),
        pytest.param("x changed", "b dies", marks=pytest.mark.slow),
    ],
)
def test_a_part_that_was_caught_in_a_retry_arrives_after_the_takeover(b: str, then: str, jobs: Jobs) -> None:
    """The job was replaced by one with other labels, or by the same one after its input changed."""
    start = prepared(jobs, None)
    with scheduled(World(lambda: None)) as world:
        alone = world.start(jobs["x"].run)
        alone.advance()
    made = [uri for kind, uri in alone.operations if kind in CHANGES]
    stop_a = next(at for at, uri in enumerate(made) if "part-00001" in uri)
    start.restore()
    at_changes, around = stops_of_second(jobs, "x", b, stop_a)
    for stop_b in (*at_changes, *around):
        start.restore()
        run_schedule(jobs, a="x", b=b, stop_a=stop_a, stop_b=stop_b, then=then, last=b)


@pytest.mark.parametrize("last", ["x", pytest.param("y", marks=pytest.mark.slow)])
def test_a_late_commit_record_of_another_job_promotes_nothing(last: str, jobs: Jobs) -> None:
    """A's `_SUCCESS` arrives in the staged output of B, which was killed before its parts were there."""
    start = prepared(jobs, "z")
    with scheduled(World(lambda: None)) as world:
        alone = world.start(jobs["x"].run)
        alone.advance()
    made = [uri for kind, uri in alone.operations if kind in CHANGES]
    stop_a = next(at for at, uri in enumerate(made) if uri.endswith("staged/_SUCCESS"))
    start.restore()
    at_changes, _ = stops_of_second(jobs, "x", "y", stop_a)
    for stop_b in at_changes:
        start.restore()
        run_schedule(jobs, a="x", b="y", stop_a=stop_a, stop_b=stop_b, then="b dies", last=last)


def test_a_write_that_is_later_than_every_bound_is_removed_by_its_own_writer(jobs: Jobs) -> None:
    """The one assumption, violated: A is stopped in the middle of a write for longer than its successor waits.

    For a moment a reader sees a part too many; A's second look at the lease removes it.
    """
    prepared(jobs, None)
    with scheduled(World(lambda: None), are_writes_bounded=False) as world:
        first = world.start(jobs["x"].run)
        first.advance(
            lambda: first.pending is not None and first.pending[0] == "create" and ".parquet" in first.pending[1]
        )
        late = first.pending
        assert late is not None
        second = world.start(jobs["y"].run)
        second.advance()
        assert assert_whole(jobs.output, jobs) == "y"
        first.step()
        assert late[1].rpartition("/")[2] in jobs.output.parts()
        first.advance()
        assert isinstance(first.result, JobError)
    assert assert_whole(jobs.output, jobs) == "y"


# Schedules drawn at random, with up to three interruptions, on real storage.


def run_drawn(jobs: Jobs, names: list[str], steps: list[tuple[int, int, bool]]) -> None:
    """`steps`: (writer, operations, whether it is then killed). Whoever is left goes on to its end."""
    with scheduled(World(lambda: assert_a_reader_sees_one_plan(jobs.output))) as world:
        writers: list[Writer] = []
        for writer, operations, dies in steps:
            if writer >= len(writers):
                if len(writers) == len(names):
                    continue
                writers.append(world.start(jobs[names[len(writers)]].run))
            chosen = writers[min(writer, len(writers) - 1)]
            end = len(chosen.operations) + operations
            chosen.advance(lambda chosen=chosen, end=end: len(chosen.operations) >= end)
            if dies and not chosen.is_over:
                chosen.kill()
        for each in writers:
            each.advance()
            assert_only_expected(each)
        last = world.start(jobs[names[-1]].run)
        last.advance()
        assert isinstance(last.result, dict), repr(last.result)
    assert assert_whole(jobs.output, jobs) == names[-1]


DRAWN = {
    "names": st.lists(st.sampled_from(["x", "y", "z", "x changed"]), min_size=2, max_size=3),
    "steps": st.lists(st.tuples(st.integers(0, 2), st.integers(1, 120), st.booleans()), min_size=2, max_size=5),
}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**DRAWN)
def test_random_schedules_of_up_to_three_runs_on_a_disk(
    jobs_on_disk: Jobs, names: list[str], steps: list[tuple[int, int, bool]]
) -> None:
    jobs_on_disk.output.storage.remove(jobs_on_disk.output.directory, recursive=True)
    run_drawn(jobs_on_disk, names, steps)


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.timeout(1800)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(**DRAWN)
def test_random_schedules_of_up_to_three_runs_in_an_object_store(
    jobs_on_s3: Jobs, names: list[str], steps: list[tuple[int, int, bool]]
) -> None:
    jobs_on_s3.output.storage.remove(jobs_on_s3.output.directory, recursive=True)
    run_drawn(jobs_on_s3, names, steps)
