"""Runs one job with its faults, restarts its command whenever it has ended, and checks the output in the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.soak.cluster import is_there, kill
from tests.soak.comparison import Comparison, accept_errors, compare
from tests.soak.faults import KINDS, Fault, Heal
from tests.soak.job import ENDINGS, Job, Life
from tests.soak.world import World

# Seconds that the driver may take to end after a signal.
_END_S = 30.0
_POLL_S = 0.05
_INSPECT_INTERVAL_S = {"bucket": 0.5}
_INSPECT_DISK_INTERVAL_S = 0.1
_MAX_LIVES_WITHOUT_PART = 6


@dataclass(slots=True)
class Outcome:
    """The result of one fault.

    `recovery_s`: seconds from the fault (of an outage: from its end) to the next part file or the
    end of the job, and for a stopped process also until that process has ended. When the command
    was ended, `unfinished` parts were partly answered, and `unwritten` parts were answered
    completely but not written; a resumed run makes both again.
    """

    fault: Fault
    job: str
    recovery_s: float = 0.0
    resumed: bool = False
    stuck: bool = False
    unfinished: int | None = None
    unwritten: int | None = None


@dataclass(slots=True)
class JobReport:
    """One job with all its faults. `flaws` are sentences; none means success.

    `falsely_killed`: replicas that died although no fault of the job kills any.
    """

    job: Job
    outcomes: list[Outcome] = field(default_factory=list)
    left: list[Fault] = field(default_factory=list)
    comparison: Comparison | None = None
    flaws: list[str] = field(default_factory=list)
    falsely_killed: int = 0
    seconds: float = 0.0


class Driver:
    """One job from its first start to the comparison of its rows."""

    def __init__(self, world: World, job: Job, faults: list[Fault], say: Callable[[str], None]) -> None:
        self.world = world
        self.job = job
        self.report = JobReport(job, left=list(faults))
        self._say = say
        self._lives_without_part = 0
        self._parts_at_start = 0
        self._known: dict[str, tuple[int, int]] = {}
        self._last_progress = self._last_inspection = time.monotonic()

    def run(self) -> JobReport:
        began = time.monotonic()
        self._start()
        try:
            while self.report.left and self._is_alive():
                self._hit(self.report.left[0])
            self._finish()
            self._check()
        except (RuntimeError, OSError) as error:  # the table reports it, and the other jobs continue
            self.report.flaws.append(f"{type(error).__name__}: {error}")
            self.report.left.clear()
        finally:
            self._take_flaws()
            self.job.end()
            self.report.seconds = time.monotonic() - began
        return self.report

    def _hit(self, fault: Fault) -> None:
        """Wait for the time of the fault, inject it, and wait until the job continues."""
        heal = self._wait_and_inject(fault)
        if heal is None:
            return
        self.report.left.pop(0)
        outcome = Outcome(fault, self.job.name)
        self.report.outcomes.append(outcome)
        kind, since, parts = KINDS[fault.kind], time.monotonic(), len(self._known)
        self._say(f"{self.job.name}: {fault.kind} at {parts} of {self.job.parts} parts")
        if kind.ends_command:
            self._await_ending(fault, outcome)
        elif kind.is_outage:
            time.sleep(fault.for_s)
            if fault.kind == "disk: full" and fault.target < 0.3:
                self._restart_while_broken(outcome)
            heal()
            since = self._last_progress = time.monotonic()
        self._recover(outcome, since)

    def _wait_and_inject(self, fault: Fault) -> Heal | None:
        base, kind = len(self._known), KINDS[fault.kind]
        if fault.after_parts is None:
            self._sleep(self.job.life.began + fault.delay_s - time.time())
        else:
            while len(self._known) < min(base + fault.after_parts, self.job.parts - 1) and self._is_alive():
                time.sleep(_POLL_S)
            self._sleep(fault.delay_s)
        while self._is_alive():
            heal = kind.inject(self.world, self.job, fault)
            if heal is not None:
                return heal
            time.sleep(_POLL_S)
        return None

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._is_alive():
            time.sleep(_POLL_S)

    def _await_ending(self, fault: Fault, outcome: Outcome) -> None:
        """Wait for the end of the command, check it, and resume the job."""
        try:
            self.job.life.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.report.flaws.append(f"{fault.kind}: the driver still ran after {_END_S:g} s")
            self._dump("still running after a signal")
            self.job.end()
        self.job.is_over()
        ended = self.job.life
        self._check_ending(ended, by_signal=fault.kind)
        written = {_index(name) for name in self._inspect_output()}
        started, answered = self.job.parts_started(ended)
        outcome.unfinished, outcome.unwritten = len(started - answered - written), len(answered - written)
        if outcome.unfinished > self.job.replicas * self.job.in_flight:
            self.report.flaws.append(
                f"{fault.kind}: {self.job.replicas} replicas had {outcome.unfinished} parts started"
            )
        if outcome.unfinished + outcome.unwritten > self.job.under_way:
            self.report.flaws.append(
                f"{fault.kind}: {outcome.unfinished} parts started and {outcome.unwritten} answered, none of them "
                f"written; {self.job.under_way} are under way at most"
            )
        self._resume(outcome)

    def _restart_while_broken(self, outcome: Outcome) -> None:
        """End the command and start it again while the disk is full: it must end with one sentence within seconds."""
        kill(self.job.life.process.pid, signal.SIGTERM)
        try:
            self.job.life.process.wait(_END_S)
            self.job.is_over()
            self._check_ending(self.job.life)
            self._start()
            code = self.job.life.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.report.flaws.append("disk: full: the command neither failed nor ended on a full disk")
            return
        self.job.is_over()
        said = self.job.life.said()
        if code != 1 or len(said) != 1 or "full" not in said[0]:
            self.report.flaws.append(f"disk: full: started on a full disk it ended with {code}: {' | '.join(said)}")

    def _recover(self, outcome: Outcome, since: float) -> None:
        """Wait for the next part or the end of the job; resume the job whenever its command ends."""
        parts = len(self._known)
        while len(self._known) <= parts or any(is_there(pid) for pid in self.job.stopped):
            if not self._is_alive():
                if self.job.life.process.returncode == 0:
                    break
                self._resume(outcome)
            time.sleep(_POLL_S)
        outcome.recovery_s = time.monotonic() - since
        self._say(f"{self.job.name}: {outcome.recovery_s:.1f} s later at {len(self._known)} parts")

    def _finish(self) -> None:
        """Wait for the end of the job; resume the job whenever its command ends."""
        outcome = self.report.outcomes[-1] if self.report.outcomes else None
        while self._is_alive() or self.job.life.process.returncode != 0:
            if self.job.is_over():
                self._resume(outcome)
            time.sleep(_POLL_S)

    def _is_alive(self) -> bool:
        """Whether the command runs.

        Records its parts and how it ended, and ends it when it is stuck.
        """
        noted = self.job.life.ended is not None
        over = self.job.is_over()
        interval_s = _INSPECT_INTERVAL_S.get(self.job.place, _INSPECT_DISK_INTERVAL_S)
        if over or time.monotonic() - self._last_inspection > interval_s:
            self._inspect_output()
        if over and not noted:
            self._check_ending(self.job.life)
        if not over and time.monotonic() - self._last_progress > self.job.hang_s:
            self._end_hang()
            return False
        return not over

    def _inspect_output(self) -> dict[str, tuple[int, int]]:
        written, self._last_inspection = self.job.written(), time.monotonic()
        if written is not None:
            if len(written) > len(self._known):
                self._last_progress = time.monotonic()
            if len(written) < len(self._known) and not self.job.replaced:
                self.report.flaws.append(f"{sorted(set(self._known) - set(written))} vanished")
            self._known = written
        return self._known

    def _check_ending(self, life: Life, *, by_signal: str = "") -> None:
        """Check for a documented exit code and one sentence."""
        code = life.process.returncode
        if by_signal and KINDS[by_signal].kills_command and code in (-signal.SIGKILL, 0):
            return
        if code not in ENDINGS or (code != 0 and not life.has_failed_as(code)):
            self.report.flaws.append(f"ended with {life.describe()}")
        elif code:
            self._say(f"{self.job.name}: exit code {code}, {life.said()[0]!r}")

    def _start(self) -> None:
        self._parts_at_start = len(self._known)
        self._last_progress = time.monotonic()
        self.job.start()

    def _resume(self, outcome: Outcome | None) -> None:
        if self.job.life.process.returncode == 0:
            return
        if outcome is not None:
            outcome.resumed = True
        gained = len(self._known) > self._parts_at_start
        self._lives_without_part = 0 if gained else self._lives_without_part + 1
        if self._lives_without_part > _MAX_LIVES_WITHOUT_PART:
            raise RuntimeError(f"{self.job.name} ended {self._lives_without_part} times without a part")
        self._start()

    def _end_hang(self) -> None:
        self._dump("no progress")
        self.report.flaws.append(f"stuck: no part and no end for {self.job.hang_s:g} s; see {self._stacks}")
        if self.report.outcomes:
            self.report.outcomes[-1].stuck = True
        self.job.end()

    @property
    def _stacks(self) -> Path:
        return Path(tempfile.gettempdir()) / f"soak-{os.getpid()}-{self.job.name}.stacks"

    def _dump(self, why: str) -> None:
        """Write the stacks of the driver and of all workers to a file, for debugging."""
        with self._stacks.open("a") as file:
            file.write(f"== {why}\n")
            if shutil.which("py-spy") is None:
                file.write("py-spy is not installed\n")
                return
            pids = [(self.job.life.process.pid, "driver")]
            pids += [(worker.pid, worker.title) for worker in self.world.cluster.workers()]
            for pid, title in pids:
                done = subprocess.run(
                    ["py-spy", "dump", "--pid", str(pid)], capture_output=True, text=True, timeout=20, check=False
                )
                file.write(f"-- {title} {pid}\n{done.stdout}{done.stderr}\n")

    def _check(self) -> None:
        code, said = self.job.verify()
        if code != 0:
            self.report.flaws.append(f"verify: {said}")
        self._take_flaws()
        self._compare()
        if not self.report.flaws:
            self.job.remove_output()
        left = self.job.left_behind() if self.job.has_own_ray else self.world.cluster.wait_until_free()
        if left:
            self.report.flaws.append(f"left behind: {left}")

    def _take_flaws(self) -> None:
        """Report what the faults found while they were injected."""
        self.report.flaws += self.job.flaws
        self.job.flaws.clear()

    def _compare(self) -> None:
        expected, rows = self.world.undisturbed[self.job.tensor_parallel], self.job.read_rows()
        if self.job.place == "budget":
            rows = accept_errors(rows, expected)
        found = replace(compare(rows, expected, self.job.rows), mixed=self.job.count_mixed())
        self.report.comparison = found
        if (found.found, found.duplicates, found.lost, found.different, found.mixed) != (found.expected, 0, 0, 0, 0):
            self.report.flaws.append(f"rows: {found}")
        if not any(KINDS[outcome.fault.kind].kills_replica for outcome in self.report.outcomes):
            self.report.falsely_killed = self.job.engines_too_many()
        if self.report.falsely_killed:
            self.report.flaws.append(f"{self.report.falsely_killed} replicas died, which no fault has killed")


def _index(name: str) -> int:
    return int(name.split("-")[1])
