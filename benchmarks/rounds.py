"""Run the peers on a workload: choose each one's setting on a sample, then time all of them in interleaved rounds.

The machine's ceiling is measured before and after every turn.
"""

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

# Tokens (prompt and new) in the sample that a setting is chosen on; rows of `long` are ten times as long as others.
_PROBE_TOKENS = 4096

log = logging.getLogger("benchmarks")


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How much time a run may take.

    There are `repeat` rounds. A peer that would take longer than `seconds` in a round runs on a sample that fits, or
    on `samples` rows if that is given; our engine at its main dtype always runs all rows. With `is_quick` a peer's
    first setting is used without a comparison.
    """

    repeat: int = 3
    seconds: float = 12.0
    samples: int | None = None
    is_quick: bool = False


@dataclass(kw_only=True, slots=True)
class Turn:
    """A peer's turns on a workload: its setting and rows, and for every round its seconds and the machine's ceiling."""

    peer: Peer
    whole: Workload
    workload: Workload
    setting: Setting
    speed: float = 0.0  # on the sample: minimum work of its rows per second
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
    """Run every peer on the workload `patience.repeat` times.

    A peer that fails is reported and does not end the run. A peer with several dtypes is timed at the one that was
    fastest on a sample. `measure` returns the current ceiling of a dtype.
    """
    turns: list[Turn] = []
    for peer in peers:
        turns.append(_prepare(peer, workload, under_test, patience, known=_setting_of_family(peer, turns)))
    turns = _at_their_best(turns)
    after: Ceiling | None = None  # measured after the previous turn
    for number in range(patience.repeat):
        # Every other round runs backwards, so that a drift of the machine favours no position.
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
    """Return the best setting of the same peer at another dtype, if it is known."""
    known = [t.setting for t in turns if t.peer.family == peer.family and t.peer.mode == peer.mode and not t.failure]
    return known[0] if known else None


def _at_their_best(turns: Sequence[Turn]) -> list[Turn]:
    """Keep one turn of each peer for every width of ours: the fastest dtype that is at least as wide.

    All of ours are kept, and so are peers narrower than all of ours, which are shown for information.
    """
    widths = {WIDTHS[t.peer.dtype] for t in turns if isinstance(t.peer, Ours)} or {0}
    kept: list[Turn] = []
    for turn in turns:
        family = [t for t in turns if (t.peer.family, t.peer.mode) == (turn.peer.family, turn.peer.mode)]
        is_best = any(
            turn is max((t for t in family if WIDTHS[t.peer.dtype] >= width), key=lambda t: t.speed, default=None)
            for width in widths
        )
        if isinstance(turn.peer, Ours) or is_best or WIDTHS[turn.peer.dtype] < min(widths):
            kept.append(turn)
        else:
            log.info("%s, %s: slower than at another dtype, not measured", turn.whole.name, turn.peer.name)
    return kept


def _prepare(
    peer: Peer, workload: Workload, under_test: ModelUnderTest, patience: Patience, *, known: Setting | None
) -> Turn:
    """Choose the setting that does most work per second on a sample."""
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
    """Return the rows of the sample that the setting is chosen on: the peer's own number, or fewer if rows are long."""
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
    """Return the seconds, or None after recording the failure. Only a failure of our own engine is raised."""
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
