"""Ends the owners of replicas that have fallen silent, so that Ray starts them again. Used by `build.py`.

A rank that is stuck is its owner's business (`actors/watch.py`). An owner that is stuck itself, a process that was
stopped or a machine that hangs, would never give its parts back: Ray notices only processes that end.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

logger = logging.getLogger(__name__)

_MOST_EVERY_S = 5.0
_ASK_TIMEOUT_S = 5.0


@contextmanager
def watching_owners(metrics: Any, *, timeout_s: float) -> Iterator[None]:
    """While the block runs, end every owner that gave no sign of life for `timeout_s`; in the end whoever is left: a
    process that was stopped does not hear that its work is done."""
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(metrics, timeout_s, done), name="tirazh-owners", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(_ASK_TIMEOUT_S)
        for actor in _silent(metrics, 0.0):
            _end(actor, no_restart=True)


def _watch(metrics: Any, timeout_s: float, done: threading.Event) -> None:
    while not done.wait(min(_MOST_EVERY_S, timeout_s / 4)):
        for actor in _silent(metrics, timeout_s):
            logger.error("a process that holds a replica gave no sign of life for %g s; it is replaced", timeout_s)
            _end(actor, no_restart=False)


def _silent(metrics: Any, timeout_s: float) -> list[Any]:
    """Handles of owners that were not heard of for so long; none when nobody can say."""
    try:
        return list(ray.get(metrics.take_silent.remote(timeout_s), timeout=_ASK_TIMEOUT_S))
    except (RayError, GetTimeoutError):
        return []


def _end(actor: Any, *, no_restart: bool) -> None:
    with contextlib.suppress(RayError, ValueError):  # it has gone by itself
        ray.kill(actor, no_restart=no_restart)
