"""Ray starts with a raised priority where the system allows it, and no process keeps that priority."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from tirazh.pipeline.execution.start_priority import raised_priority

THREADS = """
import threading, time
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
print("started", flush=True)
time.sleep(600)
"""


@pytest.fixture
def children() -> Iterator[list[psutil.Process]]:
    started: list[psutil.Process] = []
    yield started
    for process in started:
        process.kill()


def start() -> psutil.Process:
    """A process with two threads, both of which have started."""
    process = psutil.Popen([sys.executable, "-c", THREADS], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"started\n"
    return process


def niceness_of(process: psutil.Process) -> set[int]:
    return {os.getpriority(os.PRIO_PROCESS, thread.id) for thread in process.threads()}


def can_raise() -> bool:
    try:
        os.setpriority(os.PRIO_PROCESS, 0, before := os.getpriority(os.PRIO_PROCESS, 0) - 1)
        os.setpriority(os.PRIO_PROCESS, 0, before + 1)
    except OSError:
        return False
    return True


@pytest.mark.skipif(not can_raise(), reason="this user may not raise a priority")
@pytest.mark.parametrize("fails", [False, True])
def test_processes_that_start_in_the_block_run_first_and_are_lowered_at_its_end(
    children: list[psutil.Process], fails: bool
) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        with raised_priority(lambda: children):
            children.append(start())
            assert niceness_of(children[0]) == {-15}
            assert not fails
    except AssertionError:
        assert fails
    assert niceness_of(children[0]) == {before}
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_without_the_right_to_raise_a_priority_nothing_changes(
    children: list[psutil.Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    before = os.getpriority(os.PRIO_PROCESS, 0)
    monkeypatch.setattr(os, "setpriority", refuse)
    with raised_priority(lambda: children):
        children.append(start())
    assert niceness_of(children[0]) == {before}
