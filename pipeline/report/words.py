"""How a page writes numbers, shares, times and the names of figures, so that people can read them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

_SPACE = "\N{NO-BREAK SPACE}"
_NAMES = {
    "prompt_tokens": "Prompt tokens",
    "completion_tokens": "Completion tokens",
    "estimated_tokens": "Estimated tokens",
    "tokens_per_s": "Tokens per second",
    "num_parts": "Parts",
    "resumed_parts": "Parts of earlier runs",
    "replica_deaths": "Replicas that died",
    "macro_f1": "Macro-F1",
    "mean_confidence": "Mean confidence",
    "dtype": "Number format",
    "plan_id": "Plan",
    "model_fingerprint": "Fingerprint of the model",
    "input_rows": "Rows of the input",
    "stop": "complete",
    "length": "cut at the limit of tokens",
}
# They turn the direction of the text behind them (Unicode Standard Annex 9).
_TURNS = "\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_BYTE_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def name_text(key: str) -> str:
    """The name of a figure for people: `prompt_tokens` becomes "Prompt tokens"."""
    return _NAMES.get(key) or key.replace("_", " ").capitalize()


def end_text(reason: str) -> str:
    """How a completion ended, for people."""
    return _NAMES.get(reason, reason)


def share_text(count: int, total: int) -> str:
    """A share as a percentage, or the count itself if the share is very small."""
    share = count / total if total else 0.0
    if count and share < 0.001:
        return f"{count:,}"
    return percent_text(share) if share >= 0.1 else f"{100 * share:.1f}{_SPACE}%"


def percent_text(share: float) -> str:
    """A share as a whole percentage; one that is neither 0 nor 1 is never shown as 0 % or 100 %."""
    percent = round(100 * share)
    percent = min(percent, 99) if share < 1 else percent
    return f"{max(percent, 1) if share > 0 else percent}{_SPACE}%"


def rounded_shares(counts: Sequence[int], total: int) -> list[str]:
    """The shares of `counts` in percent with one digit. They add up to 100.0 if the counts add up to `total`.

    The digits that rounding down leaves go to the largest remainders.
    """
    if total <= 0:
        return [f"0.0{_SPACE}%"] * len(counts)
    exact = [1000 * count / total for count in counts]
    tenths = [math.floor(value) for value in exact]
    left = round(sum(exact)) - sum(tenths)
    for index in sorted(range(len(counts)), key=lambda each: tenths[each] - exact[each])[:left]:
        tenths[index] += 1
    return [f"{value // 10}.{value % 10}{_SPACE}%" for value in tenths]


def number_text(value: Any) -> str:
    """A number with thousands separators; other values as they are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:,.4g}"


def rate_text(value: float) -> str:
    """A number per second."""
    return f"{value:,.0f}" if value >= 10 else f"{value:,.1f}"


def duration_text(seconds: float) -> str:
    """`12 s`, `3 min 20 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 1:
        return f"less than 1{_SPACE}s"
    if whole < 60:
        return f"{whole}{_SPACE}s"
    minutes, left = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min" + (f" {left}{_SPACE}s" if left else "")
    hours, minutes = divmod(round(whole / 60), 60)
    return f"{hours:,}{_SPACE}h" + (f" {minutes}{_SPACE}min" if minutes else "")


def bytes_text(count: float) -> str:
    """A size with its unit."""
    unit = 0
    while count >= 1024 and unit < len(_BYTE_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return (
        f"{count:,.0f}{_SPACE}{_BYTE_UNITS[unit]}"
        if unit == 0 or count >= 100
        else (f"{count:,.1f}{_SPACE}{_BYTE_UNITS[unit]}")
    )


def moment_of(text: Any) -> datetime | None:
    """The time of an ISO text in UTC, or None if it is none."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def date_text(moment: datetime) -> str:
    """`23 November 2026, 01:30 UTC`."""
    return f"{moment.day}{_SPACE}{moment:%B} {moment.year}, {moment:%H:%M}{_SPACE}UTC"


def period_text(begin: datetime | None, end: datetime | None) -> str:
    """From one time to another; the day is written once if it is the same."""
    if begin is None or end is None:
        known = begin or end
        return date_text(known) if known is not None else ""
    if f"{begin:%Y%m%d%H%M}" == f"{end:%Y%m%d%H%M}":
        return date_text(end)
    if begin.date() != end.date():
        return f"{date_text(begin)} to {date_text(end)}"
    return f"{begin.day}{_SPACE}{begin:%B} {begin.year}, {begin:%H:%M} to {end:%H:%M}{_SPACE}UTC"


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 row`, `2 rows`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def clip(value: Any, most: int) -> str:
    """The value as one text of at most `most` characters that can stand on a page.

    Control characters, and those that turn the direction of the text behind them, are replaced.
    """
    texts: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    text = "\n".join("" if each is None else str(each)[: most + 1] for each in texts[: most + 1])
    text = "".join(sign if sign.isprintable() else _shown(sign) for sign in text)
    return text if len(text) <= most else text[:most].rstrip() + "…"


def _shown(sign: str) -> str:
    """What stands for a character that Python does not print; spaces of all kinds and joiners are texts, too."""
    if sign in "\n\t":
        return "\n" if sign == "\n" else " "
    category = unicodedata.category(sign)
    is_text = category in ("Zs", "Zl", "Zp") or (category == "Cf" and sign not in _TURNS)
    return sign if is_text else "\ufffd"
