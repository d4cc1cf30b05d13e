"""Durations as people write them: `30d`, `26h`, `90m`."""

from __future__ import annotations

import re

from tirazh.errors import RequestError

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)([smhdw])")


def parse_duration(text: str, *, flag: str) -> float:
    """Return the seconds of `26h` or `30d`. Raises RequestError for anything else."""
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise RequestError(f"{flag} must be a duration such as 26h, 30d or 4w, not {text!r}")
    return float(match[1]) * _UNITS[match[2]]


def age_text(seconds: float) -> str:
    """`45 s`, `12 min`, `5.2 h` or `31.0 d`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7_200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"
