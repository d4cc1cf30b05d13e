"""Counts the pieces of work that a rank finishes, and measures the slowest one.

The watcher of a replica reads both (`watch.py`). Knows neither Ray nor torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class ProgressCounter:
    """`count` grows with every piece of work that is finished: a layer of the model, a step, an idle
    round.

    `slowest_s` is the longest time in seconds that one piece took since the last `restart`. One
    thread calls the methods; any thread may read the fields. `phase` is what the start of the rank
    waits for, such as "loading the model".
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives the time in seconds; it must never go back."""
        self.count = 0
        self.slowest_s = 0.0
        self.phase = "the replica's processes"
        self._clock = clock
        self._since = clock()

    def restart(self) -> None:
        """Forget how long pieces took so far, and begin one now."""
        self.slowest_s = 0.0
        self.begin()

    def begin(self) -> None:
        """A piece of work begins now; the time since the last one was spent waiting for work."""
        self._since = self._clock()

    def beat(self) -> None:
        """A piece of work is finished, and the next one begins."""
        now = self._clock()
        self.slowest_s = max(self.slowest_s, now - self._since)
        self._since = now
        self.count += 1
