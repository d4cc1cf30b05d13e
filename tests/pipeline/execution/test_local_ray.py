"""Ray's start is tried three times, and a failed try leaves no process behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import ray

from tirazh.errors import JobError
from tirazh.pipeline.execution import local_ray
from tirazh.pipeline.execution.local_ray import start_local

TIMED_OUT = Exception("The current node timed out during startup. This could happen because ...\nmore")


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Let the first tries of `ray.init` raise; returns the processes that each of them has left."""

    def prepare(*errors: Exception) -> list[int]:
        monkeypatch.setattr(local_ray, "_PAUSE_S", 0.0)
        monkeypatch.setattr(ray, "shutdown", lambda: None)
        left: list[int] = []
        waiting = list(errors)

        def init(**settings: object) -> None:
            if waiting:
                ray_file = str(Path(ray.__file__).parent / "raylet")
                command = [sys.executable, "-c", "import time; time.sleep(600)", ray_file]
                left.append(subprocess.Popen(command).pid)
                raise waiting.pop(0)

        monkeypatch.setattr(ray, "init", init)
        return left

    return prepare


def test_a_start_that_takes_too_long_is_tried_again(fail: Callable[..., list[int]]) -> None:
    left, told = fail(TIMED_OUT, TIMED_OUT), list[str]()
    start_local(2, {}, told.append)
    assert len(left) == len(told) == 2
    assert "trying again (2 of 3)" in told[0]
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in left)


def test_the_third_failure_is_one_sentence(fail: Callable[..., list[int]]) -> None:
    fail(TIMED_OUT, TIMED_OUT, TIMED_OUT)
    with pytest.raises(JobError, match=r"Ray could not be started on this machine \(3 tries\): The current") as caught:
        start_local(2, {}, None)
    assert "\n" not in str(caught.value)


def test_a_process_of_the_caller_is_left_alone(fail: Callable[..., list[int]]) -> None:
    own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        fail(TIMED_OUT)
        start_local(2, {}, None)
        assert own.poll() is None
    finally:
        own.kill()
        own.wait()
