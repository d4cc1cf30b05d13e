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

from tests.seaweedfs import SeaweedServer
from tirazh.errors import JobError
from tirazh.pipeline.output import lease as lease_module
from tirazh.pipeline.output.lease import LeaseOwner, hold
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.process_mark import ProcessMark, mark_process
from tirazh.pipeline.storage.filesystem import Storage

SOON_S = 1.5
ELSEWHERE = ProcessMark(host="gpu-3", machine="another", pid=4711, started="1")


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


def leave_lease(
    output: OutputFiles, process: ProcessMark, *, lease_s: float = 60.0, renewed: float = 0.0
) -> LeaseOwner:
    """Write a lease owned by `process` that was last renewed `renewed` seconds ago."""
    now = time.time()
    owner = LeaseOwner(token=uuid4().hex, process=process, job=None, since=now - 300, renewed=now, lease_s=lease_s)
    values = json.loads(owner.to_json()) | {"renewed": now - renewed}
    output.storage.write(output.lease, json.dumps(values).encode())
    return owner


def token_of(output: OutputFiles) -> str:
    return str(json.loads(output.storage.read(output.lease))["token"])


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


def test_a_lease_is_released_after_success_and_after_every_exception(output: OutputFiles) -> None:
    for end in (None, KeyboardInterrupt, SystemExit, JobError):
        try:
            with hold(output, lease_s=60):
                assert output.storage.names(output.own()).keys() == {"lease.json"}
                if end is not None:
                    raise end
        except (KeyboardInterrupt, SystemExit, JobError):
            pass
        assert output.storage.names(output.own()) == {}


def test_one_of_many_concurrent_runs_gets_the_lease(output: OutputFiles) -> None:
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


def test_a_reused_process_id_is_not_the_owner(on_disk: OutputFiles) -> None:
    leave_lease(on_disk, replace(mark_process(os.getpid()), started="1"))
    with hold(on_disk, lease_s=60) as lease:
        lease.confirm()


def test_a_second_run_is_refused_as_soon_as_a_remote_owner_renews_its_lease(on_disk: OutputFiles) -> None:
    leave_lease(on_disk, ELSEWHERE)
    timer = threading.Timer(0.7, leave_lease, (on_disk, ELSEWHERE))
    timer.start()
    messages: list[str] = []
    with pytest.raises(JobError, match="process 4711 on gpu-3"), hold(on_disk, lease_s=60, tell=messages.append):
        pass
    assert "waiting up to 60 s" in messages[0]


def test_the_lease_of_a_silent_remote_owner_is_taken_over_when_it_expires(output: OutputFiles) -> None:
    leave_lease(output, ELSEWHERE, lease_s=1.0)
    start = time.monotonic()
    with hold(output, lease_s=60) as lease:
        assert 1.0 <= time.monotonic() - start < 1.0 + SOON_S
        lease.confirm()


def test_a_lease_that_expired_long_ago_is_taken_over_at_once(output: OutputFiles) -> None:
    leave_lease(output, ELSEWHERE, renewed=3600)
    start = time.monotonic()
    with hold(output, lease_s=60):
        assert time.monotonic() - start < SOON_S


def test_a_clock_that_is_wrong_by_hours_only_delays_the_takeover(on_disk: OutputFiles) -> None:
    leave_lease(on_disk, ELSEWHERE, lease_s=1.0, renewed=-7200)
    with hold(on_disk, lease_s=60) as lease:
        lease.confirm()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"token": 1}', b"\xff\xfe"], ids=repr)
def test_a_damaged_lease_has_no_owner(on_disk: OutputFiles, damage: bytes) -> None:
    on_disk.storage.write(on_disk.lease, damage)
    with hold(on_disk, lease_s=60) as lease:
        lease.confirm()


def test_a_lease_is_renewed_while_the_run_is_alive(on_disk: OutputFiles) -> None:
    def renewed() -> float:
        return float(json.loads(on_disk.storage.read(on_disk.lease))["renewed"])

    with hold(on_disk, lease_s=1.0):
        first, deadline = renewed(), time.monotonic() + 5
        while renewed() == first:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_run_that_lost_its_lease_may_not_write_and_keeps_the_new_lease(output: OutputFiles) -> None:
    with hold(output, lease_s=1.0) as lease:
        other = leave_lease(output, ELSEWHERE)
        with pytest.raises(JobError, match=r"no longer holds .*taken over by process 4711 on gpu-3"):
            lease.token.check()
        time.sleep(0.6)  # the renewal must not overwrite the new lease either
        assert token_of(output) == other.token
    assert token_of(output) == other.token


def test_a_removed_lease_file_is_a_lost_lease(on_disk: OutputFiles) -> None:
    with hold(on_disk, lease_s=60) as lease:
        on_disk.storage.remove(on_disk.lease)
        with pytest.raises(JobError, match="its lease was removed"):
            lease.token.check()


@pytest.fixture
def without_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without conditional uploads, which replaces existing files, as older S3-compatible ones do."""

    def create(self: Storage, uri: str, data: bytes) -> bool:
        self.write(uri, data)
        return True

    monkeypatch.setattr(Storage, "create", create)


@pytest.mark.usefixtures("without_conditions")
def test_without_conditional_uploads_all_runs_but_one_notice_before_they_write() -> None:
    output = OutputFiles(Storage(), f"memory://{uuid4().hex}/out")
    with ExitStack() as stack:
        leases = [stack.enter_context(hold(output, lease_s=60)) for _ in range(3)]
        lost = 0
        for lease in leases:
            try:
                lease.confirm()
            except JobError:
                lost += 1
        assert lost == 2
        leases[-1].confirm()


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
    with hold(on_disk, lease_s=60), pytest.raises(JobError, match=", job labels-1a2b, since"):
        lease_module._wait_until_expired(on_disk, None)
