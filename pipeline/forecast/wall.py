"""The time at which the command began that runs a job: its wall time holds imports and the start of Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_began: ContextVar[float | None] = ContextVar("the time at which the command began", default=None)


@contextmanager
def counting_wall_from(began: float | None) -> Iterator[None]:
    """Inside the block, wall times count from `began`, a time of `time.monotonic()`; None: from now."""
    token = _began.set(time.monotonic() if began is None else began)
    try:
        yield
    finally:
        _began.reset(token)


def wall_s() -> float | None:
    """Seconds since the command began; None where that is not known."""
    began = _began.get()
    return None if began is None else time.monotonic() - began
