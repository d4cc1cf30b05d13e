"""A run that crashes at any point is repaired by running the same command again.

`run_job` without Ray and without a model is interrupted before each change that it makes to the
storage: on a disk before each system call that writes, in an object store before each request.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.without_ray import run_without_ray
from tirazh.errors import OutputError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.output import lease as lease_module
from tirazh.pipeline.output.lease_record import epochs, parse, read_epoch
from tirazh.pipeline.output.ledger import verify
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.write import Receipt
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.filesystem import Storage

PARTS = 3
MAX_STEPS = 400
CHANGES_ON_DISK = ("replace", "link", "unlink", "remove", "rmdir", "mkdir", "fsync")
CHANGES_IN_A_STORE = ("write", "create", "remove")


class Crash(BaseException):
    """The process has died: none of its further changes happen."""


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    run_without_ray(monkeypatch)
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
def crashing_at(step: int, *, on_disk: bool) -> Iterator[None]:
    """Allow the first `step` changes of the storage and none after them."""
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
        yield


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
        receipt = Receipt.from_json(output.storage.read(output.receipt(name)))
        assert len(data) == receipt.file_bytes
        assert pq.read_table(pa.BufferReader(data)).num_rows == receipt.rows == 10
    if output.is_complete():
        assert len(output.parts()) == PARTS
        assert output.storage.names(output.own()).keys() >= {"manifest.json", "report.html", "plan.json"}


def interrupt_everywhere(
    spec: ClassifySpec, output: OutputFiles, *, prepare: Callable[[], None], check: Callable[[], None]
) -> int:
    """Interrupt `spec` after 0, 1, 2… changes and return the number of changes of a complete run.

    Each time `prepare` makes the initial state, `check` inspects what the interrupted run has left,
    and the job is run again.
    """
    for step in range(MAX_STEPS):
        prepare()
        try:
            with crashing_at(step, on_disk="://" not in output.directory):
                run_job(spec)
        except Crash:
            mark_owner_dead(output)
            check()
            run_job(spec)
            assert_all_is_there(output)
        else:
            assert_all_is_there(output)
            return step
    raise AssertionError(f"{MAX_STEPS} changes were not enough")


def assert_all_is_there(output: OutputFiles) -> None:
    assert verify(output.directory).problems == ()
    assert output.is_complete()
    assert output.storage.names(output.own()).keys() == {"manifest.json", "report.html", "plan.json"}
    assert len(epochs(output)) <= 2  # the earlier one stays if the run crashed while it released the lease
    assert len(output.receipts()) == PARTS
    assert all(not name.startswith(".") for name in output.storage.names(output.directory))


@pytest.fixture(params=["disk", "store"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> OutputFiles:
    where = str(tmp_path / "out") if request.param == "disk" else f"memory://crash-{uuid4().hex}/out"
    return OutputFiles(Storage(), where)


def test_a_first_run_interrupted_anywhere_is_repaired_by_the_next_run(
    make_spec: Callable[..., ClassifySpec], output: OutputFiles
) -> None:
    changes = interrupt_everywhere(
        make_spec(output=output.directory),
        output,
        prepare=lambda: output.storage.remove(output.directory, recursive=True),
        check=lambda: assert_readers_see_only_complete_parts(output),
    )
    assert changes >= 2 * PARTS + 5  # receipts and parts; lease, plan, manifest, report, _SUCCESS


def test_a_repairing_run_interrupted_anywhere_is_repaired_by_the_next_run(
    make_spec: Callable[..., ClassifySpec], output: OutputFiles
) -> None:
    """One part and the receipt of another one were removed. Intact files are not touched."""
    spec = make_spec(output=output.directory)
    untouched: dict[str, bytes] = {}
    damaged: set[str] = set()

    def existing() -> set[str]:
        return output.receipts() | set(output.parts())

    def prepare() -> None:
        run_job(spec)
        untouched.update(parts_of(output))
        output.storage.remove(output.part("part-00001-of-00003.parquet"))
        output.storage.remove(output.receipt("part-00002-of-00003.parquet"))
        damaged.update(existing())

    def check() -> None:
        assert parts_of(output).items() <= untouched.items()
        assert not output.is_complete() or existing() == damaged or len(existing()) == 2 * PARTS

    changes = interrupt_everywhere(spec, output, prepare=prepare, check=check)
    assert changes >= 2 * 2 + 6  # two parts and receipts; _SUCCESS removed and written, lease, plan, manifest, report
    assert parts_of(output) == untouched


@pytest.mark.slow
def test_an_overwrite_interrupted_anywhere_never_mixes_two_jobs(
    make_spec: Callable[..., ClassifySpec], output: OutputFiles
) -> None:
    other = make_spec(output=output.directory, abstain_below=0.9, overwrite=True)
    spec = make_spec(output=output.directory, overwrite=True)

    def check() -> None:
        assert len(jobs_of(output)) <= 1
        if output.is_complete():
            assert verify(output.directory).problems == ()

    interrupt_everywhere(spec, output, prepare=lambda: run_job(other), check=check)
    assert jobs_of(output) == {spec.fingerprint()}


def jobs_of(output: OutputFiles) -> set[str]:
    """Fingerprints of the jobs whose rows are in the output."""
    footers = [pq.read_metadata(pa.BufferReader(data)).metadata[b"tirazh"] for data in parts_of(output).values()]
    return {json.loads(footer)["fingerprint"] for footer in footers}


def test_parts_without_a_plan_are_not_taken_for_parts_of_this_job(
    make_spec: Callable[..., ClassifySpec], tmp_path: Path
) -> None:
    run_job(make_spec(abstain_below=0.9))
    (tmp_path / "out/_tirazh/plan.json").unlink()
    with pytest.raises(OutputError, match="its plan is missing; give --overwrite"):
        run_job(make_spec())
    run_job(make_spec(overwrite=True))
    assert verify(str(tmp_path / "out")).problems == ()
