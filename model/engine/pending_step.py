"""A step that has been begun: which sequences wait for what comes of it, and their numbers on their way to the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from tirazh.model.engine.sequences import ActiveSequence
from tirazh.model.transfer import PendingCopy

Holders = Sequence[tuple[int, ActiveSequence]]  # slots and the sequences in them when the step began


class PendingStep:
    """Tokens and label scores of one step. Reading them waits for the device to have finished it."""

    def __init__(self) -> None:
        self._tokens: tuple[Holders, PendingCopy] | None = None
        self._scores: tuple[Holders, PendingCopy] | None = None

    def expect_tokens(self, holders: Holders, tokens_R: Tensor) -> None:
        """One new token for each of `holders`: int64 [R]."""
        self._tokens = holders, PendingCopy(tokens_R)

    def expect_scores(self, holders: Holders, terms_RP: Tensor) -> None:
        """For each of `holders` the labels' tokens' log-probabilities: float64 [R, P]."""
        self._scores = holders, PendingCopy(terms_RP)

    def tokens(self) -> Iterator[tuple[int, ActiveSequence, int]]:
        """Slot, sequence and its token."""
        yield from _each(self._tokens)

    def scores(self) -> Iterator[tuple[int, ActiveSequence, list[float]]]:
        """Slot, sequence and its log-probabilities."""
        yield from _each(self._scores)


def _each(expected: tuple[Holders, PendingCopy] | None) -> Iterator[tuple[int, ActiveSequence, Any]]:
    if expected is not None:
        holders, arriving = expected
        for (slot, sequence), value in zip(holders, arriving.read(), strict=True):
            yield slot, sequence, value
