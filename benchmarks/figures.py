"""Turn measured times into figures: times and rates of the whole workload, and shares of what the machine allows."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.ceilings import Ceiling
from benchmarks.limits import forwards_flops, least_work, work_of_rows
from benchmarks.model_under_test import WIDTHS, Mode, Shape
from benchmarks.peers.ours import Ours
from benchmarks.peers.peer import Peer
from benchmarks.rounds import Turn
from benchmarks.workloads import Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One engine on one workload.

    `role`: "variant" is a modified version of our engine, for comparison. `seconds` has one value per round, for the
    rows that ran, which may be a sample. `work` is the minimum work of those rows and `work_whole` that of all rows:
    floating-point operations of a model with these `layers`, or rows where labels are scored. `amount_whole` counts
    the `unit` in all rows: new tokens, or rows. `shares_of_limit` has one value per round: the least time that the
    machine allows for the same rows, divided by `seconds`, at the ceiling of `ceiling_dtype` measured around that
    round. A peer that failed has no seconds.
    """

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
    work: float
    work_whole: float
    amount_whole: int
    unit: str
    seconds: list[float]
    shares_of_limit: list[float]
    ceiling_dtype: str
    failure: str | None

    @property
    def is_ours(self) -> bool:
        return self.role == "ours"

    @property
    def whole_seconds(self) -> list[float]:
        """Seconds of the whole workload, one value per round.

        A sample's seconds are scaled by the work, because its rows may be longer or shorter than the others.
        """
        scale = self.work_whole / self.work
        return [seconds * scale for seconds in self.seconds]

    @property
    def whole_time(self) -> float:
        """Median of `whole_seconds`; infinite for a peer that failed."""
        return statistics.median(self.whole_seconds) if self.seconds else math.inf

    @property
    def rates(self) -> list[float]:
        """Rate on the whole workload in `unit`, one value per round."""
        return [self.amount_whole / seconds for seconds in self.whole_seconds]

    @property
    def rate(self) -> float:
        return self.amount_whole / self.whole_time

    @property
    def share_of_limit(self) -> float:
        return statistics.median(self.shares_of_limit) if self.shares_of_limit else 0.0

    def times_as_fast_as(self, other: Figure) -> float:
        """Return the ratio of the times that both take for the whole workload."""
        return other.whole_time / self.whole_time

    def to_dict(self) -> dict[str, Any]:
        rates = self.rates
        summary = {"min": min(rates), "median": self.rate, "max": max(rates)} if rates else None
        derived = {"whole_seconds": self.whole_seconds, "share_of_limit": self.share_of_limit}
        return asdict(self) | derived | {"rates": rates, "rates_summary": summary}


def figure_of(turn: Turn, shape: Shape, *, slots: int) -> Figure:
    """Build the figure of a turn. `slots` sequences share what a decode step reads."""
    peer, run = turn.peer, turn.workload
    limits = [limit_seconds(run, shape, peer.mode, c, slots=slots, dtype=peer.dtype) for c in turn.ceilings]
    return Figure(
        workload=run.name,
        peer=peer.name,
        family=peer.family,
        dtype=peer.dtype,
        layers=peer.mode,
        role=_role_of(peer),
        version=peer.version(),
        setting=dict(turn.setting),
        num_rows=len(run.rows),
        num_rows_whole=len(turn.whole.rows),
        work=work_of_rows(run, shape, peer.mode),
        work_whole=work_of_rows(turn.whole, shape, peer.mode),
        amount_whole=len(turn.whole.rows) if run.kind == "labels" else turn.whole.num_new,
        unit="rows/s" if run.kind == "labels" else "tokens/s",
        seconds=turn.seconds,
        shares_of_limit=[limit / seconds for limit, seconds in zip(limits, turn.seconds, strict=True)],
        ceiling_dtype=turn.ceilings[0].dtype if turn.ceilings else peer.dtype,
        failure=turn.failure,
    )


def _role_of(peer: Peer) -> Literal["ours", "variant", "peer"]:
    """Our engine in 8 bits rounds more than the peers do, so the goals are not about it."""
    if not isinstance(peer, Ours):
        return "peer"
    return "ours" if type(peer) is Ours and peer.dtype != "int8" else "variant"


def limit_seconds(workload: Workload, shape: Shape, mode: Mode, ceiling: Ceiling, *, slots: int, dtype: str) -> float:
    """Return the shortest time that the formulas of `limits.py` allow for these rows."""
    work = least_work(workload, shape, mode, slots=slots, element_size=WIDTHS[dtype])
    return work.seconds(ceiling)


def allowed_label_ratio(workload: Workload, shape: Shape) -> float:
    """Return how many times less arithmetic the best label scoring needs than one forward per label."""
    least = least_work(workload, shape, "dense", slots=1, element_size=4).prefill_flops
    return forwards_flops(workload, shape, "dense") / least
