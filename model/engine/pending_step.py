"""Results of a step that the device may still be computing (overlap scheduling).

The copies to the CPU start when the step is launched and are read one step later, while the next
step runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from tirazh.model.engine.sequences import ActiveSequence
from tirazh.model.transfer import PendingCopy

Owners = Sequence[tuple[int, ActiveSequence]]  # slots, and the sequences that held them when the step was launched


class PendingStep:
    """Sampled tokens and label scores of one step. Reading them waits until the device has finished
    the step."""

    def __init__(self) -> None:
        self._tokens: tuple[Owners, PendingCopy] | None = None
        self._scores: tuple[Owners, PendingCopy] | None = None

    def expect_tokens(self, owners: Owners, tokens_R: Tensor) -> None:
        """Start to copy one sampled token for each owner: int64 [R]."""
        self._tokens = owners, PendingCopy(tokens_R)

    def expect_scores(self, owners: Owners, terms_RP: Tensor) -> None:
        """Start to copy the log-probabilities of the labels' tokens for each owner: float64 [R, P]."""
        self._scores = owners, PendingCopy(terms_RP)

    def sequences(self) -> Iterator[ActiveSequence]:
        """Yield the sequences for which there is a token or scores."""
        for expected in (self._tokens, self._scores):
            if expected is not None:
                yield from (sequence for _, sequence in expected[0])

    def tokens(self) -> Iterator[tuple[int, ActiveSequence, int]]:
        """Yield slot, sequence and its token."""
        yield from _each(self._tokens)

    def scores(self) -> Iterator[tuple[int, ActiveSequence, list[float]]]:
        """Yield slot, sequence and the log-probabilities of its label tokens."""
        yield from _each(self._scores)


def _each(expected: tuple[Owners, PendingCopy] | None) -> Iterator[tuple[int, ActiveSequence, Any]]:
    if expected is not None:
        owners, copy = expected
        for (slot, sequence), value in zip(owners, copy.read(), strict=True):
            yield slot, sequence, value
