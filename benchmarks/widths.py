"""Compare our engine with the others by the width of numbers: float32, two bytes (bfloat16, float16), int8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.figures import Figure
from benchmarks.model_under_test import WIDTHS


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Our dense engine at one dtype, and the fastest peer at this width or a wider one; None where there is none."""

    workload: str
    dtype: str
    ours: Figure | None
    peer: Figure | None

    @property
    def ratio(self) -> float | None:
        """How many times as fast ours is."""
        return self.ours.times_as_fast_as(self.peer) if self.ours and self.peer else None


def pairs_of(figures: Sequence[Figure]) -> list[Pair]:
    """Return a pair for every workload and width of numbers that ran, the widest numbers first."""
    dense = [figure for figure in figures if figure.layers == "dense" and figure.seconds and figure.role != "variant"]
    pairs = []
    for workload in dict.fromkeys(figure.workload for figure in dense):
        ran = [figure for figure in dense if figure.workload == workload]
        for width in sorted({WIDTHS[figure.dtype] for figure in ran}, reverse=True):
            ours = fastest([f for f in ran if f.is_ours and WIDTHS[f.dtype] == width])
            peer = best_peer(ran, width)
            if ours is not None or (peer is not None and WIDTHS[peer.dtype] == width):
                shown = ours or peer
                assert shown is not None
                pairs.append(Pair(workload=workload, dtype=shown.dtype, ours=ours, peer=peer))
    return pairs


def best_peer(figures: Sequence[Figure], width: int) -> Figure | None:
    """Return the fastest peer on the dense model whose numbers have at least `width` bytes."""
    return fastest([f for f in figures if f.role == "peer" and f.layers == "dense" and WIDTHS[f.dtype] >= width])


def fastest(figures: Sequence[Figure]) -> Figure | None:
    return min((figure for figure in figures if figure.seconds), key=lambda figure: figure.whole_time, default=None)
