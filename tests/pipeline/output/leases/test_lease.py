"""Two runs on one output: the second is refused while the first is alive, and continues at once
after it was killed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.pipeline.output.lease_files import ELSEWHERE, enter, leave_lease, newest
from tests.seaweedfs import SeaweedServer
from tirazh.errors import JobError, OutputError, StorageError
from tirazh.pipeline.output.leases import lease as lease_module
from tirazh.pipeline.output.leases.lease import Lease, hold
from tirazh.pipeline.output.leases.process_mark import ProcessMark, mark_process
from tirazh.pipeline.output.leases.record import epochs
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.storage.filesystem import Storage

SOON_S = 1.5


@pytest.fixture(autouse=True)
def short_race_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RACE_WINDOW_S", 0.3)


@pytest.fixture(params=["disk", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> OutputFiles:
    """An empty output on each type of storage that is available to tests."""
    if request.param == "disk":
        return OutputFiles(Storage(), str(tmp_path / "out"))
    if request.param == "memory":
        return OutputFiles(Storage(), f"memory://{uuid4().hex}/out")
    server: SeaweedServer = request.getfixturevalue("s3_server")
    return OutputFiles(Storage(server.endpoint_url), f"{server.make_bucket(f'lease-{uuid4().hex[:12]}')}/out")


@pytest.fixture
def on_disk(tmp_path: Path) -> OutputFiles:
    return OutputFiles(Storage(), str(tmp_path / "out"))


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Another process on this machine, for the test to kill."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def test_a_second_run_is_refused_at_once_and_the_owner_is_named(output: OutputFiles) -> None:
    with hold(output, lease_s=60) as first:
        start = time.monotonic()
        with pytest.raises(JobError) as refused, hold(output, lease_s=60):
            pass
        assert time.monotonic() - start < SOON_S
        first.token.check()
    says = rf"process {os.getpid()} on \S+, since [-\d]+ [:\d]+ UTC\), last heartbeat \d s ago; .* another --output"
    assert re.search(says, str(refused.value))
    assert refused.value.exit_code == 1


def test_every_run_takes_the_next_epoch_and_only_the_last_file_stays(output: OutputFiles) -> None:
    for epoch, end in enumerate((None, KeyboardInterrupt, SystemExit, JobError), start=1):
        try:
            with hold(output, lease_s=60) as lease:
                assert lease.token.epoch == max(epochs(output)) == epoch
                if end is not None:
                    raise end
        except (KeyboardInterrupt, SystemExit, JobError):
            pass
        assert epochs(output) == [epoch]
        record = newest(output)
        assert record.released
        # Tasks of a run that was interrupted may still be writing.
        assert record.writes_ended is (end is None)


def test_a_task_that_outlives_its_run_may_not_write(output: OutputFiles) -> None:
    with hold(output, lease_s=60) as lease:
        token = lease.token
    with pytest.raises(JobError, match="its lease was released at the end of the run"):
        token.check()


def test_one_of_many_concurrent_runs_gets_the_lease(output: OutputFiles) -> None:
    race(output)


def test_one_of_many_concurrent_runs_takes_over_from_a_dead_owner(output: OutputFiles) -> None:
    leave_lease(output, replace(mark_process(os.getpid()), started="1"), epoch=7)
    race(output)
    assert epochs(output) == [8]


def race(output: OutputFiles) -> None:
    """Start 8 runs at once: one of them gets the lease."""
    held: list[Any] = []
    refused: list[JobError] = []
    with ExitStack() as stack:

        def run() -> None:
            try:
                held.append(stack.enter_context(hold(output, lease_s=60)))
            except JobError as error:
                refused.append(error)

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(held), len(refused)) == (1, 7)
        held[0].confirm()


def test_the_lease_of_a_killed_run_on_this_machine_is_taken_over_at_once(
    output: OutputFiles, sleeper: subprocess.Popen[bytes]
) -> None:
    leave_lease(output, mark_process(sleeper.pid))
    with pytest.raises(JobError, match=f"process {sleeper.pid} on"), hold(output, lease_s=60):
        pass
    os.kill(sleeper.pid, signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)  # dead, but its parent has not reaped it yet
    start = time.monotonic()
    with hold(output, lease_s=60) as lease:
        assert time.monotonic() - start < SOON_S
        lease.confirm()


def test_the_lease_of_a_stopped_run_on_this_machine_is_taken_over_when_it_expires(
    on_disk: OutputFiles, sleeper: subprocess.Popen[bytes]
) -> None:
    record = leave_lease(on_disk, mark_process(sleeper.pid), lease_s=1.0)
    old = replace(record, renewed_at=record.renewed_at - 1.1)
    on_disk.storage.write(on_disk.lease_file(1), old.to_json())
    start = time.monotonic()
    with hold(on_disk, lease_s=60):
        assert time.monotonic() - start >= 1.0  # watched all the same: it may just be waking up


def test_a_reused_process_id_is_not_the_owner(on_disk: OutputFiles) -> None:
    leave_lease(on_disk, replace(mark_process(os.getpid()), started="1"))
    with hold(on_disk, lease_s=60) as lease:
        lease.confirm()


def test_a_second_run_is_refused_as_soon_as_a_remote_owner_renews_its_lease(on_disk: OutputFiles) -> None:
    record = leave_lease(on_disk, ELSEWHERE)
    renewed = replace(record, renewals=1).to_json()
    timer = threading.Timer(0.7, on_disk.storage.write, (on_disk.lease_file(1), renewed))
    timer.start()
    messages: list[str] = []
    with pytest.raises(JobError, match="process 4711 on gpu-3"), hold(on_disk, lease_s=60, tell=messages.append):
        pass
    assert "waiting up to 60 s" in messages[0]


def test_the_lease_of_a_silent_remote_owner_is_taken_over_when_it_expires(output: OutputFiles) -> None:
    leave_lease(output, ELSEWHERE, lease_s=1.0)
    start = time.monotonic()
    with hold(output, lease_s=60) as lease:
        assert time.monotonic() - start >= 1.0
        lease.confirm()
        assert lease.token.epoch == 2


@pytest.mark.parametrize("wrong_by_s", [-7200, pytest.param(121, marks=pytest.mark.slow), 7200])
def test_a_wrong_wall_clock_takes_no_live_lease_and_costs_only_the_wait(
    wrong_by_s: float, on_disk: OutputFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.time
    monkeypatch.setattr(ProcessMark, "is_here", False)  # the observer is another machine
    with hold(on_disk, lease_s=1.0) as first:
        monkeypatch.setattr(time, "time", lambda: clock() + wrong_by_s)
        with pytest.raises(JobError, match="another run writes to"), hold(on_disk, lease_s=1.0):
            pass
        first.token.check()
    leave_lease(on_disk, ELSEWHERE, epoch=2, lease_s=1.0)
    start = time.monotonic()
    with hold(on_disk, lease_s=1.0):
        assert time.monotonic() - start >= 1.0


def test_an_old_lease_of_another_machine_costs_a_wait(on_disk: OutputFiles) -> None:
    record = leave_lease(on_disk, ELSEWHERE, lease_s=1.0)
    on_disk.storage.write(on_disk.lease_file(1), replace(record, renewed=0.0, since=0.0).to_json())
    start = time.monotonic()
    with hold(on_disk, lease_s=60):
        assert time.monotonic() - start >= 1.0


@pytest.mark.parametrize(
    "damage",
    [b"", b'{"token": 1}', *(pytest.param(each, marks=pytest.mark.slow) for each in (b"{", b"[]", b"\xff\xfe"))],
    ids=repr,
)
def test_a_damaged_lease_is_watched_before_it_is_taken_over(on_disk: OutputFiles, damage: bytes) -> None:
    on_disk.storage.write(on_disk.lease_file(1), damage)
    start = time.monotonic()
    with hold(on_disk, lease_s=0.6) as lease:
        assert time.monotonic() - start >= 0.6
        assert lease.token.epoch == 2
        lease.confirm()


def test_files_that_are_not_leases_are_ignored(on_disk: OutputFiles) -> None:
    for name in (".00000009.json.0123456789abcdef0123456789abcdef.tmp", "notes.txt", "9.json"):
        on_disk.storage.write(f"{on_disk.leases}/{name}", b"{}")
    with hold(on_disk, lease_s=60) as lease:
        assert lease.token.epoch == 1


def test_a_lease_is_renewed_while_the_run_is_alive(on_disk: OutputFiles) -> None:
    with hold(on_disk, lease_s=1.0):
        first, deadline = newest(on_disk), time.monotonic() + 30
        while newest(on_disk).renewals == first.renewals:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert newest(on_disk).renewed_at > first.renewed_at


def test_renewals_continue_after_any_exception(
    on_disk: OutputFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([MemoryError(), RuntimeError("broken"), OutputError("no permission"), StorageError("no answer")])
    write = Storage.write

    def fail_at_first(self: Storage, uri: str, data: bytes) -> None:
        for error in failures:
            raise error
        write(self, uri, data)

    with hold(on_disk, lease_s=1.0):
        monkeypatch.setattr(Storage, "write", fail_at_first)
        deadline = time.monotonic() + 30
        while newest(on_disk).renewals == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert sum("could not be renewed" in record.message for record in caplog.records) == 4


def test_a_run_that_lost_its_lease_may_not_write_and_keeps_the_new_lease(output: OutputFiles) -> None:
    with hold(output, lease_s=1.0) as lease:
        other = leave_lease(output, ELSEWHERE, epoch=2)
        with pytest.raises(JobError, match=r"no longer holds .*taken over by process 4711 on gpu-3"):
            lease.token.check()
        assert not lease.token.is_held
        time.sleep(0.6)  # the renewal must not overwrite the new lease either
        assert newest(output) == other
    assert newest(output) == other


def test_a_release_that_is_overtaken_never_removes_the_lease_of_another_run(
    on_disk: OutputFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is stopped between its last look at the lease and its removal of files."""
    lease = enter(on_disk)
    remove, others = Storage.remove, []

    def overtaken(self: Storage, uri: str, *, recursive: bool = False) -> None:
        others.append(leave_lease(on_disk, ELSEWHERE, epoch=len(others) + 2))
        remove(self, uri, recursive=recursive)

    leave_lease(on_disk, ELSEWHERE, epoch=0)
    monkeypatch.setattr(Storage, "remove", overtaken)
    lease.release(writes_ended=True)
    assert newest(on_disk) == others[-1]


