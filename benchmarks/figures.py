"""Turns become figures: rates with their spread, and each as a share of what the machine allows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.ceilings import Ceiling
from benchmarks.limits import forwards_flops, least_work
from benchmarks.model_under_test import WIDTHS, Mode, Shape
from benchmarks.peers.ours import Ours
from benchmarks.rounds import Turn
from benchmarks.workloads import Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """`role`: "variant" is our engine made otherwise, for comparison. `rates` are per second, one a round: new tokens,
    or rows where labels are scored. `share_of_limit` compares the median with the least work of the same rows at the
    ceiling of `ceiling_dtype`. A peer that failed has no rates."""

    workload: str
    peer: str
    family: str
    dtype: str
    layers: Mode
    role: Literal["ours", "variant", "peer"]
    version: str
    setting: dict[str, Any]
    num_rows: int
    num_rows_whole: int
    unit: str
    seconds: list[float]
    rates: list[float]
    share_of_limit: float
    ceiling_dtype: str
    failure: str | None

    @property
    def is_ours(self) -> bool:
        return self.role == "ours"

    @property
    def rate(self) -> float:
        return statistics.median(self.rates) if self.rates else 0.0

    def to_dict(self) -> dict[str, Any]:
        rates = {"min": min(self.rates), "median": self.rate, "max": max(self.rates)} if self.rates else None
        return asdict(self) | {"rates_summary": rates}


def figure_of(turn: Turn, shape: Shape, ceilings: Mapping[str, Ceiling], *, slots: int) -> Figure:
    """`ceilings` by dtype; a dtype without one (int8) is held against float32's."""
    peer, run = turn.peer, turn.workload
    ceiling = ceilings.get(peer.dtype) or ceilings["float32"]
    limit = limit_seconds(run, shape, peer.mode, ceiling, slots=slots, dtype=peer.dtype)
    amount = len(run.rows) if run.kind == "labels" else run.num_new
    return Figure(
        workload=run.name,
        peer=peer.name,
        family=peer.family,
        dtype=peer.dtype,
        layers=peer.mode,
        role="ours" if type(peer) is Ours else "variant" if isinstance(peer, Ours) else "peer",
        version=peer.version(),
        setting=dict(turn.setting),
        num_rows=len(run.rows),
        num_rows_whole=len(turn.whole.rows),
        unit="rows/s" if run.kind == "labels" else "tokens/s",
        seconds=turn.seconds,
        rates=[amount / seconds for seconds in turn.seconds],
        share_of_limit=limit / statistics.median(turn.seconds) if turn.seconds else 0.0,
        ceiling_dtype=ceiling.dtype,
        failure=turn.failure,
    )


def limit_seconds(workload: Workload, shape: Shape, mode: Mode, ceiling: Ceiling, *, slots: int, dtype: str) -> float:
    """Shortest time that the formulas of `limits.py` allow for these rows."""
    work = least_work(workload, shape, mode, slots=slots, element_size=WIDTHS[dtype])
    return work.seconds(ceiling)


def allowed_label_ratio(workload: Workload, shape: Shape) -> float:
    """How many times less arithmetic the best way of scoring labels needs than a forward per label."""
    least = least_work(workload, shape, "dense", slots=1, element_size=4).prefill_flops
    return forwards_flops(workload, shape, "dense") / least
