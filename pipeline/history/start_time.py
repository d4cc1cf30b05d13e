"""When a run began: with its process, if the process is that of one command, else with the call."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

# The start of the process on the clock of `time.monotonic`, until the first run of the process has taken it.
_process_start: list[float] = []


@dataclass(frozen=True, slots=True)
class StartTime:
    """The begin of a run: `begin` in UTC, and the same moment on the clock of `time.monotonic`."""

    begin: datetime
    monotonic: float

    @property
    def seconds(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self.monotonic


def count_from_process_start() -> None:
    """Let the first run of this process begin with the process: imports and the start of Ray count."""
    _process_start[:] = [process_start()]


def take_start() -> StartTime:
    """The begin of the run that starts now; that of the process for the first run after `count_from_process_start`."""
    now = time.monotonic()
    monotonic = _process_start.pop() if _process_start else now
    return StartTime(datetime.now(UTC) - timedelta(seconds=now - monotonic), monotonic)


def utc_text(moment: datetime) -> str:
    """A moment as the history stores it: `2026-11-23T01:30:00.250Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_utc(text: str) -> datetime:
    """Parse `utc_text`. Raises ValueError."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def process_start() -> float:
    """The value of `time.monotonic()` at which this process started; the current one where that is unknown."""
    return time.monotonic() - _process_age()


def _process_age() -> float:
    """Seconds since this process started, 0 where the system does not tell."""
    try:
        if sys.platform == "linux":
            # The fields after the command name: the start, in clock ticks since boot, is the 20th.
            fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
            return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
        import psutil

        return max(0.0, time.time() - psutil.Process().create_time())
    except (OSError, ValueError, IndexError):
        return 0.0
