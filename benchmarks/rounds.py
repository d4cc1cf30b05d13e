"""Peers take turns on a workload: settle each one's setting on a sample, then interleaved rounds of the real thing, the
machine measured before and after every turn."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.ceilings import Ceiling, mean_of
from benchmarks.limits import work_of_rows
from benchmarks.model_under_test import WIDTHS, ModelUnderTest
from benchmarks.peers.ours import Ours
from benchmarks.peers.peer import Peer, Setting, take_turn
from benchmarks.workloads import Workload

# Tokens (prompts and new ones) of the sample that settles a setting: rows of `long` are ten times those of others.
_PROBE_TOKENS = 4096

log = logging.getLogger("benchmarks")


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """`repeat` rounds. Who would take longer than `seconds` a round runs on a sample that fits, or on `samples` rows
    where that is given, but for those that run everything (ours, where a goal is about it). `is_quick`: a peer's
    first setting is taken."""

    repeat: int = 3
    seconds: float = 12.0
    samples: int | None = None
    is_quick: bool = False


@dataclass(kw_only=True, slots=True)
class Turn:
    """A peer's turns on a workload: how it runs, on which rows of it, and of every round its seconds and what the
    machine could do around it."""

    peer: Peer
    whole: Workload
    workload: Workload
    setting: Setting
    speed: float = 0.0  # on the sample: the rows' own work done in a second
    seconds: list[float] = field(default_factory=list)
    ceilings: list[Ceiling] = field(default_factory=list)
    failure: str | None = None


def run_rounds(
    peers: Sequence[Peer],
    workload: Workload,
    under_test: ModelUnderTest,
    patience: Patience,
    measure: Callable[[str], Ceiling],
) -> list[Turn]:
    """Every peer on the workload, `patience.repeat` times. A peer that fails is reported, not fatal; one that comes in
    several dtypes is measured in the one that was fastest on a sample. `measure` gives the ceiling for a dtype."""
    turns: list[Turn] = []
    for peer in peers:
        turns.append(_prepare(peer, workload, under_test, patience, known=_setting_of_family(peer, turns)))
    turns = _at_their_best(turns)
    after: Ceiling | None = None  # of the turn before
    for number in range(patience.repeat):
        # Every other round backwards: who comes early or late gains nothing from a drifting machine.
        for turn in turns if number % 2 == 0 else reversed(turns):
            if turn.failure is None:
                before = after if after is not None and after.dtype == turn.peer.dtype else measure(turn.peer.dtype)
                seconds = _guarded(turn, partial(_seconds, turn, turn.workload, turn.setting, under_test))
                after = measure(turn.peer.dtype)
                if seconds is not None:
                    turn.seconds.append(seconds)
                    turn.ceilings.append(mean_of([before, after]))
                log.info("%s, round %d, %s: %s", workload.name, number + 1, turn.peer.name, _shown(turn))
    return turns


def _setting_of_family(peer: Peer, turns: Sequence[Turn]) -> Setting | None:
    """What was best for the same peer at another dtype."""
    known = [t.setting for t in turns if t.peer.family == peer.family and t.peer.mode == peer.mode and not t.failure]
    return known[0] if known else None


def _at_their_best(turns: Sequence[Turn]) -> list[Turn]:
    """One turn for each peer, at its fastest dtype. Ours stay all; so does who is narrower than all of ours, and is
    there for information."""
    narrowest = min((WIDTHS[t.peer.dtype] for t in turns if isinstance(t.peer, Ours)), default=0)
    kept: list[Turn] = []
    for turn in turns:
        rivals = [
            t
            for t in turns
            if (t.peer.family, t.peer.mode) == (turn.peer.family, turn.peer.mode) and WIDTHS[t.peer.dtype] >= narrowest
        ]
        if isinstance(turn.peer, Ours) or turn not in rivals or turn is max(rivals, key=lambda t: t.speed):
            kept.append(turn)
        else:
            log.info("%s, %s: slower than at another dtype, not measured", turn.whole.name, turn.peer.name)
    return kept


def _prepare(
    peer: Peer, workload: Workload, under_test: ModelUnderTest, patience: Patience, *, known: Setting | None
) -> Turn:
    """Settle the setting on a sample: the one that gets most of the sample's own work done in a second."""
    settings = [known] if known is not None else peer.settings(workload)
    if patience.is_quick:
        settings = settings[:1]
    turn = Turn(peer=peer, whole=workload, workload=workload, setting=settings[0])
    speeds = []
    for setting in settings:
        probe = peer.sample(workload, probe_rows(peer, workload), setting)
        seconds = _guarded(turn, partial(_seconds, turn, probe, setting, under_test))
        if seconds is None:
            return turn
        log.info("%s, %s, %s: %.1f s for %d rows", workload.name, peer.name, dict(setting), seconds, len(probe.rows))
        speeds.append(work_of_rows(probe, under_test.shape, peer.mode) / max(seconds, 1e-9))
    fastest = max(range(len(settings)), key=speeds.__getitem__)
    turn.setting, turn.speed = settings[fastest], speeds[fastest]
    turn.workload = _affordable(turn, speeds[fastest], under_test, patience)
    return turn


def probe_rows(peer: Peer, workload: Workload) -> int:
    """Rows of the sample that settles the peer's setting: its own number, or as many as are cheap."""
    if workload.kind == "labels":
        return peer.probe_rows
    tokens = sum(len(row.prompt) + row.num_new for row in workload.rows)
    return max(1, min(peer.probe_rows, _PROBE_TOKENS * len(workload.rows) // tokens))


def _affordable(turn: Turn, speed: float, under_test: ModelUnderTest, patience: Patience) -> Workload:
    whole = turn.whole
    share = patience.seconds * speed / work_of_rows(whole, under_test.shape, turn.peer.mode)
    if turn.peer.runs_everything(whole) or share >= 1:
        return whole
    return turn.peer.sample(whole, max(1, patience.samples or int(share * len(whole.rows))), turn.setting)


def _seconds(turn: Turn, workload: Workload, setting: Setting, under_test: ModelUnderTest) -> float:
    return take_turn(turn.peer, under_test, workload, setting).seconds


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
