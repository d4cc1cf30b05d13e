"""A fitted linear head: turns hidden states into log-probabilities of labels, with NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tirazh.model.requests import Pooling

# Behind the end of the prompt ("Тема:") the last token's state is the one from which the model predicts the label.
# In cross-validation on training splits it was better than the mean on two of three news sets (lenta, AG News), and
# slightly worse on the third (RIA).
HEAD_POOLING: Pooling = "last"
# Rows that are computed at once, which bounds the memory.
_CHUNK_ROWS = 1_024


@dataclass(frozen=True, slots=True, eq=False)
class LinearHead:
    """A multinomial logistic regression of L labels on C channels.

    `weights_LC` is float64 [L, C], `bias_L` float64 [L]; both are for hidden states as the engine returns them (the
    standardisation is part of them). `facts` are the figures of its fit for the manifest (`fit.py`).
    """

    labels: tuple[str, ...]
    weights_LC: NDArray[np.float64]
    bias_L: NDArray[np.float64]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def log_probabilities(self, states_NC: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return the natural logarithms of the labels' probabilities, float64 [N, L], of states [N, C].

        A row has the same bits whatever other rows are beside it: a matrix product of a library would round by the
        number of rows, so that another size of the parts gave other results.
        """
        logits_NL = np.empty((len(states_NC), len(self.labels)))
        for start in range(0, len(states_NC), _CHUNK_ROWS):
            rows_NC = states_NC[start : start + _CHUNK_ROWS].astype(np.float64)
            for index, weights_C in enumerate(self.weights_LC):
                logits_NL[start : start + _CHUNK_ROWS, index] = (rows_NC * weights_C).sum(axis=1) + self.bias_L[index]
        shifted_NL = logits_NL - logits_NL.max(axis=1, keepdims=True)
        return np.asarray(shifted_NL - np.log(np.exp(shifted_NL).sum(axis=1, keepdims=True)))
