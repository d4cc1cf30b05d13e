"""A busy process beside an engine, pinned to one core, and what it costs each engine: the experiment *busy*."""

from __future__ import annotations

import logging
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from benchmarks.experiment import Experiment
from benchmarks.goals import Goal
from benchmarks.model_under_test import WIDTHS, ModelUnderTest
from benchmarks.peers.ours import Ours
from benchmarks.peers.peer import Peer, Setting, take_turn
from benchmarks.workloads import Workload

log = logging.getLogger("benchmarks")

_LOOP = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {int(sys.argv[1])})
print("busy", flush=True)
while os.getppid() == int(sys.argv[2]):
    for _ in range(1_000_000):
        pass
"""


@contextmanager
def busy_core() -> Iterator[int]:
    """Keep the first core that this process may use busy while the block runs; yields its number.

    The other process ends with the block, or with this process.
    """
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    hog = subprocess.Popen([sys.executable, "-c", _LOOP, str(core), str(os.getpid())], stdout=subprocess.PIPE)
    try:
        assert hog.stdout is not None
        hog.stdout.readline()  # it is running
        yield core
    finally:
        hog.kill()
        hog.communicate()


def measure_busy(
    under_test: ModelUnderTest, workload: Workload, peers: Sequence[Peer], *, repeat: int = 3
) -> Experiment:
    """Run the workload by every peer `repeat` times quiet and `repeat` times beside a busy process, in turns.

    The first peer is our engine. A peer that fails is left out with a line.
    """
    races = [_Race(peer, peer.settings(workload)[0]) for peer in peers]
    for number in range(repeat):
        for race in races if number % 2 == 0 else reversed(races):
            for is_busy in (False, True) if number % 2 == 0 else (True, False):
                race.run(under_test, workload, is_busy=is_busy)
    ours, *others = races
    rows = [_row(race, ours) for race in races if race.is_complete]
    failed = "".join(f" {race.peer.name} failed: {race.failure}." for race in races if race.failure)
    return Experiment(
        name="busy",
        how=(
            f"{ours.peer.name}: {len(workload.rows)} {workload.name} rows, {repeat} times quiet and as often beside a "
            f"process that keeps one core busy, in turns, on a machine of {os.cpu_count()} cores. Medians.{failed}"
        ),
        columns=("engine", "seconds, quiet", "one core busy", "of its quiet speed", "tirazh is … times as fast, busy"),
        rows=rows,
        goals=[
            Goal(text="busy: of the own quiet speed", goal=0.45, measured=ours.kept),
            *_over_the_best(ours, [race for race in others if race.is_complete]),
        ],
    )


def _row(race: _Race, ours: _Race) -> tuple[str | float, ...]:
    return (race.peer.name, race.median(False), race.median(True), race.kept, race.median(True) / ours.median(True))


def _over_the_best(ours: _Race, others: Sequence[_Race]) -> list[Goal]:
    """Return the goal against the fastest peer whose numbers are as wide as ours or wider."""
    seconds = [race.median(True) for race in others if WIDTHS[race.peer.dtype] >= WIDTHS[ours.peer.dtype]]
    if not seconds:
        return []
    ratio = min(seconds) / ours.median(True)
    return [Goal(text="busy: over the best peer of equal or wider dtype", goal=1.25, measured=ratio)]


@dataclass(slots=True)
class _Race:
    """A peer's seconds, quiet (False) and beside the busy process (True)."""

    peer: Peer
    setting: Setting
    seconds: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    failure: str | None = None

    def run(self, under_test: ModelUnderTest, workload: Workload, *, is_busy: bool) -> None:
        """Run a turn; only a failure of our own engine is raised."""
        if self.failure is not None:
            return
        try:
            self.seconds[is_busy].append(_seconds(self.peer, under_test, workload, self.setting, is_busy=is_busy))
        except Exception as error:
            if isinstance(self.peer, Ours):
                raise
            self.failure = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        state = "one core busy" if is_busy else "quiet"
        log.info("busy, %s, %s: %s", self.peer.name, state, self.failure or f"{self.seconds[is_busy][-1]:.1f} s")

    @property
    def is_complete(self) -> bool:
        return self.failure is None and all(self.seconds.values())

    def median(self, is_busy: bool) -> float:
        return statistics.median(self.seconds[is_busy])

    @property
    def kept(self) -> float:
        """The share of the quiet speed that is left beside the busy process."""
        return self.median(False) / self.median(True)


def _seconds(peer: Peer, under_test: ModelUnderTest, workload: Workload, setting: Setting, *, is_busy: bool) -> float:
    with busy_core() if is_busy else nullcontext():
        return take_turn(peer, under_test, workload, setting).seconds
