"""The masks of a step: which tokens may follow in every completion that has a grammar.

They depend only on tokens that are known when the step is launched, so they are computed by threads of the library
while the forward pass runs.
Legend: R rows, W 32-bit words of a mask (one bit a token).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from llguidance import LLExecutor
from numpy.typing import NDArray

from tirazh.model.constraints.grammar import GrammarState


class PendingMasks:
    """Masks that are being computed."""

    def __init__(self, states: Sequence[GrammarState], masks_RW: NDArray[np.uint32], done: Future[None]) -> None:
        self._states, self._masks_RW, self._done = states, masks_RW, done

    def read(self) -> tuple[NDArray[np.uint32], list[str | None]]:
        """Wait; return uint32 [R, W] and for each row why it has no mask (None: it has one)."""
        self._done.result()
        problems: list[str | None] = [None] * len(self._states)
        for row, state in enumerate(self._states):
            if state.matcher.is_error() and state.recover():
                mask_W = self._masks_RW[row]
                state.matcher.unsafe_compute_mask_ptr(mask_W.ctypes.data, mask_W.nbytes)
            problems[row] = state.error
        has_token_R = self._masks_RW.any(axis=1)
        for row in np.flatnonzero(~has_token_R).tolist():
            problems[row] = problems[row] or "no token may follow"
        return self._masks_RW, problems


class TokenMasks:
    """Computes masks in the background. One call at a time."""

    def __init__(self, num_ids: int, num_threads: int) -> None:
        """`num_ids`: size of the vocabulary that the grammars know."""
        self._num_words = (num_ids + 31) // 32
        self._executor = LLExecutor(num_threads)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="masks")
        self._buffer = np.zeros((0, self._num_words), np.uint32)

    def begin(self, states: Sequence[GrammarState]) -> PendingMasks:
        """Start to compute a mask for each state. The arrays of the last call are overwritten."""
        if len(self._buffer) < len(states):
            self._buffer = np.zeros((len(states), self._num_words), np.uint32)
        masks_RW = self._buffer[: len(states)]
        return PendingMasks(states, masks_RW, self._thread.submit(self._compute, states, masks_RW))

    def _compute(self, states: Sequence[GrammarState], masks_RW: NDArray[np.uint32]) -> None:
        pairs = [(state.matcher, row) for row, state in enumerate(states)]
        self._executor.unsafe_compute_mask_ptr(pairs, masks_RW.ctypes.data, masks_RW.shape[1] * 4, len(masks_RW))
