"""The fence of the workers of a training whose output is in an object store.

They write to a directory on a disk alone, and the driver uploads from it under the lease. So they need not ask the
store before every line of the log, and continue while it does not answer: no other run can take the output over
meanwhile. A training that was taken over ends within seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tirazh.errors import StorageError
from tirazh.pipeline.output.leases.fence import LeaseToken
from tirazh.pipeline.storage.clock import CLOCK

T = TypeVar("T")

# Seconds after which the store is asked again, and after which where it did not answer.
_AGAIN_S, _SILENT_S = 5.0, 30.0
# Token → from when on this process asks again.
_next: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class OccasionalFence:
    """Asks now and then whether `token` is still that of the holder."""

    token: LeaseToken

    def guard(self, action: Callable[[], T], *, undo: Callable[[], None] | None = None) -> T:
        """Perform a write to the disk. Raises JobError when another run has taken over."""
        if CLOCK.since_boot() >= _next.get(self.token.token, 0.0):
            wait_s = min(_AGAIN_S, self.token.lease_s / 8)
            try:
                self.token.check_owner()
            except StorageError:
                wait_s = _SILENT_S
            _next[self.token.token] = CLOCK.since_boot() + wait_s
        return action()
