"""Peers take turns on a workload: settle each one's setting on a sample, then interleaved rounds of the real thing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.model_under_test import ModelUnderTest
from benchmarks.peers.ours import Ours
from benchmarks.peers.peer import Outcome, Peer, Setting
from benchmarks.workloads import Workload

log = logging.getLogger("benchmarks")


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """`repeat` rounds. A peer that would take longer than `seconds` a round runs on a sample that fits, or on
    `samples` rows where that is given. Ours always runs everything. `is_quick`: a peer's first setting is taken."""

    repeat: int = 3
    seconds: float = 90.0
    samples: int | None = None
    is_quick: bool = False


@dataclass(kw_only=True, slots=True)
class Turn:
    """A peer's turns on a workload: how it runs, on which rows of it, and the seconds of every round."""

    peer: Peer
    whole: Workload
    workload: Workload
    setting: Setting
    seconds: list[float] = field(default_factory=list)
    failure: str | None = None


def run_rounds(peers: Sequence[Peer], workload: Workload, under_test: ModelUnderTest, patience: Patience) -> list[Turn]:
    """Every peer on the workload, `patience.repeat` times. A peer that fails is reported, not fatal."""
    turns = [_prepare(peer, workload, under_test, patience) for peer in peers]
    for number in range(patience.repeat):
        # Every other round backwards: who comes early or late gains nothing from a drifting machine.
        for turn in turns if number % 2 == 0 else reversed(turns):
            if turn.failure is None:
                seconds = _guarded(turn, lambda turn=turn: _run(turn, turn.workload, turn.setting, under_test).seconds)
                turn.seconds += [] if seconds is None else [seconds]
                log.info("%s, round %d, %s: %s", workload.name, number + 1, turn.peer.name, _shown(turn))
    return turns


def _prepare(peer: Peer, workload: Workload, under_test: ModelUnderTest, patience: Patience) -> Turn:
    settings = peer.settings(workload)
    if patience.is_quick:
        settings = settings[:1]
    turn = Turn(peer=peer, whole=workload, workload=workload, setting=settings[0])
    probe = workload.sample(peer.probe_rows)
    taken = []
    for setting in settings:
        seconds = _guarded(turn, lambda setting=setting: _run(turn, probe, setting, under_test).seconds)
        if seconds is None:
            return turn
        log.info("%s, %s, %s: %.1f s for %d rows", workload.name, peer.name, dict(setting), seconds, len(probe.rows))
        taken.append(seconds)
    turn.setting = settings[taken.index(min(taken))]
    turn.workload = workload.sample(_affordable_rows(turn, len(probe.rows), min(taken), patience))
    return turn


def _affordable_rows(turn: Turn, probe_rows: int, probe_seconds: float, patience: Patience) -> int:
    num_rows = len(turn.whole.rows)
    if isinstance(turn.peer, Ours):
        return num_rows
    fit = int(probe_rows * patience.seconds / max(probe_seconds, 1e-9))
    if fit >= num_rows:
        return num_rows
    return max(1, min(num_rows, patience.samples or max(fit, min(probe_rows, num_rows))))


def _run(turn: Turn, workload: Workload, setting: Setting, under_test: ModelUnderTest) -> Outcome:
    turn.peer.open(under_test, workload)
    try:
        return turn.peer.run(workload, setting)
    finally:
        turn.peer.close()


def _guarded(turn: Turn, work: Callable[[], float]) -> float | None:
    """The seconds, or None with the failure written down: other people's engines fail in their own ways."""
    try:
        return work()
    except Exception as error:
        if isinstance(turn.peer, Ours):
            raise
        turn.failure = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        log.warning("%s, %s failed: %s", turn.whole.name, turn.peer.name, turn.failure)
        return None


def _shown(turn: Turn) -> str:
    if turn.failure:
        return turn.failure
    return f"{turn.seconds[-1]:.1f} s for {len(turn.workload.rows)} of {len(turn.whole.rows)} rows"
