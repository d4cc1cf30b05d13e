"""How long a successor waits before it removes files of other plans for the last time."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from tests.pipeline.output.lease_files import DEAD, enter, kill, leave_lease
from tirazh.pipeline.output.leases.lease import hold
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.storage.clock import CLOCK
from tirazh.pipeline.storage.filesystem import Storage


@pytest.fixture
def on_disk(tmp_path: Path) -> OutputFiles:
    return OutputFiles(Storage(), str(tmp_path / "out"))


class Slept:
    """Counts the seconds of `CLOCK.sleep` instead of waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr(CLOCK, "sleep", self.add)

    def add(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> Slept:
    return Slept(monkeypatch)


@pytest.mark.parametrize(
    ("former_plan", "waits"),
    [("another", True), ("own", False), (None, False)],
    ids=["another plan", "the same plan", "it had announced none, so it had written nothing"],
)
def test_a_successor_waits_for_late_writes_of_another_plan(
    former_plan: str | None, waits: bool, on_disk: OutputFiles, slept: Slept
) -> None:
    leave_lease(on_disk, DEAD, plan_id=former_plan, lease_s=40.0)
    messages: list[str] = []
    with hold(on_disk, lease_s=30.0, tell=messages.append) as lease:
        lease.announce("own")
        lease.settle()
        assert slept.seconds == pytest.approx(40.0 if waits else 0.0, abs=5.0)
        assert len(messages) == waits
        slept.seconds = 0.0
        lease.settle()
        assert slept.seconds == 0 or not waits


def test_a_run_that_ended_well_is_not_waited_for_and_an_interrupted_one_is(on_disk: OutputFiles, slept: Slept) -> None:
    with hold(on_disk, lease_s=60) as lease:
        lease.announce("another")
    with hold(on_disk, lease_s=60) as lease:
        lease.announce("own")
        lease.settle()
        assert slept.seconds == 0
    with suppress(KeyboardInterrupt), hold(on_disk, lease_s=60) as lease:
        lease.announce("another")
        raise KeyboardInterrupt
    with hold(on_disk, lease_s=60) as lease:
        lease.announce("own")
        lease.settle()
        assert slept.seconds == pytest.approx(60, abs=5)


def test_late_writes_of_the_holder_before_the_last_one_are_waited_for_too(on_disk: OutputFiles, slept: Slept) -> None:
    """A (another plan) is taken over by B (own plan), which is killed at once and followed by C (own plan)."""
    for plan, settles in (("another", False), ("own", False), ("own", True)):
        lease = enter(on_disk)
        lease.announce(plan)
        if settles:
            lease.settle()
            assert slept.seconds == pytest.approx(60, abs=5)
        kill(on_disk, lease)
    slept.seconds = 0.0
    with hold(on_disk, lease_s=60) as last:  # nothing is left to wait for
        last.announce("own")
        last.settle()
        assert slept.seconds == 0


def test_a_successor_waits_if_the_record_of_the_former_holder_cannot_be_read(on_disk: OutputFiles) -> None:
    on_disk.storage.write(on_disk.lease_file(1), b"{")
    with hold(on_disk, lease_s=0.3) as lease:
        lease.announce("own")
        assert [holder.may_write for holder in lease._record.former] == [True]
        lease.settle()
        assert [holder.may_write for holder in lease._record.former] == [False]
