"""A run that ends in order: no part begins any more, and those in work are written, for a limited time."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from tirazh.pipeline.execution import draining
from tirazh.pipeline.execution.draining import drain, drainable
from tirazh.pipeline.execution.metrics import Metrics


@dataclass
class Client:
    """The metrics actor, without Ray. Each call finishes one part in work."""

    metrics: Metrics = field(default_factory=Metrics)

    def drain(self) -> int:
        in_work = self.metrics.drain()
        if in_work:
            self.metrics.part_finished("owner", in_work - 1)
        return in_work


@dataclass
class Progress:
    rows_written: int = 0


@pytest.fixture(autouse=True)
def is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "_POLL_S", 0.0)
    monkeypatch.setattr(draining, "_WRITE_S", 0.0)


def test_a_part_that_has_not_begun_does_not_begin_while_the_run_drains() -> None:
    metrics = Metrics()
    assert metrics.part_started("owner", 0)
    assert metrics.drain() == 1
    assert not metrics.part_started("owner", 1)
    metrics.part_finished("owner", 0)
    assert metrics.drain() == 0


def test_draining_ends_when_nothing_is_in_work() -> None:
    client: Any = Client()
    progress: Any = Progress()
    for part in range(3):
        client.metrics.part_started("owner", part)
    with drainable(client, progress):
        drain()
    assert client.metrics.drain() == 0
    drain()  # no run: returns at once


def test_draining_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    client: Any = Client()
    progress: Any = Progress()
    monkeypatch.setattr(client, "drain", lambda: 1)
    began = time.monotonic()
    with drainable(client, progress):
        drain(limit_s=0.05)
    assert time.monotonic() - began >= 0.05
