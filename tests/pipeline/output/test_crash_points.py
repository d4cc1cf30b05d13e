"""A run that crashes at any point is repaired by running the same command again.

`run_job` without Ray and without a model is interrupted before each change that it makes to the
storage: on a disk before each system call that writes, in an object store before each request. That
includes the changes to a staged output and those of its promotion.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.without_ray import run_without_ray
from tirazh.errors import OutputError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.output.leases import lease as lease_module
from tirazh.pipeline.output.leases.record import epochs, parse, read_epoch
from tirazh.pipeline.output.names import OutputFiles, receipt_name
from tirazh.pipeline.output.receipt import Receipt
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.clock import CLOCK
from tirazh.pipeline.storage.filesystem import Storage, is_remote

PARTS = 3
MAX_STEPS = 400
CHANGES_ON_DISK = ("replace", "rename", "link", "unlink", "remove", "rmdir", "mkdir", "fsync")
CHANGES_IN_A_STORE = ("write", "create", "move", "remove")


class Crash(BaseException):
    """The process has died: none of its further changes happen."""


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    run_without_ray(monkeypatch)
    # `crashing_at` stands for a disk that loses what was not synced; waiting for the real one would take minutes.
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    # A run waits for late writes of a dead one (`Lease.settle`), which a single process cannot make.
    monkeypatch.setattr(CLOCK, "sleep", lambda seconds: None)
    monkeypatch.setattr(lease_module, "RACE_WINDOW_S", 0.0)


@pytest.fixture
def make_spec(write_input: Callable[..., Path], tmp_path: Path, model_dir: Path) -> Callable[..., ClassifySpec]:
    write_input("a.parquet", text=[f"text {n}" for n in range(30)], topic=["sport"] * 30)
    spec = ClassifySpec(
        input=(str(tmp_path / "in"),),
        output=str(tmp_path / "out"),
        model=str(model_dir),
        labels={label: label for label in ("sport", "economics")},
        dtype="float32",
        part_rows=10,
    )
    return lambda **changes: replace(spec, **changes)


@contextmanager
def crashing_at(step: int, *, on_disk: bool) -> Iterator[Callable[[], int]]:
    """Allow the first `step` changes of the storage and none after them. Yields a function that counts them."""
    left = step

    def cut(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left >= 0:
                return change(*arguments, **options)
            if change is fsync and stat.S_ISREG(os.fstat(arguments[0]).st_mode):
                os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
            raise Crash

        return changed

    fsync = os.fsync
    place: Any = os if on_disk else Storage
    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES_ON_DISK if on_disk else CHANGES_IN_A_STORE:
            patch.setattr(place, name, cut(getattr(place, name)))
        yield lambda: step - left


def mark_owner_dead(output: OutputFiles) -> None:
    """Make the remaining lease one of a dead process, since the process of the test is still alive."""
    for epoch in epochs(output):
        record = parse(read_epoch(output, epoch))
        if record is not None:
            dead = replace(record, process=replace(record.process, started="0"))
            output.storage.write(output.lease_file(epoch), dead.to_json())


def parts_of(output: OutputFiles) -> dict[str, bytes]:
    return {name: output.storage.read(output.part(name)) for name in output.parts()}


def assert_readers_see_only_complete_parts(output: OutputFiles) -> None:
    for name, data in parts_of(output).items():
        assert pq.read_table(pa.BufferReader(data)).num_rows == 10
        if receipt_name(name) in output.receipts():
            assert Receipt.from_json(output.storage.read(output.receipt(name))).file_bytes == len(data)
    if output.is_complete():
        assert len(output.parts()) == PARTS
        assert output.storage.names(output.own()).keys() >= {"manifest.json", "report.html", "plan.json"}


class Snapshot:
    """The files of an output at one moment, to start from them several times."""

    def __init__(self, output: OutputFiles, copy: Path) -> None:
        self._output, self._copy = output, copy
        if is_remote(output.directory):
            self._files = {uri: output.storage.read(uri) for uri in self._uris()}
        else:
            shutil.copytree(output.directory, copy)

    def restore(self) -> None:
        """Replace the files of the output by those of the snapshot."""
        if not is_remote(self._output.directory):
            shutil.rmtree(self._output.directory)
            shutil.copytree(self._copy, self._output.directory)
            return
        for uri in self._uris():
            self._output.storage.remove(uri)
        for uri, data in self._files.items():
            self._output.storage.write(uri, data)

    def _uris(self) -> list[str]:
        files = fsspec.filesystem("memory").find(self._output.directory)
        return [f"memory:/{path}" for path in files]


def interrupt_everywhere(
    spec: ClassifySpec, where: Where, *, prepare: Callable[[], None], check: Callable[[], None]
) -> int:
    """Interrupt `spec` after 0, 1, 2… changes and return the number of changes of a complete run.

    Each time `prepare` makes the initial state, `check` inspects what the interrupted run has left,
    and the job is run again. `where.every` is 1 for every number of changes, or the distance of those that are tried.
    """
    output = where.output
    for step in range(0, MAX_STEPS, where.every):
        prepare()
        try:
            with crashing_at(step, on_disk=not is_remote(output.directory)) as count:
                run_job(spec)
        except Crash:
            mark_owner_dead(output)
            check()
            run_job(spec)
            assert_all_is_there(output)
        else:
            assert_all_is_there(output)
            return count()
    raise AssertionError(f"{MAX_STEPS} changes were not enough")


def assert_all_is_there(output: OutputFiles) -> None:
    assert verify(output.directory).problems == ()
    assert output.is_complete()
    # A history that could not be written before a crash is no reason to make anything again.
    assert output.storage.names(output.own()).keys() - {"runs.jsonl"} == {"manifest.json", "report.html", "plan.json"}
    assert epochs(output)  # of earlier runs too, if a run crashed while it released the lease
    assert len(output.receipts()) == PARTS
    assert all(not name.startswith(".") for name in output.storage.names(output.directory))


@dataclass(frozen=True)
class Where:
    """An output, and how many changes lie between two interruptions."""

    output: OutputFiles
    every: int


@pytest.fixture(
    params=["store", "disk, some changes", pytest.param("disk, every change", marks=pytest.mark.slow)],
)
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    """A run makes several times as many changes on a disk (it syncs them, and makes directories) as in a store."""
    directory = f"memory://crash-{uuid4().hex}/out" if request.param == "store" else str(tmp_path / "out")
    return Where(OutputFiles(Storage(), directory), 5 if request.param == "disk, some changes" else 1)


@pytest.fixture
def output(where: Where) -> OutputFiles:
    return where.output


def test_a_first_run_interrupted_anywhere_is_repaired_by_the_next_run(
    make_spec: Callable[..., ClassifySpec], where: Where, output: OutputFiles
) -> None:
    changes = interrupt_everywhere(
        make_spec(output=output.directory),
        where,
        prepare=lambda: output.storage.remove(output.directory, recursive=True),
        check=lambda: assert_readers_see_only_complete_parts(output),
    )
    assert changes >= 2 * PARTS + 5  # receipts and parts; lease, plan, manifest, report, _SUCCESS


@pytest.fixture
def finished(make_spec: Callable[..., ClassifySpec], output: OutputFiles, tmp_path: Path) -> Snapshot:
    """A finished output of `make_spec()`."""
    run_job(make_spec(output=output.directory))
    return Snapshot(output, tmp_path / "finished")


def test_a_repairing_run_interrupted_anywhere_is_repaired_by_the_next_run(
    make_spec: Callable[..., ClassifySpec], where: Where, output: OutputFiles, finished: Snapshot
) -> None:
    """One part was removed, one is damaged, and the receipt of the third was removed."""
    spec = make_spec(output=output.directory)
    before = parts_of(output)
    first, second, third = sorted(before)

    def prepare() -> None:
        finished.restore()
        output.storage.remove(output.part(first))
        output.storage.write(output.part(second), before[second][:-20])
        output.storage.remove(output.receipt(third))

    def check() -> None:
        assert parts_of(output)[third] == before[third]
        assert not output.is_complete() or second in output.parts()

    changes = interrupt_everywhere(spec, where, prepare=prepare, check=check)
    assert changes >= 2 * 2 + 1 + 6  # two parts and receipts, one receipt; _SUCCESS twice, lease, manifest, report
    assert parts_of(output) == before


def test_scoring_again_interrupted_anywhere_is_completed_by_the_next_run(
    make_spec: Callable[..., ClassifySpec], where: Where, output: OutputFiles, finished: Snapshot
) -> None:
    spec = make_spec(output=output.directory, gold_column="topic")
    before = parts_of(output)

    def check() -> None:
        assert parts_of(output) == before
        assert output.is_complete(), "the rows do not change, so readers may read them meanwhile"

    interrupt_everywhere(spec, where, prepare=finished.restore, check=check)
    assert run_job(spec)["accuracy"] == 1.0


def test_an_overwrite_interrupted_anywhere_keeps_the_old_output_until_the_new_one_is_complete(
    make_spec: Callable[..., ClassifySpec], where: Where, output: OutputFiles, finished: Snapshot
) -> None:
    spec = make_spec(output=output.directory, abstain_below=0.9, overwrite=True)
    before, manifest = parts_of(output), output.storage.read(output.own("manifest.json"))
    (old_id,) = plans_of(output)

    def check() -> None:
        found = plans_of(output)
        assert len(found) <= 1, "readers must not see rows of two jobs"
        if output.is_complete():
            assert verify(output.directory).problems == ()
        if not output.staged.is_complete() and (not found or found == {old_id}):
            assert output.is_complete(), "the old output is not touched before the new one is complete"
            assert parts_of(output) == before
            assert output.storage.read(output.own("manifest.json")) == manifest

    interrupt_everywhere(spec, where, prepare=finished.restore, check=check)
    assert old_id not in plans_of(output)
    assert output.staged.parts() == {}


def test_a_promotion_that_was_interrupted_is_completed_by_any_run(
    make_spec: Callable[..., ClassifySpec], where: Where, output: OutputFiles, finished: Snapshot
) -> None:
    """The next command may be that of the old job, without --overwrite: it is refused, after the promotion."""
    old, new = make_spec(output=output.directory), make_spec(output=output.directory, abstain_below=0.9, overwrite=True)
    promotions = 0
    for step in range(0, MAX_STEPS, where.every):
        finished.restore()
        try:
            with crashing_at(step, on_disk=not is_remote(output.directory)):
                run_job(new)
            break
        except Crash:
            mark_owner_dead(output)
        if output.staged.is_complete():
            promotions += 1
            with pytest.raises(OutputError, match="another job: --abstain-below differs"):
                run_job(old)
            assert_all_is_there(output)
    assert promotions > 2 * PARTS // where.every


def plans_of(output: OutputFiles) -> set[str]:
    """Ids of the plans whose rows readers of the output see."""
    footers = [pq.read_metadata(pa.BufferReader(data)).metadata[b"tirazh"] for data in parts_of(output).values()]
    return {json.loads(footer)["plan_id"] for footer in footers}


def test_parts_without_a_plan_are_not_taken_for_parts_of_this_job(
    make_spec: Callable[..., ClassifySpec], tmp_path: Path
) -> None:
    run_job(make_spec(abstain_below=0.9))
    (tmp_path / "out/_tirazh/plan.json").unlink()
    with pytest.raises(OutputError, match="its plan is missing; give --overwrite"):
        run_job(make_spec())
    run_job(make_spec(overwrite=True))
    assert verify(str(tmp_path / "out")).problems == ()
