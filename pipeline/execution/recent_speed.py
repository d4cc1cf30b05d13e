"""The speed of a job over its last minutes, from which the remaining time follows.

The mean since the start would hold the start itself: the first estimate of a short job would be many times too long.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

# The window grows with the run, so that rows that are finished in bursts do not make the estimate jump.
_SHORTEST_S, _LONGEST_S, _SHARE_OF_RUN = 60.0, 600.0, 2
# Before this time with replicas nothing is said: the first rows come at once, or late.
_SETTLED_S = 3.0


@dataclass(frozen=True, slots=True)
class _Sample:
    at_s: float
    rows: int
    tokens: int


class RecentSpeed:
    """Rows and tokens per second over the last minutes. `add` takes the counts of this run, which never shrink."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()
        self.began_s: float | None = None
        """When the first replica served, in seconds; None before."""

    def add(self, at_s: float, *, rows: int, tokens: int, serves: bool) -> None:
        """Record the counts at a time in seconds. Nothing is recorded before the first replica serves."""
        if self.began_s is None:
            if not serves and not rows:
                return
            self.began_s = at_s
        self._samples.append(_Sample(at_s, rows, tokens))
        window_s = min(_LONGEST_S, max(_SHORTEST_S, (at_s - self.began_s) / _SHARE_OF_RUN))
        # The newest sample that is older than the window stays: the window reaches from it to now.
        while len(self._samples) > 2 and self._samples[1].at_s <= at_s - window_s:
            self._samples.popleft()

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens per second; None while too little is known."""
        passed_s = self._passed_s
        return (self._samples[-1].tokens - self._samples[0].tokens) / passed_s if passed_s >= _SETTLED_S else None

    def eta_s(self, rows_left: int) -> float | None:
        """Seconds until `rows_left` rows are answered at this speed; None while too little is known."""
        passed_s = self._passed_s
        if passed_s < _SETTLED_S:
            return None
        made = self._samples[-1].rows - self._samples[0].rows
        return rows_left * passed_s / made if made else None

    @property
    def _passed_s(self) -> float:
        return self._samples[-1].at_s - self._samples[0].at_s if self._samples else 0.0
