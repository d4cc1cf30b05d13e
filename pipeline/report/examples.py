"""What a plan and a report say about the few-shot examples of a classify job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MAX_LABELS = 20


def examples_text(summary: Mapping[str, Any]) -> str:
    """The examples in one line, from `FewShot.summary()`."""
    if summary.get("selection") == "nearest":
        return f"for each row the {summary['examples_per_row']} nearest of {summary['examples']:,}"
    labels = summary["examples_per_label"]
    by_question = labels if any(isinstance(counts, Mapping) for counts in labels.values()) else {"": labels}
    counted = "; ".join(
        (f"{question}: " if question else "") + _counts(counts) for question, counts in by_question.items()
    )
    orders = f" in each of {summary['orders']} orders" if summary["orders"] > 1 else ""
    left = summary["examples"] - len(summary["rows"])
    rows = ", ".join(map(str, summary["rows"])) + (f" and {left:,} more" if left else "")
    return f"{summary['examples']:,} ({counted}), {summary['tokens']:,} tokens{orders}; rows {rows} of the file"


def _counts(counts: Mapping[str, int]) -> str:
    shown = ", ".join(f"{label} {count}" for label, count in list(counts.items())[:_MAX_LABELS])
    return shown if len(counts) <= _MAX_LABELS else f"{shown} and {len(counts) - _MAX_LABELS} more labels"
