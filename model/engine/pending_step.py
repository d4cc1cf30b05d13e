"""Results of a step that the device may still be computing (overlap scheduling).

The copies to the CPU start when the step is launched and are read one step later, while the next
step runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tirazh.model.engine.sequences import ActiveSequence
from tirazh.model.transfer import PendingCopy

Owners = Sequence[tuple[int, ActiveSequence]]  # slots, and the sequences that held them when the step was launched


class PendingStep:
    """Sampled tokens, label scores and hidden states of one step. Reading them waits until the device has finished
    the step."""

    def __init__(self) -> None:
        self._tokens: tuple[Owners, PendingCopy] | None = None
        self._logprobs: PendingCopy | None = None
        self._texts: tuple[Owners, Sequence[int], PendingCopy] | None = None
        self._scores: list[tuple[Owners, int, PendingCopy]] = []
        self._hidden: tuple[Owners, Sequence[slice], PendingCopy] | None = None

    def expect_tokens(self, owners: Owners, tokens_R: Tensor, logprobs_R: Tensor) -> None:
        """Start to copy one sampled token and its log-probability for each owner: int64 and float64 [R]."""
        self._tokens, self._logprobs = (owners, PendingCopy(tokens_R)), PendingCopy(logprobs_R)

    def expect_texts(self, owners: Owners, counts: Sequence[int], logprobs_R: Tensor) -> None:
        """Start to copy the log-probabilities of `counts[i]` tokens for owner i, one owner's behind
        another's: float64 [R]."""
        self._texts = owners, counts, PendingCopy(logprobs_R)

    def expect_scores(self, owners: Owners, piece: int, terms_RP: Tensor) -> None:
        """Start to copy the log-probabilities of the labels' tokens in one piece of their trie for each owner:
        float64 [R, P]. May be called once for each piece."""
        self._scores.append((owners, piece, PendingCopy(terms_RP)))

    def expect_hidden(self, owners: Owners, rows: Sequence[slice], hidden_RC: Tensor) -> None:
        """Start to copy hidden states, of which `rows[i]` are for owner i: float32 [R, C]."""
        self._hidden = owners, rows, PendingCopy(hidden_RC)

    def sequences(self) -> Iterator[ActiveSequence]:
        """Yield the sequences for which there is a token, scores or hidden states."""
        for expected in (self._tokens, *self._scores, self._texts, self._hidden):
            if expected is not None:
                yield from (sequence for _, sequence in expected[0])

    def tokens(self) -> Iterator[tuple[int, ActiveSequence, int, float]]:
        """Yield slot, sequence, its token and the token's log-probability."""
        if self._tokens is not None and self._logprobs is not None:
            for (slot, sequence, token), logprob in zip(_each(self._tokens), self._logprobs.read(), strict=True):
                yield slot, sequence, token, logprob

    def texts(self) -> Iterator[tuple[int, ActiveSequence, list[float]]]:
        """Yield slot, sequence and the log-probabilities of its text's next tokens."""
        if self._texts is not None:
            owners, counts, copy = self._texts
            logprobs = iter(copy.read())
            for (slot, sequence), count in zip(owners, counts, strict=True):
                yield slot, sequence, list(itertools.islice(logprobs, count))

    def hidden(self) -> Iterator[tuple[int, ActiveSequence, NDArray[np.float32]]]:
        """Yield slot, sequence and the hidden states of its next tokens, float32 [tokens, C]."""
        if self._hidden is not None:
            owners, rows, copy = self._hidden
            hidden_RC = copy.read_array()
            for (slot, sequence), part in zip(owners, rows, strict=True):
                yield slot, sequence, hidden_RC[part]

    def scores(self) -> Iterator[tuple[int, ActiveSequence, int, list[float]]]:
        """Yield slot, sequence, the piece of its labels' trie, and the log-probabilities of the piece's tokens."""
        for owners, piece, copy in self._scores:
            for slot, sequence, terms in _each((owners, copy)):
                yield slot, sequence, piece, terms


def _each(expected: tuple[Owners, PendingCopy] | None) -> Iterator[tuple[int, ActiveSequence, Any]]:
    if expected is not None:
        owners, copy = expected
        for (slot, sequence), value in zip(owners, copy.read(), strict=True):
            yield slot, sequence, value
