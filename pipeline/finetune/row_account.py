"""Which rows of the training data cannot be used, for what reason, and which texts are cut.

The reasons are a few kinds, so that a count by reason stays short however many rows there are: messages hold values of
the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tirazh.errors import RowError

UNKNOWN_LABEL, NULL, EMPTY, TOO_LONG, DAMAGED, OTHER = (
    *("unknown label", "null", "empty", "too long", "damaged text", "other"),
)


class UnusableRow(RowError):
    """A row that cannot be used, and the kind of the reason."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(slots=True)
class SkippedRows:
    """The rows that are skipped for one reason: how many, and a sentence about the first of them."""

    rows: int
    first: str


@dataclass(slots=True)
class RowAccount:
    """Counts of the rows of one corpus. `cut_texts` rows have lost `cut_tokens` tokens of their texts."""

    rows: int = 0
    by_reason: dict[str, SkippedRows] = field(default_factory=dict)
    cut_texts: int = 0
    cut_tokens: int = 0

    @property
    def skipped(self) -> int:
        """The number of rows that cannot be used."""
        return sum(each.rows for each in self.by_reason.values())

    @property
    def first(self) -> str:
        """A sentence about the first row that cannot be used; an empty one without any."""
        return next(iter(self.by_reason.values())).first if self.by_reason else ""

    def skip(self, error: RowError, *, row: int, place: str) -> None:
        """Count a row that cannot be used; `row` is its number from 1, and `place` its file."""
        found = self.by_reason.setdefault(reason_of(error), SkippedRows(0, f"row {row} (in {place}): {error}"))
        found.rows += 1

    def cut(self, tokens: int) -> None:
        """Count a text that has lost so many tokens; 0 counts nothing."""
        self.cut_texts += tokens > 0
        self.cut_tokens += tokens

    def facts(self) -> dict[str, Any]:
        """Return the counts as JSON values, for the manifest."""
        reasons = {name: {"rows": each.rows, "first": each.first} for name, each in self.by_reason.items()}
        return {
            **{"rows": self.rows, "skipped": self.skipped, "skipped_reasons": reasons},
            **{"cut_texts": self.cut_texts, "cut_tokens": self.cut_tokens},
        }


def reason_of(error: RowError) -> str:
    """Return the kind of a row's error. The encoder of prompts raises plain ones, which are known by their text."""
    if isinstance(error, UnusableRow):
        return error.reason
    text = str(error)
    if text.endswith(" is null"):
        return NULL
    if text.endswith(" is empty"):
        return EMPTY
    is_too_long = "characters, too many for" in text or text.endswith(" fit")
    return TOO_LONG if is_too_long else OTHER


def skipped_text(facts: Mapping[str, Any]) -> str:
    """Return `29: unknown label 10, null 3, too long 16 (first: …)`; `0` without any."""
    reasons: Mapping[str, Any] = facts.get("skipped_reasons") or {}
    if not reasons:
        return f"{facts['skipped']:,}"
    counts = ", ".join(f"{name} {each['rows']:,}" for name, each in reasons.items())
    return f"{facts['skipped']:,}: {counts}; the first: {next(iter(reasons.values()))['first']}"


def cut_text(facts: Mapping[str, Any]) -> str | None:
    """Return `16 texts are too long and lose 4,802 tokens`; None without any."""
    texts, tokens = facts.get("cut_texts", 0), facts.get("cut_tokens", 0)
    if not texts:
        return None
    return f"{_count(texts, 'text')} {'is' if texts == 1 else 'are'} too long: {_count(tokens, 'token')} cut off"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def tell_of_rows(counts: Mapping[str, Any], tell: Callable[[str], None], *, of: str = "") -> None:
    """Say which rows are skipped or cut; `of` names the flag of their files, if it is not --input."""
    place = f"{of}: " if of else ""
    if counts["skipped"]:
        tell(f"{place}Rows that cannot be used are skipped: {skipped_text(counts)}")
    cut = cut_text(counts)
    if cut is not None:
        tell(f"{place}{cut} (a longer --seq-length keeps more)")
