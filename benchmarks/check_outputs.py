"""Check before timing that all engines give the same answers in float32, or explain the difference.

Greedy tokens are compared one by one. Engines add in different orders, so either token is right where the two best
logits of a step are closer than rounding. Such a row counts as equal up to that step and is reported as a near tie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.model_under_test import Mode, ModelUnderTest
from benchmarks.peers import REFERENCES, Peer
from benchmarks.peers.peer import Outcome, take_turn
from benchmarks.workloads import Tokens, Workload

NEAR_TIE = 1e-3  # in logits, whose spread is about 1
SCORE_TOLERANCE = 1e-3  # nats, over all tokens of a label


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One peer against its reference. `is_good` is None where equality is not expected (narrower dtypes)."""

    workload: str
    peer: str
    reference: str
    num_rows: int
    num_equal: int
    is_good: bool | None
    remark: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_outputs(peers: Sequence[Peer], workload: Workload, under_test: ModelUnderTest) -> list[Check]:
    """Compare every peer's answers on `workload` with the float32 reference for the same layers."""
    answers: dict[str, Outcome] = {}
    checks = []
    for peer in peers:
        reference = REFERENCES[workload.kind, peer.mode]("float32", device=under_test.device)
        if reference.name not in answers:
            answers[reference.name] = _answer(reference, workload, under_test)
        if peer.name == reference.name:
            continue
        outcome = _answer(peer, workload, under_test)
        compare = _compare_scores if workload.kind == "labels" else _compare_tokens
        checks.append(compare(peer, reference, outcome, answers[reference.name], workload, under_test))
    return checks


def _answer(peer: Peer, workload: Workload, under_test: ModelUnderTest) -> Outcome:
    return take_turn(peer, under_test, workload, peer.settings(workload)[0])


def _compare_tokens(
    peer: Peer, reference: Peer, got: Outcome, want: Outcome, workload: Workload, under_test: ModelUnderTest
) -> Check:
    different = [row for row, tokens in enumerate(want.tokens) if got.tokens[row] != tokens]
    ties = []
    if peer.dtype == "float32" and different:
        gaps = [_gap(workload.rows[r].prompt, got.tokens[r], want.tokens[r], peer.mode, under_test) for r in different]
        ties = [gap for gap in gaps if gap <= NEAR_TIE]
    remark = f"{len(ties)} rows diverge at a near tie (logits differ by at most {max(ties):.1e})" if ties else ""
    if peer.dtype != "float32":
        remark = f"{_share_before_difference(got, want):.0%} of tokens come before the first difference"
    return Check(
        workload=workload.name,
        peer=peer.name,
        reference=reference.name,
        num_rows=len(workload.rows),
        num_equal=len(workload.rows) - len(different),
        is_good=len(ties) == len(different) if peer.dtype == "float32" else None,
        remark=remark,
    )


def _share_before_difference(got: Outcome, want: Outcome) -> float:
    pairs = [list(zip(g, w, strict=False)) for g, w in zip(got.tokens, want.tokens, strict=True)]
    same = sum(next((i for i, (a, b) in enumerate(pair) if a != b), len(pair)) for pair in pairs)
    return same / sum(map(len, want.tokens))


def _compare_scores(
    peer: Peer, reference: Peer, got: Outcome, want: Outcome, workload: Workload, under_test: ModelUnderTest
) -> Check:
    gaps = [max(abs(a - b) for a, b in zip(g, w, strict=True)) for g, w in zip(got.scores, want.scores, strict=True)]
    best = [max(range(len(s)), key=s.__getitem__) for s in want.scores]
    same_best = sum(max(range(len(s)), key=s.__getitem__) == b for s, b in zip(got.scores, best, strict=True))
    return Check(
        workload=workload.name,
        peer=peer.name,
        reference=reference.name,
        num_rows=len(workload.rows),
        num_equal=same_best,
        is_good=max(gaps) <= SCORE_TOLERANCE if peer.dtype == "float32" else None,
        remark=f"log-likelihoods differ by at most {max(gaps):.1e}",
    )


@torch.inference_mode()
def _gap(prompt: Tokens, got: Tokens, want: Tokens, mode: Mode, under_test: ModelUnderTest) -> float:
    """Return how far apart the two tokens' logits are where the completions diverge; infinite if the lengths differ."""
    if len(got) != len(want):
        return float("inf")
    at = next(i for i, (a, b) in enumerate(zip(got, want, strict=True)) if a != b)
    model = under_test.ours(mode, "float32")
    ids = torch.tensor([[*prompt, *want[:at]]], device=under_test.device)
    logits_V = model(ids, logits_to_keep=1).logits[0, -1]
    return abs(float(logits_V[got[at]] - logits_V[want[at]]))
