"""A run that adds rows, answers failed ones again or joins files, and crashes at any point, is completed by the same
command; until the new files are whole, the old output is complete and byte for byte as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.pipeline.output.generations.conftest import LATE, OLD, add_file, parts_of, rows_of, texts_of
from tests.pipeline.output.generations.test_retry import failing
from tests.pipeline.output.test_crash_points import (
    MAX_STEPS,
    Crash,
    Snapshot,
    Where,
    crashing_at,
    make_spec,
    mark_owner_dead,
    no_ray,
    output,
    where,
)
from tirazh.pipeline.build import run_job
from tirazh.pipeline.input import parts as input_parts
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.filesystem import is_remote

__all__ = ["make_spec", "no_ray", "output", "where"]  # fixtures

MakeSpec = Callable[..., ClassifySpec]


def interrupt(
    spec: ClassifySpec,
    where: Where,
    start: Snapshot,
    check: Callable[[], None],
    end: Callable[[], None],
    **options: bool,
) -> int:
    """Interrupt `spec` after 0, 1, 2… changes, each time from `start`, and run it again; return the number of changes.

    `check` looks at what the interrupted run has left, and `end` at the completed output.
    """
    for step in range(0, MAX_STEPS, where.every):
        start.restore()
        try:
            with crashing_at(step, on_disk=not is_remote(where.output.directory)) as count:
                run_job(spec, **options)
        except Crash:
            mark_owner_dead(where.output)
            check()
            run_job(spec, **options)
            end()
        else:
            end()
            return count()
    raise AssertionError(f"{MAX_STEPS} changes were not enough")


@pytest.fixture
def finished(make_spec: MakeSpec, output: OutputFiles, tmp_path: Path) -> Snapshot:
    run_job(make_spec(output=output.directory))
    return Snapshot(output, tmp_path / "finished")


def test_an_append_interrupted_anywhere_is_completed_by_the_same_command(
    make_spec: MakeSpec, where: Where, output: OutputFiles, finished: Snapshot
) -> None:
    before, spec = parts_of(output), make_spec(output=output.directory, append=True)
    add_file(spec, "late.parquet", LATE, desk=None)
    is_new = [False]

    def check() -> None:
        assert parts_of(output).items() >= before.items(), "old parts stay byte for byte"
        if output.is_complete():
            assert verify(output.directory, skip_input=True).problems == ()
            is_new[0] = len(output.parts()) > len(before)
            assert len(output.parts()) in (len(before), len(before) + 2)
        elif not output.staged.is_complete():
            raise AssertionError("the old output is not complete any more, and the new one not yet")

    def end() -> None:
        assert parts_of(output).items() >= before.items()
        assert texts_of(output) == OLD + LATE
        assert verify(output.directory).problems == ()
        assert output.staged.parts() == {}

    assert interrupt(spec, where, finished, check, end) >= 2 * 2 * 2 + 8
    assert is_new[0]


def test_an_append_with_a_key_interrupted_anywhere_adds_each_row_once(
    make_spec: MakeSpec, where: Where, output: OutputFiles, finished: Snapshot
) -> None:
    """The file was written again with more rows, and lies there under another name, too."""
    before, spec = parts_of(output), make_spec(output=output.directory, append=True, key="text")
    add_file(spec, "a.parquet", [*OLD[:20], *LATE, *OLD[20:]], desk=None)
    add_file(spec, "b.parquet", [*LATE, "last"], desk=None)

    def check() -> None:
        assert parts_of(output).items() >= before.items()
        assert output.is_complete() or output.staged.is_complete()

    def end() -> None:
        assert texts_of(output) == [*OLD, *LATE, "last"]
        assert verify(output.directory).problems == ()

    interrupt(spec, where, finished, check, end)


def test_a_retry_interrupted_anywhere_is_completed_by_the_same_command(
    make_spec: MakeSpec, where: Where, output: OutputFiles, tmp_path: Path
) -> None:
    spec = make_spec(output=output.directory, max_error_rate=0.2)
    with failing("text 3", "text 25"):
        run_job(spec)
    start, before, rows = Snapshot(output, tmp_path / "failed"), parts_of(output), rows_of(output)
    good = [row for row in rows if row["error"] is None]

    def check() -> None:
        if output.is_complete():
            assert [row for row in rows_of(output) if row["text"] not in ("text 3", "text 25")] == good
            assert verify(output.directory).problems == ()
        else:
            assert output.staged.is_complete()
        if not output.staged.is_complete() and output.parts().keys() == before.keys():
            assert parts_of(output) == before

    def end() -> None:
        found = rows_of(output)
        assert [row["text"] for row in found] == OLD
        assert all(row["error"] is None for row in found)
        assert [row for row in found if row["text"] not in ("text 3", "text 25")] == good
        assert verify(output.directory).problems == ()

    interrupt(replace(spec, retry_failed=True), where, start, check, end)


def test_a_retry_of_a_job_that_failed_interrupted_anywhere_completes_it(
    make_spec: MakeSpec, where: Where, output: OutputFiles, tmp_path: Path
) -> None:
    spec = make_spec(output=output.directory, max_error_rate=0.2)
    with failing("text 25"):
        run_job(spec)
    output.storage.remove(output.part("_SUCCESS"))
    start = Snapshot(output, tmp_path / "failed")

    def end() -> None:
        assert all(row["error"] is None for row in rows_of(output))
        assert verify(output.directory).problems == ()

    changes = interrupt(replace(spec, retry_failed=True, max_error_rate=0.01), where, start, lambda: None, end)
    assert changes > 0


def test_an_append_that_was_interrupted_in_its_promotion_is_completed_by_any_run(
    make_spec: MakeSpec, where: Where, output: OutputFiles, finished: Snapshot
) -> None:
    spec = make_spec(output=output.directory, append=True)
    add_file(spec, "late.parquet", LATE, desk=None)
    promotions = 0
    for step in range(0, MAX_STEPS, where.every):
        finished.restore()
        try:
            with crashing_at(step, on_disk=not is_remote(output.directory)):
                run_job(spec)
            break
        except Crash:
            mark_owner_dead(output)
        if output.staged.is_complete():
            promotions += 1
            run_job(replace(spec, append=False))
            assert texts_of(output) == OLD + LATE
            assert verify(output.directory).problems == ()
    assert promotions > 4 // where.every


def test_a_join_interrupted_anywhere_leaves_the_old_files_or_the_new_ones(
    make_spec: MakeSpec, where: Where, output: OutputFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From an empty output: the job is completed, and its files are joined by the same run."""
    monkeypatch.setattr(input_parts, "MIN_PART_TOKENS", 8)
    spec = make_spec(output=output.directory, part_rows=None)
    run_job(spec)
    start, before, rows = Snapshot(output, tmp_path / "unjoined"), parts_of(output), rows_of(output)
    output.storage.remove(output.part("_SUCCESS"))
    start = Snapshot(output, tmp_path / "unfinished")
    seen = set()

    def check() -> None:
        if output.is_complete():
            assert rows_of(output) == rows
            assert verify(output.directory).problems == ()
            seen.add(len(output.parts()))
        if not output.staged.is_complete() and len(output.parts()) > 1:
            assert parts_of(output) == before

    def end() -> None:
        assert rows_of(output) == rows
        assert verify(output.directory).problems == ()
        assert output.staged.parts() == {}

    interrupt(spec, where, start, check, end, joins=True)
    assert seen == {len(before), 1}
