"""An experiment beside the workloads: one table and its goals. Each experiment has a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.goals import Goal


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """`how` says in a few sentences what was measured; `rows` have a value for every column."""

    name: str
    how: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str | int | float, ...]]
    goals: Sequence[Goal] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"goals": [goal.to_dict() for goal in self.goals]}
