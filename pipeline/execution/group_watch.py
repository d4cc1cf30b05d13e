"""Tells the user for which resources a run waits: its placement groups that Ray cannot reserve."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import placement_group_table

from tirazh.actors.placement import amounts, group_prefix

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]
_WAITING = ("PENDING", "PREPARED", "RESCHEDULING")
_POLL_S = 5.0
_JOIN_TIMEOUT_S = 2.0


@contextmanager
def telling_of_waits(run_id: str, tell: Tell | None, *, after_s: float = 15.0, every_s: float = 60.0) -> Iterator[None]:
    """Inside the block, say what the run has waited for when that takes `after_s`, then every `every_s`."""
    done = threading.Event()
    watch = _Watch(group_prefix(run_id), tell, after_s, every_s)
    thread = threading.Thread(target=watch.run, args=(done,), name="tirazh-waits", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(_JOIN_TIMEOUT_S)


class _Watch:
    """The thread that looks. `_since` has when each group that still waits was first seen."""

    def __init__(self, prefix: str, tell: Tell | None, after_s: float, every_s: float) -> None:
        self._prefix, self._tell = prefix, tell
        self._after_s, self._every_s = after_s, every_s
        self._since: dict[str, float] = {}
        self._next = 0.0

    def run(self, done: threading.Event) -> None:
        while not done.wait(min(_POLL_S, self._after_s)):
            try:
                groups = [row for row in placement_group_table().values() if row["name"].startswith(self._prefix)]
                self._look(groups, time.monotonic())
            except (RayError, ConnectionError, RuntimeError):
                logger.debug("Ray does not say which placement groups wait", exc_info=True)

    def _look(self, groups: list[Mapping[str, Any]], now: float) -> None:
        waiting = [group for group in groups if group["state"] in _WAITING]
        self._since = {group["name"]: self._since.get(group["name"], now) for group in waiting}
        late = [group for group in waiting if now - self._since[group["name"]] >= self._after_s]
        if not late or now < self._next:
            return
        self._next = now + self._every_s
        waited_s = now - min(self._since[group["name"]] for group in late)
        sentence = wait_sentence(late, waited_s, ray.available_resources(), ray.cluster_resources())
        logger.warning(sentence)
        if self._tell is not None:
            self._tell(sentence)


def wait_sentence(
    groups: list[Mapping[str, Any]], waited_s: float, free: Mapping[str, float], total: Mapping[str, float]
) -> str:
    """Say how many replicas wait, for what and for how long, and what is free in the cluster."""
    needed = _needed(groups[0])
    who = "a replica waits" if len(groups) == 1 else f"{len(groups)} replicas wait"
    each = "" if len(groups) == 1 else " each"
    has = " and ".join(f"{free.get(name, 0):g} of {total.get(name, 0):g} {name}" for name in needed)
    return f"{who} for {amounts(needed)}{each}, for {waited_s:.0f} s so far; free in the cluster: {has}"


def _needed(group: Mapping[str, Any]) -> dict[str, float]:
    needed: Counter[str] = Counter()
    for bundle in group["bundles"].values():
        needed.update(bundle)
    return {name: amount for name, amount in needed.items() if name in ("CPU", "GPU")}
