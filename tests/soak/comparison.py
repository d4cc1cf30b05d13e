"""Compares the rows of a job's output with those of a run without faults."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.soak.world import BROKEN_EVERY


@dataclass(frozen=True, slots=True)
class Comparison:
    """The output compared with that of a run without faults."""

    expected: int
    found: int
    duplicates: int
    lost: int
    different: int
    mixed: int = 0


def compare(found: list[dict[str, Any]], expected: dict[str, dict[str, Any]], rows: int) -> Comparison:
    """Count duplicate, lost and different rows; another order counts as a difference."""
    wanted = sorted(expected)[:rows]
    counts = Counter(str(row["id"]) for row in found)
    in_order = [str(row["id"]) for row in found] == wanted
    different = sum(row != expected.get(str(row["id"])) for row in found)
    return Comparison(
        expected=rows,
        found=len(found),
        duplicates=sum(count - 1 for count in counts.values()),
        lost=sum(name not in counts for name in wanted),
        different=different + (not in_order and not different and len(found) == rows),
    )


def accept_errors(found: list[dict[str, Any]], expected: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Replace the rows whose prompt is null by the expected ones, if they have an error and no completion."""
    accepted = []
    for row in found:
        number = int(str(row["id"]).removeprefix("row-"))
        is_right = number % BROKEN_EVERY == 0 and row["error"] is not None and row["completion"] is None
        accepted.append(expected[str(row["id"])] if is_right else row)
    return accepted


def plan_of(metadata: Mapping[bytes, bytes]) -> str:
    """Return the plan that a part's footer names: its id, or the fingerprint of older versions."""
    for value in metadata.values():
        with contextlib.suppress(ValueError):
            footer = json.loads(value)
            if isinstance(footer, dict) and "part" in footer:
                return str(footer.get("plan_id") or footer.get("fingerprint"))
    return ""
