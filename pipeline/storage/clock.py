"""The clocks that waits and leases use. Tests replace them.

None of them is the wall clock, which may be wrong and may be set while a job runs.
"""

from __future__ import annotations

import time


class Clock:
    """Time in seconds since some fixed moment of this boot, and waiting."""

    def monotonic(self) -> float:
        """Time that stands still while the machine is suspended: for how long something was watched."""
        return time.monotonic()

    def since_boot(self) -> float:
        """Time that includes suspension, where the system counts it: for how old something is."""
        boottime = getattr(time, "CLOCK_BOOTTIME", None)
        return time.monotonic() if boottime is None else time.clock_gettime(boottime)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


CLOCK = Clock()
