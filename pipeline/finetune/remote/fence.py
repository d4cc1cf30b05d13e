"""The fence of the workers of a training whose output is in an object store.

They write to a directory on a disk alone, which no other machine reads, and the driver uploads from it under the lease.
So they need not ask the store before every line of the log: a few seconds' old answer will do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tirazh.pipeline.output.leases.fence import LeaseToken
from tirazh.pipeline.storage.clock import CLOCK

T = TypeVar("T")

_MOST_S = 5.0
# Token → when this process last found that the lease is held.
_held: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class OccasionalFence:
    """Checks the lease of `token` when the last check is older than an eighth of its time, at most 5 s."""

    token: LeaseToken

    def guard(self, action: Callable[[], T], *, undo: Callable[[], None] | None = None) -> T:
        """As `LeaseToken.guard`; raises JobError when another run has taken over."""
        now = CLOCK.since_boot()
        if now - _held.get(self.token.token, -_MOST_S * 2) < min(_MOST_S, self.token.lease_s / 8):
            return action()
        done = self.token.guard(action, undo=undo)
        _held[self.token.token] = now
        return done
