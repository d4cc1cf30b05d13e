"""Raises the CPU priority of this thread and the processes that it starts, for as long as Ray starts.

On a machine with many busy processes an equal share of the CPU may be too little for Ray to start in time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)

_NICENESS = -15
# Linux may share the CPU among sessions first (`autogroup` in sched(7)); the niceness then counts inside a session.
_AUTOGROUP = Path("/proc/self/autogroup")
_PASSES = 3  # a thread may start another one while its process is looked at


@contextmanager
def raised_priority(new_processes: Callable[[], Iterable[psutil.Process]]) -> Iterator[None]:
    """Inside the block, this thread and what it starts run before other processes, where the system allows that.

    Linux allows it to root and with CAP_SYS_NICE. At the end this thread and `new_processes()` get the earlier
    priority. No priority is left raised if the block raises.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    if not _set(0, min(before, _NICENESS)):
        yield
        return
    session = _autogroup_niceness()
    if session is not None and session > _NICENESS:
        _set_autogroup(_NICENESS)
    try:
        yield
    finally:
        if session is not None:
            _set_autogroup(session)
        _set(0, before)
        for process in new_processes():
            _lower(process, before)


def _autogroup_niceness() -> int | None:
    """The niceness of this session among the sessions; None where the kernel has no such groups."""
    try:
        return int(_AUTOGROUP.read_text(encoding="utf-8").rpartition(" ")[2])
    except (OSError, ValueError):
        return None


def _set_autogroup(niceness: int) -> None:
    try:
        _AUTOGROUP.write_text(str(niceness), encoding="utf-8")
    except OSError:
        logger.debug("the priority of the session cannot be set to %d", niceness, exc_info=True)


def _lower(process: psutil.Process, niceness: int) -> None:
    """Linux keeps a priority for every thread, and new threads inherit it from the one that starts them."""
    for _ in range(_PASSES):
        raised = [thread for thread in _threads(process) if _niceness(thread, niceness) < niceness]
        if not raised:
            return
        for thread in raised:
            _set(thread, niceness)


def _threads(process: psutil.Process) -> list[int]:
    with suppress(psutil.Error):
        return [thread.id for thread in process.threads()]
    return []


def _niceness(thread: int, default: int) -> int:
    """The niceness of a thread; `default` for one that has ended."""
    try:
        return os.getpriority(os.PRIO_PROCESS, thread)
    except OSError:
        return default


def _set(thread: int, niceness: int) -> bool:
    try:
        os.setpriority(os.PRIO_PROCESS, thread, niceness)
    except OSError:
        logger.debug("the priority of thread %d cannot be set to %d", thread, niceness, exc_info=True)
        return False
    return True
