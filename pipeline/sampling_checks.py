"""Checks of the sampling settings that are given as texts: logit bias and bad words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tirazh.errors import RequestError
from tirazh.model.requests import MAX_BIAS

MAX_TEXTS = 1_000  # of each setting: every row looks at all of them


def check_logit_bias(value: Any) -> None:
    """Raise RequestError unless the setting is None or maps texts to finite numbers."""
    if value is None:
        return
    if not isinstance(value, Mapping) or not value or not all(isinstance(text, str) and text for text in value):
        raise RequestError("--logit-bias must map texts to numbers, such as '{\" yes\": 5}'; put numbers in quotes")
    for text, number in value.items():
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if not is_number or not math.isfinite(number) or abs(number) > MAX_BIAS:
            raise RequestError(
                f"--logit-bias must give {text!r} a number between {-MAX_BIAS:g} and {MAX_BIAS:g}, not {number!r}"
            )
    _check_count("--logit-bias", len(value))


def check_bad_words(words: Sequence[str]) -> None:
    """Raise RequestError for empty texts, and for too many of them."""
    if any(not word.strip(" ") for word in words):
        raise RequestError("--bad-words must not contain an empty text or spaces alone")
    _check_count("--bad-words", len(words))


def _check_count(flag: str, count: int) -> None:
    if count > MAX_TEXTS:
        raise RequestError(f"{flag} has {count} texts; at most {MAX_TEXTS} are allowed")
