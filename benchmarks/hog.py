"""A busy process beside an engine, pinned to one core, and what it costs our engine: the experiment *busy*."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from benchmarks.experiment import Experiment
from benchmarks.goals import Goal
from benchmarks.model_under_test import ModelUnderTest
from benchmarks.peers.ours import Ours
from benchmarks.peers.peer import Setting, take_turn
from benchmarks.workloads import Workload

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
    under_test: ModelUnderTest, workload: Workload, *, dtype: str, slots: int, repeat: int = 3
) -> Experiment:
    """Run the workload by our dense engine `repeat` times quiet and `repeat` times beside a busy process, in turns."""
    ours, setting = Ours(dtype, "dense", slots=slots), {"slots": slots}
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(repeat):
        for is_busy in (False, True) if number % 2 == 0 else (True, False):
            seconds[is_busy].append(_seconds(ours, under_test, workload, setting, is_busy=is_busy))
    medians = {is_busy: statistics.median(values) for is_busy, values in seconds.items()}
    ratio = medians[False] / medians[True]
    rows = [
        (name, medians[is_busy], min(seconds[is_busy]), max(seconds[is_busy]), medians[False] / medians[is_busy])
        for is_busy, name in ((False, "quiet"), (True, "one core busy"))
    ]
    return Experiment(
        name="busy",
        how=(
            f"Dense, {dtype}: {len(workload.rows)} ragged rows, {repeat} times quiet and as often beside a process "
            f"that keeps one core busy, in turns, on a machine of {os.cpu_count()} cores."
        ),
        columns=("machine", "seconds", "fastest", "slowest", "of the quiet speed"),
        rows=rows,
        goals=[Goal(text="busy: of the own quiet speed", goal=0.45, measured=ratio)],
    )


def _seconds(ours: Ours, under_test: ModelUnderTest, workload: Workload, setting: Setting, *, is_busy: bool) -> float:
    with busy_core() if is_busy else nullcontext():
        return take_turn(ours, under_test, workload, setting).seconds
