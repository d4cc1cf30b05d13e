"""Kills the owners of replicas that send no heartbeats, so that Ray restarts them.

An owner notices a rank that hangs (`actors/watch.py`). If the owner itself hangs, because its process
was stopped or its machine does not respond, it would never return its parts: Ray notices only processes
that end.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from tirazh.pipeline.execution.metrics_client import MetricsClient

logger = logging.getLogger(__name__)

_MAX_POLL_INTERVAL_S = 5.0
_JOIN_TIMEOUT_S = 5.0
# On a machine without free CPU time heartbeats are late. A silence ten times as long as any before is
# waited for, up to this many timeouts.
_MAX_TIMEOUTS = 10


@contextmanager
def watching_owners(metrics: MetricsClient, *, timeout_s: float) -> Iterator[None]:
    """Inside the block, kill every owner without a heartbeat for `timeout_s`, or longer where they were late before.

    At its end kill all owners that are left: a stopped process does not notice that its work is done.
    """
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(metrics, timeout_s, done), name="tirazh-owners", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(_JOIN_TIMEOUT_S)
        for actor in metrics.take_silent_owners(0.0):
            _kill(actor, no_restart=True)


def _watch(metrics: MetricsClient, timeout_s: float, done: threading.Event) -> None:
    while not done.wait(min(_MAX_POLL_INTERVAL_S, timeout_s / 4)):
        for actor in metrics.take_silent_owners(timeout_s, _MAX_TIMEOUTS * timeout_s):
            logger.error(
                "a replica's process sent no heartbeat for at least %g s (--rank-timeout-s) and is restarted", timeout_s
            )
            # Ray restarts the actor and submits its parts again.
            _kill(actor, no_restart=False)


def _kill(actor: ActorHandle, *, no_restart: bool) -> None:
    with contextlib.suppress(RayError, ValueError):  # it has already ended
        ray.kill(actor, no_restart=no_restart)
