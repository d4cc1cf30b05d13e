"""The fence: no write without the lease, in no attempt, and a late write of a run that lost it is removed."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.output.lease_files import ELSEWHERE, enter, leave_lease, newest
from tirazh.errors import JobError, StorageError
from tirazh.pipeline.output.leases import fence
from tirazh.pipeline.output.leases.lease import Lease, LeaseToken
from tirazh.pipeline.output.leases.record import FormerHolder
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.storage.clock import CLOCK
from tirazh.pipeline.storage.filesystem import Storage

LEASE_S = 60.0


class FakeClock:
    """Time passes only when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(CLOCK, "monotonic", lambda: self.now)
        monkeypatch.setattr(CLOCK, "since_boot", lambda: self.now)
        monkeypatch.setattr(CLOCK, "sleep", self.advance)

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    return FakeClock(monkeypatch)


@pytest.fixture
def output(tmp_path: Path) -> OutputFiles:
    return OutputFiles(Storage(), str(tmp_path / "out"))


@pytest.fixture
def lease(output: OutputFiles, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lease]:
    """A held lease that is renewed only by the test."""
    monkeypatch.setattr(Lease, "_keep", lambda self: None)
    lease = enter(output, LEASE_S)
    lease.announce("own")
    yield lease
    fence.forget_renewals(lease.token.token)


def in_a_task(token: LeaseToken) -> LeaseToken:
    """The token as another process sees it, which does not renew the lease itself."""
    fence.forget_renewals(token.token)
    return pickle.loads(pickle.dumps(token))  # type: ignore[no-any-return]


def test_a_write_is_made_once_and_its_result_returned(lease: Lease) -> None:
    assert lease.token.guard(lambda: "done") == "done"


def test_a_write_is_tried_again_during_an_outage_and_the_lease_checked_each_time(
    lease: Lease, clock: FakeClock, output: OutputFiles
) -> None:
    """The outage that makes a sink retry is the one in which another machine takes over."""
    attempts = []

    def write() -> None:
        attempts.append(clock.now)
        if len(attempts) == 2:
            leave_lease(output, ELSEWHERE, epoch=2)
        raise StorageError("no answer")

    with pytest.raises(JobError, match="taken over by process 4711"):
        lease.token.guard(write)
    assert len(attempts) == 2


def test_nothing_is_written_after_the_lease_has_expired_until_it_is_renewed(lease: Lease, clock: FakeClock) -> None:
    """Whoever runs the check: the driver, a task on its machine, a task on another machine."""
    clock.advance(LEASE_S + 1)
    with pytest.raises(StorageError, match="last renewed 61 s ago and has expired after 60 s"):
        lease.token.check()
    assert lease.token.is_held  # nobody has taken it
    waited = clock.now

    def advance_and_renew(seconds: float) -> None:
        clock.now += seconds
        if clock.now - waited > 10:
            lease.renew()

    CLOCK.sleep = advance_and_renew  # type: ignore[method-assign]
    assert lease.token.guard(lambda: clock.now) > waited + 10


def test_a_task_on_the_machine_of_the_owner_reads_the_age_of_the_lease(lease: Lease, clock: FakeClock) -> None:
    token = in_a_task(lease.token)
    clock.advance(LEASE_S - 1)
    token.check()
    clock.advance(2)
    with pytest.raises(StorageError, match="has expired"):
        token.check()


def test_a_task_on_another_machine_counts_from_the_last_renewal_that_it_saw(
    lease: Lease, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clocks of two machines cannot be compared."""
    monkeypatch.setattr(fence, "clock_name", lambda: "the clock of another machine")
    token = in_a_task(lease.token)
    clock.advance(10 * LEASE_S)
    token.check()
    clock.advance(LEASE_S - 1)
    token.check()
    clock.advance(2)
    with pytest.raises(StorageError, match="has expired"):
        token.check()
    lease.renew()
    in_a_task(lease.token).check()


def write_slowly(output: OutputFiles, clock: FakeClock, successors: list[dict[str, Any]]) -> Any:
    """A write that starts under the lease and ends after `successors` took it."""

    def write() -> bool:
        clock.advance(10 * LEASE_S)
        for epoch, values in enumerate(successors, start=2):
            leave_lease(output, ELSEWHERE, epoch=epoch, **values)
        return output.storage.create(output.part("late"), b"x")

    return write


def former(epoch: int, plan_id: str | None) -> FormerHolder:
    return FormerHolder(epoch=epoch, plan_id=plan_id, may_write=False)


@pytest.mark.parametrize(
    ("successors", "is_removed"),
    [
        ([{"plan_id": "another"}], True),
        ([{"plan_id": "own"}], False),  # it may have counted this part as finished
        ([{"plan_id": None}], False),  # it may turn out to have this plan
        ([{"plan_id": "own"}, {"plan_id": "another", "former": (former(2, "own"),)}], False),
        ([{"plan_id": "b"}, {"plan_id": "c", "former": (former(1, "own"), former(2, "b"))}], True),
        ([{"plan_id": "b"}, {"plan_id": "c"}], False),  # what happened in between is not known
    ],
    ids=["another plan", "the same plan", "an unknown plan", "the same, then another", "two others", "a gap"],
)
def test_a_write_that_ends_after_the_lease_was_lost_is_removed_if_all_successors_have_other_plans(
    lease: Lease, output: OutputFiles, clock: FakeClock, successors: list[dict[str, Any]], is_removed: bool
) -> None:
    undo = lambda: output.storage.remove(output.part("late"))  # noqa: E731
    with pytest.raises(JobError, match="it has stopped writing"):
        lease.token.guard(write_slowly(output, clock, successors), undo=undo)
    assert ("late" in output.storage.names(output.directory)) is not is_removed


def test_a_file_that_existed_before_the_late_write_is_kept(lease: Lease, output: OutputFiles, clock: FakeClock) -> None:
    output.storage.write(output.part("late"), b"finished long ago")
    undo = lambda: output.storage.remove(output.part("late"))  # noqa: E731
    with pytest.raises(JobError):
        lease.token.guard(write_slowly(output, clock, [{"plan_id": "another"}]), undo=undo)
    assert output.storage.read(output.part("late")) == b"finished long ago"


def test_a_failure_to_remove_the_late_write_does_not_hide_the_loss(
    lease: Lease, output: OutputFiles, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    def undo() -> None:
        raise StorageError("no answer")

    with pytest.raises(JobError, match="it has stopped writing"):
        lease.token.guard(write_slowly(output, clock, [{"plan_id": "another"}]), undo=undo)
    assert "could not be removed: no answer" in caplog.text


def test_a_slow_write_under_a_lease_that_is_still_held_stays(
    lease: Lease, output: OutputFiles, clock: FakeClock
) -> None:
    undo = lambda: output.storage.remove(output.part("late"))  # noqa: E731
    assert lease.token.guard(write_slowly(output, clock, []), undo=undo) is True
    assert "late" in output.storage.names(output.directory)


def test_the_plan_is_in_the_record_and_in_the_token(lease: Lease, output: OutputFiles) -> None:
    assert newest(output).plan_id == lease.token.plan_id == "own"
    assert replace(lease.token, plan_id=None).plan_id is None
