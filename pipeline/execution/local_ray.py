"""Starts Ray on this machine, and tries again when it does not start in time.

Ray 2.60 gives its own processes 30 s, which is too short on a machine that is busy (`start_timeout`).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray

from tirazh.errors import JobError
from tirazh.pipeline.execution.few_processes import few_processes
from tirazh.pipeline.execution.home_directory import complete_environment
from tirazh.pipeline.execution.start_priority import raised_priority
from tirazh.pipeline.execution.start_timeout import start_timeout
from tirazh.pipeline.execution.temporary_files import ray_directories
from tirazh.pipeline.execution.worker_imports import job_config, safe_search_path

logger = logging.getLogger(__name__)

# The seconds of each try. The later ones have a raised priority where the system allows that, else more time.
_TIMEOUTS_S = (45, 120, 240)
_TRIES = len(_TIMEOUTS_S)
# No try begins later than this after the first one.
_LAST_TRY_S = 300.0
_PAUSE_S = 1.0
_KILL_TIMEOUT_S = 10.0
_BUSY = "; the machine is probably busy: run the same command again when it is less so"
_RAY_FILES = str(Path(ray.__file__).parent)


def start_local(num_cpus: int, options: dict[str, Any], tell: Callable[[str], None] | None) -> Callable[[], None]:
    """Start Ray with `num_cpus` CPUs. Returns a function that stops it.

    Raises RequestError if there is no directory for Ray's files, JobError after three tries. Linux ends Ray's
    processes together with the thread that has started them, so a thread that may end sooner than Ray does not start
    it itself.
    """
    complete_environment(os.environ)
    options = options | ray_directories(tell)
    if threading.current_thread() is threading.main_thread():
        _start_with_retries(num_cpus, options, tell)
        return _stop
    starter = _Starter(lambda: _start_with_retries(num_cpus, options, tell))
    starter.wait_until_started()
    return starter.stop


def _stop() -> None:
    ray.shutdown()


class _Starter:
    """A thread that starts Ray and lives until Ray is stopped."""

    def __init__(self, start: Callable[[], None]) -> None:
        self._start = start
        self._has_started, self._may_end = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="tirazh-ray", daemon=True).start()

    def wait_until_started(self) -> None:
        self._has_started.wait()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        try:
            ray.shutdown()
        finally:
            self._may_end.set()

    def _run(self) -> None:
        try:
            self._start()
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            self._error = error
            self._may_end.set()
        self._has_started.set()
        self._may_end.wait()


def _start_with_retries(num_cpus: int, options: dict[str, Any], tell: Callable[[str], None] | None) -> None:
    first = time.monotonic()
    for number in range(1, _TRIES + 1):
        before = _children()
        try:
            # Only after a start that was too slow: it is not for a job to run before others.
            quickly = raised_priority(partial(_started_since, before)) if number > 1 else nullcontext()
            with start_timeout(_TIMEOUTS_S[number - 1]), quickly, _private_token(), safe_search_path(), few_processes():
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    include_dashboard=False,
                    job_config=job_config(),
                    **options,
                )
            return
        except BaseException as error:
            _clean_up(before)
            if not _is_failed_start(error):
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            if number == _TRIES or isinstance(error, ValueError) or time.monotonic() - first > _LAST_TRY_S:
                tries = f" ({number} tries)" if number > 1 else ""
                hint = _BUSY if "timed out" in reason else ""
                raise JobError(f"Ray could not be started on this machine{tries}: {reason}{hint}") from error
        sentence = f"Ray did not start in {time.monotonic() - first:.0f} s; trying again ({number + 1} of {_TRIES})"
        logger.warning("%s: %s", sentence, reason)
        if tell is not None:
            tell(sentence)
        time.sleep(_PAUSE_S)


def _is_failed_start(error: BaseException) -> bool:
    """Ray 2.60 raises a bare Exception if its node does not start in time."""
    return type(error) is Exception or isinstance(error, OSError | RuntimeError | ValueError)


def _clean_up(before: set[int]) -> None:
    """End what a failed start has left: Ray forgets the processes of a node that did not start in time."""
    with suppress(Exception):
        ray.shutdown()
    left = _started_since(before)
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=_KILL_TIMEOUT_S)


def _started_since(before: set[int]) -> list[psutil.Process]:
    """Ray's processes on this machine that are children of this process and not in `before`."""
    children = psutil.Process(os.getpid()).children(recursive=True)
    return [process for process in children if process.pid not in before and _is_ray(process)]


def _children() -> set[int]:
    return {process.pid for process in psutil.Process(os.getpid()).children(recursive=True)}


def _is_ray(process: Any) -> bool:
    """Whether a process is one of Ray's: another thread of the caller may have started others meanwhile."""
    with suppress(psutil.Error):
        words = process.cmdline()
        return any(word.startswith(_RAY_FILES) for word in words) or words[:1] == ["ray::IDLE"]
    return False


@contextmanager
def _private_token() -> Iterator[None]:
    """Restrict Ray's token file to this user.

    Ray 2.60 protects the processes that it starts with a token (unless RAY_AUTH_MODE disables it), but
    creates the token file readable for all users of the machine.
    """
    token = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):
        token.parent.mkdir(mode=0o700, exist_ok=True)
    yield
    with suppress(OSError):
        if token.stat().st_mode & 0o077:
            token.chmod(0o600)
