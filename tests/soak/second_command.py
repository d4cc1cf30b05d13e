"""Faults that are commands: a second writer, one with a wrong clock, and the same command after it has failed."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.soak.cluster import kill
from tests.soak.fault import Fault, Heal
from tests.soak.job import HANG_S, Job, Life
from tests.soak.recorded import CLOCK_ERROR_S, ELSEWHERE
from tests.soak.world import World

# Seconds in which a second command must have been refused, and a command that has lost its output must have ended.
_REFUSED_S, _ENDED_S = 90.0, 60.0
# Another job: its columns have other names, its rows the same values.
_OTHER_JOB = {"prefix": "other_", "overwrite": True}
_ATTEMPTS = 3
_ENOUGH_ERRORS = 0.5


def start_second_writer(clock_error_s: float) -> Callable[[World, Job, Fault], Heal | None]:
    """Start the same job and another one with --overwrite, as on a machine whose clock is wrong.

    Both must be refused while the first command lives. Then it is killed, and the same job with the
    wrong clock takes over.
    """

    def inject(world: World, job: Job, fault: Fault) -> Heal | None:
        if job.is_over():
            return None
        moved = {CLOCK_ERROR_S: str(clock_error_s), ELSEWHERE: "1"}
        number = len(job.lives)
        same = job.start_other(f"same{number}", environment=moved)
        other = job.start_other(f"other{number}", environment=moved, **_OTHER_JOB)
        deadline = time.monotonic() + _REFUSED_S
        while not job.is_over() and time.monotonic() < deadline and not (_is_over(same) and _is_over(other)):
            time.sleep(0.02)
        was_over = job.is_over()
        for life in (same, other):
            if not was_over and not life.has_failed_as(1, "another run writes to"):
                job.flaws.append(f"a second command was not refused but ended with {life.describe()}")
            _end(life)
        if was_over or not kill(job.life.process.pid):
            return None
        job.moved = moved
        return _nothing

    return inject


def overwrite_meanwhile(world: World, job: Job, fault: Fault) -> Heal | None:
    """Cut the job off its storage, and overwrite its output by another job from another machine.

    When the storage is back, the first command must end with one sentence. The other job is then
    the one whose rows are compared.
    """
    proxy, server, first = world.proxy, world.server, job.life
    assert proxy is not None
    assert server is not None
    if job.is_over() or job.replaced:
        return None if job.is_over() else _nothing
    parts = job.written() or {}
    proxy.hits, proxy.mood = 0, "down"
    other = job.start_other(
        f"other{len(job.lives)}", environment={ELSEWHERE: "1"}, endpoint_url=server.endpoint_url, **_OTHER_JOB
    )

    def heal() -> None:
        proxy.mood = "well"
        if other.process.poll():  # it was refused: the first command has renewed its lease in time
            if not other.has_failed_as(1, "another run writes to"):
                job.flaws.append(f"a second command ended with {other.describe()}")
            return
        job.lives.append(other)
        job.flags |= _OTHER_JOB
        job.replaced = parts or {"": (0, 0)}
        _await_loss(job, first)

    return heal


def _await_loss(job: Job, first: Life) -> None:
    try:
        first.process.wait(_ENDED_S)
    except subprocess.TimeoutExpired:
        job.flaws.append(f"a command whose output was taken over still ran after {_ENDED_S:g} s")
        _end(first)
    first.ended = time.time()
    if first.process.returncode != -signal.SIGKILL and not first.has_failed_as(1):
        job.flaws.append(f"a command whose output was taken over ended with {first.describe()}")


def spend_budget(world: World, job: Job, fault: Fault) -> Heal | None:
    """Run a job with too many errors several times: it must fail every time. Then more errors are allowed."""
    for attempt in range(_ATTEMPTS):
        if attempt:
            job.start()
        try:
            job.life.process.wait(HANG_S)
        except subprocess.TimeoutExpired:
            job.flaws.append("a job with too many errors did not end")
            job.end()
        job.is_over()
        if not job.life.has_failed_as(1, "--max-error-rate"):
            job.flaws.append(f"attempt {attempt + 1} of a job with too many errors ended with {job.life.describe()}")
        if (Path(job.output) / "_SUCCESS").exists():
            job.flaws.append(f"_SUCCESS after attempt {attempt + 1} of a job with too many errors")
    job.flags["max-error-rate"] = _ENOUGH_ERRORS
    return _nothing


def _nothing() -> None:
    pass


def _is_over(life: Life) -> bool:
    return life.process.poll() is not None


def _end(life: Life) -> None:
    if not _is_over(life):
        kill(life.process.pid)
        life.process.wait()
