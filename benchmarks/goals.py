"""The performance goals, each a sentence with a number, compared with the figures of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.figures import Figure
from benchmarks.model_under_test import WIDTHS
from benchmarks.peers.foreign.peer import OpenVino
from benchmarks.peers.ours_trimmed import OursTrimmed
from benchmarks.peers.ours_unshared import OursUnshared
from benchmarks.widths import best_peer

_PREFIX_CACHES = ("transformers with its prefix cache", "labels as a trie, transformers' cache for the prefix")


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """A goal is met when `measured` reaches `goal`; `measured` is None where the run has no figure for it."""

    text: str
    goal: float
    measured: float | None

    @property
    def is_met(self) -> bool | None:
        return None if self.measured is None else self.measured >= self.goal

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"is_met": self.is_met}


def goals_of(figures: Sequence[Figure], *, allowed_label_ratio: float | None, is_on_gpu: bool = False) -> list[Goal]:
    """Return the goals of the workloads that ran, about our dense model at its best dtype unless they say otherwise."""
    goals: list[Goal] = []
    for name, over_generate, over_peer in (("ragged", 4.0, 1.25), ("uniform", 2.5, 1.2)):
        of = _Ratios([figure for figure in figures if figure.workload == name and figure.seconds])
        if of.figures:
            goals += _generation_goals(name, of, over_generate, over_peer)
    of = _Ratios([figure for figure in figures if figure.workload == "small" and figure.seconds])
    if of.figures:
        goals.append(_over_best_peer("small", of, 1.2))
    of = _Ratios([figure for figure in figures if figure.workload == "labels" and figure.seconds])
    if of.figures:
        goals += _label_goals(of, allowed_label_ratio)
        ours = of.best_of_ours("dense")
        if is_on_gpu and ours is not None:
            goals.append(Goal(text="labels: share of the limit", goal=0.8, measured=ours.share_of_limit))
    of = _Ratios([figure for figure in figures if figure.workload == "long" and figure.seconds])
    if of.figures:
        ratio = of.ratio(of.best_of_ours("alternating"), of.best_of_ours("dense"))
        goals.append(Goal(text="long: alternating ÷ dense, both ours", goal=1.0, measured=ratio))
    goals += _int8_goals(figures)
    for name, goal in (("samples", 3.0), ("prefixes", 2.5)):
        of = _Ratios([figure for figure in figures if figure.workload == name and figure.seconds])
        if of.figures:
            ratio = of.ratio(of.best_of_ours("dense"), of.best(lambda f: f.family == OursUnshared.family))
            goals.append(Goal(text=f"{name}: with cached prefixes over without them", goal=goal, measured=ratio))
    return goals


def _over_best_peer(name: str, of: _Ratios, goal: float) -> Goal:
    ours = of.best_of_ours("dense")
    peer = best_peer(of.figures, WIDTHS[ours.dtype]) if ours is not None else None
    return Goal(text=f"{name}: over the best peer of equal or wider dtype", goal=goal, measured=of.ratio(ours, peer))


def _int8_goals(figures: Sequence[Figure]) -> list[Goal]:
    """Our engine at int8, which a job never has by itself, over itself and over OpenVINO at int8. None without it."""
    goals: list[Goal] = []
    for name, over_wider in (("ragged", 1.3), ("labels", 1.5)):
        of = _Ratios([figure for figure in figures if figure.workload == name and figure.seconds])
        int8 = of.best(lambda f: f.is_ours and f.layers == "dense" and f.dtype == "int8")
        if int8 is None:
            continue
        wider = of.ratio(int8, of.best_of_ours("dense"))
        goals.append(Goal(text=f"{name}, int8: over our wider dtype", goal=over_wider, measured=wider))
        openvino = of.best(lambda f: f.family == OpenVino.family and f.dtype == "int8")
        goals.append(Goal(text=f"{name}, int8: over OpenVINO, int8", goal=1.2, measured=of.ratio(int8, openvino)))
    return goals


def _generation_goals(name: str, of: _Ratios, over_generate: float, over_peer: float) -> list[Goal]:
    ours = of.best_of_ours("dense")
    generate = of.best(lambda f: f.family == "transformers.generate")
    goals = [
        Goal(text=f"{name}: over transformers.generate", goal=over_generate, measured=of.ratio(ours, generate)),
        _over_best_peer(name, of, over_peer),
        Goal(text=f"{name}: share of the limit", goal=0.75, measured=ours.share_of_limit if ours else None),
    ]
    if name == "ragged":
        masked = of.best(lambda f: f.family == "masked, one at a time")
        ratio = of.ratio(of.best_of_ours("alternating"), masked)
        goals.append(Goal(text="ragged, alternating: over masked, one at a time", goal=40.0, measured=ratio))
        trimmed = of.best(lambda f: f.family == OursTrimmed.family and ours is not None and f.dtype == ours.dtype)
        text = "ragged: with the rule of fixed shapes over without it"
        goals.append(Goal(text=text, goal=0.97, measured=of.ratio(ours, trimmed)))
    return goals


def _label_goals(of: _Ratios, allowed: float | None) -> list[Goal]:
    ours = of.best_of_ours("dense")
    forwards = of.ratio(ours, of.best(lambda f: f.family == "a forward per label"))
    trie = of.ratio(ours, of.best(lambda f: f.family == "labels as a trie, prefix recomputed"))
    cached = of.ratio(ours, of.best(lambda f: f.family in _PREFIX_CACHES))
    share = forwards / allowed if forwards and allowed else None
    allowed_text = f"{allowed:.0f}" if allowed else "?"
    return [
        Goal(text="labels: over a forward per label", goal=50.0, measured=forwards),
        Goal(text=f"labels: the same as a share of the {allowed_text}× that is possible", goal=0.6, measured=share),
        Goal(text="labels: over a trie that recomputes the prefix", goal=8.0, measured=trie),
        Goal(text="labels: over transformers with a prefix cache", goal=1.5, measured=cached),
        _over_best_peer("labels", of, 4.0),
    ]


class _Ratios:
    """The best figures of one workload and their ratios."""

    def __init__(self, figures: list[Figure]) -> None:
        self.figures = figures

    def best(self, wanted: Callable[[Figure], bool]) -> Figure | None:
        return min(filter(wanted, self.figures), key=lambda figure: figure.whole_time, default=None)

    def best_of_ours(self, layers: str) -> Figure | None:
        """Return our fastest figure at a dtype that a job may choose by itself, which int8 is not."""
        return self.best(lambda figure: figure.is_ours and figure.layers == layers and figure.dtype != "int8")

    @staticmethod
    def ratio(ours: Figure | None, other: Figure | None) -> float | None:
        return ours.times_as_fast_as(other) if ours and other else None