def test_a_removed_lease_file_is_a_lost_lease(on_disk: OutputFiles) -> None:
    with hold(on_disk, lease_s=60) as lease:
        on_disk.storage.remove(on_disk.leases, recursive=True)
        with pytest.raises(JobError, match="its lease was removed"):
            lease.token.check()


def test_an_output_that_was_removed_and_started_again_belongs_to_the_new_run(on_disk: OutputFiles) -> None:
    with hold(on_disk, lease_s=60) as lease:
        on_disk.storage.remove(on_disk.directory, recursive=True)
        other = leave_lease(on_disk, ELSEWHERE, epoch=1)
        with pytest.raises(JobError, match="taken over by process 4711"):
            lease.token.check()
    assert newest(on_disk) == other


def test_without_conditional_uploads_all_runs_but_one_notice_before_they_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that replaces existing files, as older S3-compatible ones do. All runs create the file at once."""
    output = OutputFiles(Storage(), f"memory://{uuid4().hex}/out")
    together = threading.Barrier(3)

    def create(self: Storage, uri: str, data: bytes) -> bool:
        together.wait()
        self.write(uri, data)
        together.wait()
        return True

    monkeypatch.setattr(Storage, "create", create)
    monkeypatch.setattr(ProcessMark, "is_here", False)
    confirmed: list[Lease] = []

    def run() -> None:
        try:
            lease = enter(output, lease_s=8.0)  # the others wait until it is renewed, after a fraction of it
            lease.confirm()
            confirmed.append(lease)
        except (JobError, threading.BrokenBarrierError):
            return

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    threading.Timer(1.5, together.abort).start()
    for thread in threads:
        thread.join()
    assert len(confirmed) == 1


def test_an_upload_whose_response_was_lost_still_gives_the_lease(
    output: OutputFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create(self: Storage, uri: str, data: bytes) -> bool:
        self.write(uri, data)
        return False  # to the second try

    monkeypatch.setattr(Storage, "create", create)
    start = time.monotonic()
    with hold(output, lease_s=60) as lease:
        lease.confirm()
    assert time.monotonic() - start < SOON_S


def test_taking_a_lease_costs_milliseconds(on_disk: OutputFiles) -> None:
    start = time.monotonic()
    with hold(on_disk, lease_s=60) as lease:
        lease.confirm()
    assert time.monotonic() - start < 0.5


def test_the_owner_of_a_lease_is_named_with_the_id_of_its_submitted_job(
    on_disk: OutputFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.dumps({"metadata": {"job_submission_id": "labels-1a2b"}})
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", config)
    with (
        hold(on_disk, lease_s=60),
        pytest.raises(JobError, match=", job labels-1a2b, since"),
        hold(on_disk, lease_s=60),
    ):
        pass
