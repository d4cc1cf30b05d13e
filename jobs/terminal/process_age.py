"""How long this process has run: the time that a person waits holds the start of Python and all imports."""

from __future__ import annotations

import os
import time
from pathlib import Path

_START_FIELD = 19  # of /proc/self/stat, counted behind the name of the program


def process_start() -> float:
    """The value of `time.monotonic()` at which this process started; the current one where that is unknown."""
    now = time.monotonic()
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[_START_FIELD]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):  # not Linux
        return now
    return now - max(0.0, age_s)
