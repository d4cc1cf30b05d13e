"""One fault of a plan, as the seed determines it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Heal = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a plan.

    It is injected `delay_s` after `after_parts` further parts were written (`None`: after the start
    of the command). An outage lasts `for_s` seconds. `target` in [0, 1) selects one of the possible
    processes.
    """

    kind: str
    after_parts: int | None
    delay_s: float
    for_s: float
    target: float
