"""Embeddings: the hidden state of a prompt's last token, or the mean over its tokens.

Legend: N tokens, C channels.
"""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from tirazh.model.requests import Embedding


class Pool:
    """The sum of the hidden states of a prompt's tokens, `num_missing` of which are still to come.

    They are added one by one in float64, in their order, so that the sum does not depend on how a prompt is
    cut into steps.
    """

    def __init__(self, num_tokens: int) -> None:
        self.num_missing = self._num_tokens = num_tokens
        self._sum_C: NDArray[np.float64] | None = None

    def add(self, hidden_NC: NDArray[np.float32]) -> None:
        """Add the hidden states of the prompt's next tokens."""
        rows_NC = hidden_NC.astype(np.float64)
        if self._sum_C is not None:
            rows_NC = np.concatenate([self._sum_C[None], rows_NC])
        self._sum_C = np.add.reduce(rows_NC, axis=0)  # row by row
        self.num_missing -= len(hidden_NC)

    @property
    def is_finite(self) -> bool:
        """Whether all that was added is finite."""
        return self._sum_C is None or bool(np.isfinite(self._sum_C).all())

    def embedding(self) -> Embedding:
        """Return the mean of what was added."""
        assert self._sum_C is not None
        mean_C = (self._sum_C / self._num_tokens).astype(np.float32)
        return Embedding(values=array("f", mean_C.tobytes()))
