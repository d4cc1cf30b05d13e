"""How wrong the forecast of a run was, for its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def judge_forecast(forecast: Mapping[str, Any], *, tokens: int) -> dict[str, Any]:
    """Return the forecast with what came of it.

    `forecast` has `time_s` ([low, high] in seconds), `tokens` and `source`, where the run made one, and `wall_s`, the
    seconds that the command took. `tokens` are those that were counted. Added are `inside`, whether the time was inside
    the interval, and `token_error`, the relative error of the tokens (0.04: 4 % too many). A value that is unknown is
    None.
    """
    time_s, expected, wall_s = (forecast.get(name) for name in ("time_s", "tokens", "wall_s"))
    return {
        "time_s": time_s,
        "tokens": expected,
        "source": forecast.get("source"),
        "wall_s": None if wall_s is None else round(wall_s, 1),
        "inside": None if time_s is None or wall_s is None else bool(time_s[0] <= wall_s <= time_s[1]),
        "token_error": None if expected is None or not tokens else round(expected / tokens - 1, 4),
    }
