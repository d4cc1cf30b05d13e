"""Checks of `accepted`, which counts the rows of every cell that pass the filters."""

from __future__ import annotations

from typing import Any

from tirazh.errors import RequestError
from tirazh.pipeline.settings import check_at_least

MOST = 1_000_000


def check_accepted(accepted: int | None, max_attempts: int, *, vary: Any, others: dict[str, bool]) -> None:
    """Raise RequestError for numbers out of range, and for settings with which attempts cannot be counted.

    `others` names flags, and whether each was given.
    """
    check_at_least("max_attempts", max_attempts, 1, 1_000)
    if accepted is None:
        return
    check_at_least("accepted", accepted, 1, MOST)
    if vary is None:
        raise RequestError("--accepted counts rows of every combination of --vary, which is missing")
    for flag, is_given in others.items():
        if is_given:
            raise RequestError(f"--accepted and {flag} are not used together; remove {flag}")
